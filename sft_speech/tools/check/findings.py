"""Findings, and the report of all findings as JSON or as a table for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from sft_speech.pages.markup import invisible
from sft_speech.text.counted import counted

# Version of the JSON: within a version, keys may be added, but never removed or redefined.
SCHEMA_VERSION = 1
CASES_SHOWN = 5  # of a finding in the table; the JSON has them all

Severity = Literal["problem", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("problem", "warning", "note")


class Case(NamedTuple):
    """An utterance that a finding is about.

    Args:
        split, id: the utterance.
        detail: what is unusual about it.
        row: its number in :class:`~sft_speech.tools.check.rows.Rows`; None if it could not be loaded.
    """

    split: str
    id: str
    detail: str = ""
    row: int | None = None


@dataclass
class Finding:
    """One thing that is unusual about a corpus.

    Args:
        key: its name in the JSON; it never changes.
        severity: "problem": a model trained or evaluated on this will be wrong; "warning": likely a mistake; "note":
            good to know.
        title: what was found, with its count.
        rule: how it was found, with the thresholds.
        do: what to do about it.
        cases: the utterances, worst first; empty if the finding is about the whole corpus.
        listen: whether listening helps; the page then has players for the cases.
    """

    key: str
    severity: Severity
    title: str
    rule: str
    do: str
    cases: list[Case] = field(default_factory=list)
    listen: bool = False


def finding(
    key: str,
    severity: Severity,
    cases: list[Case],
    noun: str,
    what: str,
    rule: str,
    do: str,
    *,
    listen: bool = False,
    count: int | None = None,
) -> list[Finding]:
    """Return a finding about the cases, or nothing if there are none.

    Args:
        noun, what: "recording" and "clipped" give the title "3 recordings clipped".
        count: number in the title, if it is not the number of cases.
    """
    if not cases:
        return []
    title = f"{counted(len(cases) if count is None else count, noun)} {what}"
    return [Finding(key, severity, title, rule, do, cases, listen)]


@dataclass
class Report:
    """All results of a check.

    Args:
        source: the corpus, as in the arguments.
        splits: by name: role ("train" or "evaluation"), utterances, hours, kept, kept_hours, speakers.
        sections: figures by topic, see :meth:`to_dict`.
        training: :meth:`CorpusReport.to_dict() <sft_speech.corpora.CorpusReport.to_dict>`: kept and dropped rows.
        findings: worst first after :meth:`sort`.
    """

    source: str
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def sort(self) -> None:
        """Sort the findings by severity, then by their number of cases."""
        self.findings.sort(key=lambda found: (SEVERITIES.index(found.severity), -len(found.cases)))

    def count(self, severity: Severity) -> int:
        return sum(found.severity == severity for found in self.findings)

    def verdict(self) -> str:
        """Return the counts of the findings in one line."""
        counts = [(self.count(severity), severity) for severity in SEVERITIES]
        return ", ".join(counted(count, severity) for count, severity in counts if count) or "nothing unusual was found"

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the JSON. Times are in seconds, levels in dB of full scale, shares from 0 to 1.

        ``version``, ``source``, ``verdict`` ({problem, warning, note}: counts), ``splits`` (see :class:`Report`),
        ``durations``, ``speakers``, ``audio`` (decoded recordings; absent if there are none), ``text``, ``rules``
        (for dropping rows), ``model`` (absent without one), ``training`` (as in corpus_report.json), ``findings``
        (a list of {key, severity, title, rule, do, cases}; a case is {split, id, detail}). ``said`` in a section is a
        summary as text.
        """
        return {
            "version": SCHEMA_VERSION,
            "source": self.source,
            "verdict": {severity: self.count(severity) for severity in SEVERITIES},
            "splits": self.splits,
            **self.sections,
            "training": self.training,
            "findings": [
                {name: getattr(found, name) for name in ("key", "severity", "title", "rule", "do")}
                | {"cases": [{"split": case.split, "id": case.id, "detail": case.detail} for case in found.cases]}
                for found in self.findings
            ],
        }

    def table(self) -> str:
        """Return the report for a terminal, with control characters escaped."""
        lines = [*self._splits(), "", *self._figures()]
        for found in self.findings:
            lines += ["", f"{found.severity.upper()}  {found.title}", f"  rule: {found.rule}", f"  do:   {found.do}"]
            for case in found.cases[:CASES_SHOWN]:
                lines.append(f"    {case.split}  {case.id}" + (f"  {case.detail}" if case.detail else ""))
            if len(found.cases) > CASES_SHOWN:
                lines.append(f"    and {len(found.cases) - CASES_SHOWN:,} more")
        lines += ["", f"{self.source}: {self.verdict()}"]
        return "\n".join(map(plain, lines))

    def _splits(self) -> list[str]:
        lines = [
            f"{'split':<28} {'role':<10} {'utterances':>10} {'hours':>8} {'speakers':>8} {'usable':>10} {'hours':>8}"
        ]
        for name, split in self.splits.items():
            lines.append(
                f"{name:<28} {split['role']:<10} {split['utterances']:>10,} {split['hours']:>8.2f} "
                f"{split['speakers'] or '?':>8} {split['kept']:>10,} {split['kept_hours']:>8.2f}"
            )
        return lines

    def _figures(self) -> list[str]:
        """Return one line or a few for each topic."""
        lines = []
        if durations := self.sections.get("durations"):
            lines.append("seconds     " + _quantiles(durations, ".2f"))
        if (speakers := self.sections.get("speakers")) and speakers["count"]:
            name, share = speakers["largest"]
            lines.append(f"speakers    {speakers['count']:,}; {share:.1%} of the hours by {name}")
        if audio := self.sections.get("audio"):
            lines.append(f"decoded     {audio['said']}")
            lines.append("level dB    " + _quantiles(audio["level"], ".0f"))
            lines.append(
                f"silence     {audio['silence_share']:.1%} of the time is 40 dB below the loudest part of its clip;"
                f" {audio['clipped_share']:.4%} of the samples are clipped"
            )
        if text := self.sections.get("text"):
            lines.append(
                f"text        {counted(text['words'], 'word')}, {text['distinct_words']:,} of them distinct; "
                f"{text['characters']:,} characters, {text['distinct_characters']:,} distinct"
            )
            lines.append("characters  " + listed(text["character_counts"], 60))
            if text["missing_characters"]:
                missing = listed(text["missing_characters"], 20)
                lines.append(f"missing     in the vocabulary, so removed from the transcripts: {missing}")
        lines += [f"{name:12}{section['said']}" for name in ("rules", "model") if (section := self.sections.get(name))]
        return lines


def _quantiles(values: dict[str, float], form: str) -> str:
    names = {"min": "min", "q05": "5 %", "median": "median", "q95": "95 %", "max": "max"}
    return ", ".join(f"{shown} {values[name]:{form}}" for name, shown in names.items() if values[name] is not None)


def plain(text: str) -> str:
    """Return a text for a terminal, with invisible characters as their code points."""
    return "".join(f"<U+{ord(character):04X}>" if invisible(character) else character for character in text)


def listed(counts: Mapping[str, int], most: int) -> str:
    """Return characters with their counts: ``space (9), e (7) and 3 more``."""
    shown = [f"{'space' if c == ' ' else c} ({n:,})" for c, n in list(counts.items())[:most]]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def as_dict(counter: Counter[str]) -> dict[str, int]:
    """Return the counts, most frequent first."""
    return dict(counter.most_common())
