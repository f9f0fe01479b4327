"""What was found, and the report that it makes: as data, and as a table."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

SCHEMA_VERSION = 1  # of the JSON; keys may be added to a version, never taken away or given another meaning
CASES_SHOWN = 5  # of a finding, in the table; the JSON has them all

Severity = Literal["problem", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("problem", "warning", "note")


class Case(NamedTuple):
    """An utterance that a finding is about.

    Args:
        split, id: of it.
        detail: what is special about it.
        row: its number in the :class:`~sft_speech.tools.check.rows.Rows`; None for what isn't among them.
    """

    split: str
    id: str
    detail: str = ""
    row: int | None = None


@dataclass
class Finding:
    """One thing that is odd about a corpus.

    Args:
        key: its name in the JSON; never changes.
        severity: "problem": a model trained or judged on this will be wrong; "warning": likely a mistake; "note": good
            to know.
        title: what was found, with its number.
        rule: by which it was found, with the thresholds.
        do: what to do about it.
        cases: the utterances, worst first; none where it is about the corpus as a whole.
        heard: whether one finds out more by listening to the cases.
    """

    key: str
    severity: Severity
    title: str
    rule: str
    do: str
    cases: list[Case] = field(default_factory=list)
    heard: bool = False


@dataclass
class Report:
    """Everything that is known of a corpus.

    Args:
        source: as it was given.
        splits: by name: role ("train" or "evaluation"), utterances, hours, kept, kept_hours, speakers.
        sections: figures by topic, see :meth:`to_dict`.
        training: :meth:`CorpusReport.to_dict() <sft_speech.corpora.CorpusReport.to_dict>`: kept and dropped rows.
        findings: worst first once :meth:`sort` was called.
    """

    source: str
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def sort(self) -> None:
        """Worst findings first; within a severity those with the most cases."""
        self.findings.sort(key=lambda found: (SEVERITIES.index(found.severity), -len(found.cases)))

    def count(self, severity: Severity) -> int:
        return sum(found.severity == severity for found in self.findings)

    def verdict(self) -> str:
        """The findings counted, in one line."""
        counts = [(self.count(severity), severity) for severity in SEVERITIES]
        said = [f"{count} {severity}{'s' if count > 1 else ''}" for count, severity in counts if count]
        return ", ".join(said) if said else "nothing odd was found"

    def to_dict(self) -> dict[str, Any]:
        """The JSON. Times are in seconds, levels in dB of full scale, shares from 0 to 1.

        ``version``, ``source``, ``verdict`` ({problem, warning, note}: counts), ``splits`` (see :class:`Report`),
        ``durations``, ``speakers``, ``audio`` (of what was decoded; absent if nothing was), ``text``, ``rules`` (by
        which rows are dropped), ``model`` (absent without one), ``training`` (as in corpus_report.json), ``findings``
        (a list of {key, severity, title, rule, do, cases}; a case is {split, id, detail}).
        """
        return {
            "version": SCHEMA_VERSION,
            "source": self.source,
            "verdict": {severity: self.count(severity) for severity in SEVERITIES},
            "splits": self.splits,
            **self.sections,
            "training": self.training,
            "findings": [
                {
                    "key": found.key,
                    "severity": found.severity,
                    "title": found.title,
                    "rule": found.rule,
                    "do": found.do,
                    "cases": [{"split": case.split, "id": case.id, "detail": case.detail} for case in found.cases],
                }
                for found in self.findings
            ],
        }

    def table(self) -> str:
        """All of it for a terminal; what transcripts and names hold can't steer it."""
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
        """One line for each topic."""
        lines = []
        if durations := self.sections.get("durations"):
            lines.append("seconds     " + _quantiles(durations, ".2f"))
        if (speakers := self.sections.get("speakers")) and speakers["count"]:
            name, share = speakers["largest"]
            lines.append(f"speakers    {speakers['count']:,}; {100 * share:.2g} % of the hours by {name}")
        if audio := self.sections.get("audio"):
            lines.append(f"decoded     {audio['said']}")
            lines.append("level dB    " + _quantiles(audio["level"], ".0f"))
            lines.append(
                f"silence     {audio['silence_share']:.1%} of the time is 40 dB below its clip's loudest;"
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
                lines.append(f"missing     in the vocabulary, so left out of the transcripts: {missing}")
        if rules := self.sections.get("rules"):
            lines.append(f"rules       {rules['said']}")
        if model := self.sections.get("model"):
            lines.append(f"model       {model['said']}")
        return lines


def _quantiles(values: dict[str, float], form: str) -> str:
    names = {"min": "least", "q05": "5 %", "median": "median", "q95": "95 %", "max": "most"}
    return ", ".join(f"{shown} {values[name]:{form}}" for name, shown in names.items() if values[name] is not None)


def odd(character: str) -> bool:
    """Whether a character can't be seen, or changes how others are: controls, bidi marks, halves of a pair."""
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def plain(text: str) -> str:
    """A text for a terminal: what can't be seen, or would steer it, as a number."""
    return "".join(f"<U+{ord(character):04X}>" if odd(character) else character for character in text)


def counted(number: int, one: str, many: str | None = None) -> str:
    """``1 clip``, ``1,234 clips``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def listed(counts: Mapping[str, int], most: int) -> str:
    """Characters with their counts: ``space (9), e (7)``, and how many more there are."""
    shown = [f"{'space' if c == ' ' else c} ({n:,})" for c, n in list(counts.items())[:most]]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def as_dict(counter: Counter[str]) -> dict[str, int]:
    """Most frequent first."""
    return dict(counter.most_common())
