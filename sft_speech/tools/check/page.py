"""The report as one HTML page that needs nothing beside it: no script, no network, pictures and sounds within."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from sft_speech.audio.read import AudioError, read
from sft_speech.tools.check import pictures
from sft_speech.tools.check.disputes import rates
from sft_speech.tools.check.findings import Case, Finding
from sft_speech.tools.check.markup import differences, shown, user
from sft_speech.tools.check.texts import pace_outliers, paces

if TYPE_CHECKING:
    from sft_speech.tools.check.check import Checked

CASES = 30  # of a finding that are listed
CLIPS, CLIPS_EACH = 48, 6  # players in the page, and for one finding
CLIP_SECONDS = 10.0  # of a recording that can be heard
MOST = 150.0  # % CER that a histogram goes up to; beyond it all is equally wrong
PAGE_KILOBYTES = 12_000  # of pictures and sounds


def page(checked: Checked) -> str:
    """The whole page."""
    style = files("sft_speech").joinpath("checking/page.css").read_text("utf-8")
    fingerprint = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; media-src data:; style-src 'sha256-{fingerprint}'"
    report = checked.report
    title = f"Check of {report.source}"
    body = "\n".join([_verdict(checked), *_findings(checked), _splits(checked), _figures(checked), _texts(checked)])
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n<meta name="color-scheme" content="light dark">\n'
        f"<title>{shown(title)}</title>\n<style>{style}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>Check of {user(report.source)}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _verdict(checked: Checked) -> str:
    """What a reader in a hurry needs: counts, sizes, and a list of what was found."""
    report = checked.report
    rows, splits = checked.rows, report.splits.values()
    sizes = {
        "hours": f"{rows.seconds.sum() / 3600:,.2f}",
        "utterances": f"{sum(split['utterances'] for split in splits):,}",
        "usable": f"{sum(split['kept'] for split in splits):,}",
        "speakers": f"{report.sections['speakers']['count'] or '?':}",
        "words": f"{report.sections['text']['words']:,}",
    }
    cards = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in sizes.items())
    items = "".join(
        f'<li>{_badge(found.severity)} <a href="#found-{number}">{shown(found.title)}</a></li>'
        for number, found in enumerate(report.findings)
    )
    return f'<p class="verdict">{shown(report.verdict().capitalize())}.</p>\n<dl class="cards">{cards}</dl>\n' + (
        f'<nav aria-label="Findings"><ul class="found">{items}</ul></nav>' if items else ""
    )


def _badge(severity: str) -> str:
    return f'<span class="badge {severity}">{severity}</span>'


# ---- findings ----


class _Clips:
    """Players that are in the page already, and room for more."""

    def __init__(self, checked: Checked) -> None:
        self.checked = checked
        self.places: dict[int, str] = {}  # row to its anchor
        self.kilobytes = 0.0
        self.own: dict[int, int] = {}
        if checked.heard is not None:
            self.own = {int(row): place for place, row in enumerate(checked.heard.rows)}

    @property
    def full(self) -> bool:
        return len(self.places) >= CLIPS or self.kilobytes >= PAGE_KILOBYTES

    def player(self, row: int, id: str) -> str:
        """A picture and a player; or where the row's are, or why there are none."""
        if row in self.places:
            return f'<p><a href="#{self.places[row]}">to be heard above</a></p>'
        given, length = self.checked.rows.row(row), min(self.checked.rows.seconds[row], CLIP_SECONDS)
        try:
            waveform = read(given["audio"], pictures.RATE, given["start"], float(length))
        except AudioError as error:
            return f"<p>can't be heard: {shown(str(error))}</p>"
        uris = [pictures.spectrogram(waveform), pictures.sound(waveform)]
        self.kilobytes += pictures.kilobytes(uris)
        self.places[row] = f"clip-{row}"
        cut = f", the first {CLIP_SECONDS:g} s" if self.checked.rows.seconds[row] > CLIP_SECONDS else ""
        return (
            f'<div class="clip" id="clip-{row}"><img src="{uris[0]}" alt="spectrogram of {shown(id)}" loading="lazy">'
            f'<audio controls preload="metadata" aria-label="recording {shown(id)}{cut}" src="{uris[1]}"></audio></div>'
        )

    def texts(self, row: int) -> str:
        """What is written and, with a model, what was heard, differences marked."""
        heard = self.checked.heard
        if heard is None or row not in self.own:
            return f"<dt>transcript</dt><dd>{user(self.checked.rows.texts[row])}</dd>"
        place = self.own[row]
        said, found = differences(heard.references[place], heard.hypotheses[place])
        return (
            f"<dt>transcript</dt><dd>{said}</dd><dt>heard</dt><dd>{found or '(nothing)'}</dd>"
            f"<dt>errors</dt><dd>{rates(heard, place)}</dd>"
        )


def _findings(checked: Checked) -> Iterator[str]:
    clips = _Clips(checked)
    for number, found in enumerate(checked.report.findings):
        yield _finding(number, found, clips)


def _finding(number: int, found: Finding, clips: _Clips) -> str:
    cases, players = [], 0
    for case in found.cases[:CASES]:
        heard = found.heard and case.row is not None and players < CLIPS_EACH and not clips.full
        players += heard
        told_below = found.key == "disputed_transcript" and heard
        cases.append(_case(case._replace(detail="") if told_below else case, clips, heard))
    told = []
    if len(found.cases) > CASES:
        told.append(f"{CASES} of {len(found.cases):,} are listed here, all of them in the JSON.")
    if found.heard and players < min(len(found.cases), CASES):
        told.append(f"{players} of them can be heard here, to keep the page small.")
    left_out = f"<p>{' '.join(told)}</p>" if told else ""
    return (
        f'<section class="finding {found.severity}" id="found-{number}">\n'
        f"<h2>{_badge(found.severity)} {shown(found.title)}</h2>\n"
        f'<p class="do">{shown(_sentence(found.do))}</p>\n'
        f'<p class="rule">Rule: {shown(_sentence(found.rule, upper=False))}</p>\n{"".join(cases)}{left_out}\n</section>'
    )


def _sentence(text: str, upper: bool = True) -> str:
    """With a capital, and a stop unless it ends with something that stops."""
    return (text[:1].upper() if upper else text[:1]) + text[1:] + ("" if text.endswith(("?", ".", "…")) else ".")


def _case(case: Case, clips: _Clips, heard: bool) -> str:
    where = f'<span class="id">{user(case.id)}</span> <span class="split">{user(case.split)}</span>'
    detail = f'<p class="detail">{user(case.detail)}</p>' if case.detail else ""
    if not heard or case.row is None:
        return f'<div class="case">{where}{detail}</div>\n'
    rows, row = clips.checked.rows, case.row
    speaker = f", speaker {user(rows.speakers[row])}" if rows.speakers[row] else ""
    path = rows.row(row)["audio"]["path"] or "(within a table)"
    return (
        f'<article class="case wide"><h3>{where}</h3><p class="detail">{rows.seconds[row]:.2f} s{speaker}</p>'
        f"{detail}{clips.player(row, case.id)}"
        f'<dl class="texts">{clips.texts(row)}<dt>file</dt><dd class="path">{user(path)}</dd></dl></article>\n'
    )


# ---- figures ----


def _splits(checked: Checked) -> str:
    head = "".join(
        f'<th scope="col">{name}</th>'
        for name in ("split", "role", "utterances", "hours", "speakers", "usable", "usable hours")
    )
    body = ""
    for name, split in checked.report.splits.items():
        cells = [f"{split['utterances']:,}", f"{split['hours']:.2f}", f"{split['speakers'] or '?'}"]
        cells += [f"{split['kept']:,}", f"{split['kept_hours']:.2f}"]
        numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
        body += f'<tr><th scope="row">{user(name)}</th><td>{split["role"]}</td>{numbers}</tr>'
    said = checked.report.sections["rules"]["said"]
    return (
        '<section><h2>Splits</h2><div class="scroll" tabindex="0" role="region" aria-label="Splits">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f'<p class="rule">{shown(_sentence(said))}</p></section>'
    )


def _figures(checked: Checked) -> str:
    rows, sections = checked.rows, checked.report.sections
    pace = paces(rows, checked.spelt)
    said = pace > 0
    odd = np.zeros(len(pace), bool)
    if said.any():
        odd[said] = pace_outliers(pace[said])[0]
    drawn = [
        pictures.histogram("Duration", rows.seconds, "seconds"),
        pictures.scatter(
            "Characters per second, by duration", rows.seconds[said], pace[said], odd[said], ("seconds", "")
        ),
        _by_speaker(sections["speakers"]["hours"]),
    ]
    told = ""
    if checked.sound is not None and checked.sound.measured:
        drawn.append(
            pictures.histogram("Level of what isn't silence", checked.sound.column("level"), "dB of full scale")
        )
        drawn.append(pictures.histogram("Silence", 100 * checked.sound.column("silent"), "% of the clip"))
        told = f"<p>Decoded: {shown(sections['audio']['said'])}.</p>"
    if checked.heard is not None and len(checked.heard.rows):
        drawn.append(
            pictures.histogram("Character error rate", np.minimum(100 * checked.heard.error_rates, MOST), "% CER")
        )
        misfit = np.minimum(100 * checked.heard.misfit, MOST)
        drawn.append(pictures.histogram("CER over that of other transcripts", misfit, "%"))
        told += f"<p>{shown(sections['model']['said'])}.</p>"
    return f'<section><h2>Recordings</h2>{told}<div class="figures">{"".join(drawn)}</div></section>'


def _by_speaker(hours: dict[str, float]) -> str:
    """In minutes where nobody spoke for an hour."""
    if max(hours.values(), default=0.0) >= 1:
        return pictures.bars("Hours by speaker", hours, "h")
    return pictures.bars("Minutes by speaker", {name: 60 * value for name, value in hours.items()}, "min")


def _texts(checked: Checked) -> str:
    text = checked.report.sections["text"]
    said = (
        f"{text['words']:,} words, {text['distinct_words']:,} of them distinct, {text['words_said_once']:,} said once; "
        f"{text['characters']:,} characters, {text['distinct_characters']:,} distinct."
    )
    parts = [f"<section><h2>Transcripts</h2><p>{said}</p>"]
    for name, counts in (
        ("Not in the vocabulary", text["missing_characters"]),
        ("Characters", text["character_counts"]),
        ("Most frequent words", text["most_frequent_words"]),
    ):
        if counts:
            items = "".join(
                f"<li><b>{user(one if one != ' ' else 'space')}</b> {count:,}</li>"
                for one, count in list(counts.items())[:200]
            )
            parts.append(f'<h3>{name}</h3><ul class="counts">{items}</ul>')
    return "".join([*parts, "</section>"])
