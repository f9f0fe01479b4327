"""The report as one self-contained HTML page: no scripts, no network access, embedded figures and audio."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sft_speech.pages import pictures
from sft_speech.pages.markup import cards, differences, document, shown, tabular, user
from sft_speech.pages.players import Players
from sft_speech.tools.check.checked import Checked
from sft_speech.tools.check.findings import Case, Finding
from sft_speech.tools.check.texts import pace_outliers, paces

CASES = 30  # listed per finding
PLAYERS, PLAYERS_EACH = 48, 6  # per page, and per finding
MOST_CER = 150.0  # %, in a histogram
COUNTS = 200  # characters or words in a list


def page(checked: Checked, max_players: int = PLAYERS) -> str:
    """Return the whole page."""
    report, players = checked.report, _Players(checked, max_players)
    findings = [_finding(number, found, players) for number, found in enumerate(report.findings)]
    body = "\n".join([_verdict(checked), *findings, _splits(checked), _figures(checked), _texts(checked)])
    return document(f"Check of {report.source}", body, heading=f"Check of {user(report.source)}")


def _verdict(checked: Checked) -> str:
    """Return the summary: counts, sizes, and links to the findings."""
    report = checked.report
    rows, splits = checked.rows, report.splits.values()
    sizes = {
        "hours": f"{rows.seconds.sum() / 3600:,.2f}",
        "utterances": f"{sum(split['utterances'] for split in splits):,}",
        "usable": f"{sum(split['kept'] for split in splits):,}",
        "speakers": f"{report.sections['speakers']['count'] or '?':}",
        "words": f"{report.sections['text']['words']:,}",
    }
    items = "".join(
        f'<li>{_badge(found.severity)} <a href="#found-{number}">{shown(found.title)}</a></li>'
        for number, found in enumerate(report.findings)
    )
    return f'<p class="verdict">{shown(report.verdict().capitalize())}.</p>\n{cards(sizes)}\n' + (
        f'<nav aria-label="Findings"><ul class="found">{items}</ul></nav>' if items else ""
    )


def _badge(severity: str) -> str:
    return f'<span class="badge {severity}">{severity}</span>'


# ---- findings ----


class _Players(Players):
    """The audio players of the page, and what a model recognized in the recordings."""

    def __init__(self, checked: Checked, most: int) -> None:
        super().__init__(most)
        self.checked, recognized = checked, checked.recognized
        self.places = {} if recognized is None else {int(row): place for place, row in enumerate(recognized.rows)}

    def texts(self, row: int) -> str:
        """Return the transcript and, with a model, the recognized text, with the differences marked."""
        recognized = self.checked.recognized
        if recognized is None or row not in self.places:
            return f"<dt>transcript</dt><dd>{user(self.checked.rows.texts[row])}</dd>"
        place = self.places[row]
        reference, hypothesis = differences(recognized.references[place], recognized.hypotheses[place])
        return (
            f"<dt>transcript</dt><dd>{reference}</dd><dt>recognized</dt><dd>{hypothesis or '(nothing)'}</dd>"
            f"<dt>errors</dt><dd>{recognized.rates(place)}</dd>"
        )


def _finding(number: int, found: Finding, players: _Players) -> str:
    cases, played = [], 0
    for case in found.cases[:CASES]:
        plays = found.listen and case.row is not None and played < PLAYERS_EACH and not players.full
        played += plays
        repeated = found.key == "disputed_transcript" and plays  # the player shows the same texts
        cases.append(_case(case._replace(detail="") if repeated else case, players, plays))
    remarks = []
    if len(found.cases) > CASES:
        remarks.append(f"{CASES} of {len(found.cases):,} are listed here; the JSON lists all.")
    if found.listen and played < min(len(found.cases), CASES):
        remarks.append(f"{played} of them have a player, to keep the page small.")
    left_out = f"<p>{' '.join(remarks)}</p>" if remarks else ""
    return (
        f'<section class="finding {found.severity}" id="found-{number}">\n'
        f"<h2>{_badge(found.severity)} {shown(found.title)}</h2>\n"
        f'<p class="do">{shown(_sentence(found.do))}</p>\n'
        f'<p class="rule">Rule: {shown(_sentence(found.rule, upper=False))}</p>\n{"".join(cases)}{left_out}\n</section>'
    )


def _sentence(text: str, upper: bool = True) -> str:
    """Return a text with a capital letter and a final full stop."""
    return (text[:1].upper() if upper else text[:1]) + text[1:] + ("" if text.endswith(("?", ".", "…")) else ".")


def _case(case: Case, players: _Players, plays: bool) -> str:
    where = f'<span class="id">{user(case.id)}</span> <span class="split">{user(case.split)}</span>'
    detail = f'<p class="detail">{user(case.detail)}</p>' if case.detail else ""
    if not plays or case.row is None:
        return f'<div class="case">{where}{detail}</div>\n'
    rows, row = players.checked.rows, case.row
    speaker = f", speaker {user(rows.speakers[row])}" if rows.speakers[row] else ""
    path = rows.row(row)["audio"]["path"] or "(within a table)"
    return (
        f'<article class="case wide"><h3>{where}</h3><p class="detail">{rows.seconds[row]:.2f} s{speaker}</p>'
        f"{detail}{players.player(row, rows.row(row), case.id)}"
        f'<dl class="texts">{players.texts(row)}<dt>file</dt><dd class="path">{user(path)}</dd></dl></article>\n'
    )


# ---- figures ----


def _splits(checked: Checked) -> str:
    names = ("split", "role", "utterances", "hours", "speakers", "usable", "usable hours")
    rows = []
    for name, split in checked.report.splits.items():
        cells = [f"{split['utterances']:,}", f"{split['hours']:.2f}", f"{split['speakers'] or '?'}"]
        cells += [f"{split['kept']:,}", f"{split['kept_hours']:.2f}"]
        rows.append([user(name), split["role"], *cells])
    rule = shown(_sentence(checked.report.sections["rules"]["said"]))
    return f'<section><h2>Splits</h2>{tabular("Splits", names, rows, texts=2)}<p class="rule">{rule}</p></section>'


def _figures(checked: Checked) -> str:
    remarks = ""
    if "audio" in checked.report.sections:
        remarks = f"<p>Decoded: {shown(checked.report.sections['audio']['said'])}.</p>"
    if checked.recognized is not None and len(checked.recognized.rows):
        remarks += f"<p>{shown(checked.report.sections['model']['said'])}.</p>"
    return f'<section><h2>Recordings</h2>{remarks}<div class="figures">{"".join(_plots(checked))}</div></section>'


def _plots(checked: Checked) -> Iterator[str]:
    rows, recordings, recognized = checked.rows, checked.recordings, checked.recognized
    pace = paces(rows, checked.normalized)
    spoken = pace > 0
    odd = pace_outliers(pace[spoken])[0] if spoken.any() else np.zeros(0, bool)
    yield pictures.histogram("Duration", rows.seconds, "seconds")
    name = "Characters per second, by duration"
    yield pictures.scatter(name, rows.seconds[spoken], pace[spoken], odd, "seconds")
    yield _by_speaker(checked.report.sections["speakers"]["hours"])
    if recordings is not None and recordings.measured:
        level, silent = recordings.column("level_db"), 100 * recordings.column("silent_share")
        yield pictures.histogram("Level without silence", level, "dB of full scale")
        yield pictures.histogram("Silence", silent, "% of the clip")
    if recognized is not None and len(recognized.rows):
        rates, misfit = (np.minimum(100 * values, MOST_CER) for values in (recognized.error_rates, recognized.misfit))
        yield pictures.histogram("Character error rate", rates, "% CER")
        yield pictures.histogram("CER over the CER with other transcripts", misfit, "%")


def _by_speaker(hours: dict[str, float]) -> str:
    """Return a bar chart of the hours by speaker, or of minutes if no speaker has an hour."""
    if max(hours.values(), default=0.0) >= 1:
        return pictures.bars("Hours by speaker", hours, "h")
    return pictures.bars("Minutes by speaker", {name: 60 * value for name, value in hours.items()}, "min")


def _texts(checked: Checked) -> str:
    text = checked.report.sections["text"]
    summary = (
        f"{text['words']:,} words, {text['distinct_words']:,} of them distinct, {text['words_said_once']:,} used once; "
        f"{text['characters']:,} characters, {text['distinct_characters']:,} distinct."
    )
    parts = [f"<section><h2>Transcripts</h2><p>{summary}</p>"]
    for name, counts in (
        ("Not in the vocabulary", text["missing_characters"]),
        ("Characters", text["character_counts"]),
        ("Most frequent words", text["most_frequent_words"]),
    ):
        if counts:
            items = "".join(
                f"<li><b>{user(one if one != ' ' else 'space')}</b> {count:,}</li>"
                for one, count in list(counts.items())[:COUNTS]
            )
            parts.append(f'<h3>{name}</h3><ul class="counts">{items}</ul>')
    return "".join([*parts, "</section>"])
