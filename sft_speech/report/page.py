"""The report of a run as one self-contained HTML page."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sft_speech.files import write_whole
from sft_speech.hub import provenance
from sft_speech.hub.card import REPORT, Run
from sft_speech.hub.plots import Curve, curves_of
from sft_speech.metrics.change import Change
from sft_speech.options.keep import KEEP
from sft_speech.options.spec import Metric
from sft_speech.pages import pictures
from sft_speech.pages.markup import cards, document, scrolling, shown, tabular, user
from sft_speech.pages.players import Players
from sft_speech.redact import redact
from sft_speech.report import sections
from sft_speech.report.evaluated import Evaluated, evaluated
from sft_speech.report.sections import RowOf, section
from sft_speech.text.counted import counted

if TYPE_CHECKING:
    import datasets

PLAYERS, MOST_KILOBYTES = 20, 6_000  # per page
SAMPLES = 4  # of spoken samples, from the first and the last evaluation each
IDS = 10  # listed for a reason
Rows = Callable[[str], "datasets.Dataset | None"]  # of a role in the run; None if they cannot be read


def write_report(run: Run, rows: Rows, path: Path | None = None) -> Path:
    """Write the report of a run; return its path.

    Args:
        rows: see :func:`page`.
        path: of the page; by default report.html in the directory of the run.

    Raises:
        UserError: a file of the run cannot be read.
    """
    path = path or run.folder / REPORT
    write_whole(path, page(run, rows))
    return path


def page(run: Run, rows: Rows) -> str:
    """Return the whole page.

    Args:
        rows: returns the rows of a role, for the recordings; it is only asked for roles with utterances to listen to.
    """
    found = evaluated(run)
    players = Players(PLAYERS, MOST_KILOBYTES)
    parts = [
        _verdict(run, found),
        section("Figures", _figures(run, found)),
        section("Curves", _curves(run)),
        *(_split(one, players, row_finder(rows, one.role), len(found) - place) for place, one in enumerate(found)),
        section("Samples", _samples(run.folder / "samples", players)),
        section("Data", dropped(run.report), _unread(found)),
        section("Run", _run(run)),
    ]
    name = run.folder.resolve().name
    return redact(document(f"Report of {name}", "\n".join(filter(None, parts)), style(), f"Report of {user(name)}"))


def style() -> str:
    """Return the styles of reports."""
    return files("sft_speech").joinpath("report/page.css").read_text("utf-8")


def row_finder(rows: Rows, role: str) -> RowOf:
    """Return a function that finds the row of an utterance by its id; the rows are read at its first call."""
    places: dict[str, int] = {}
    read: list[Any] = []

    def row_of(id: str) -> Mapping[str, Any] | None:
        if not read:
            read.append(rows(role))
            if read[0] is not None:
                places.update({str(one): place for place, one in enumerate(read[0]["id"])})
        return read[0][places[id]] if id in places else None

    return row_of


# ---- summary ----


def change_of(one: Evaluated) -> Change | None:
    """Return what training changed on a split; None if it was not evaluated before and after."""
    columns = one.columns
    if columns.metric is None:
        return None
    before, after = (figures.get(columns.metric.name) for figures in (one.before, one.figures))
    if before is None or after is None:
        return None
    return Change(one.title, columns.metric, before, after, columns.compare() if len(columns.lines) == 2 else None)


def _verdict(run: Run, found: list[Evaluated]) -> str:
    items = []
    for one in found:
        change = change_of(one)
        if change is not None:
            badge = '<span class="badge problem">worse</span> ' if change.worse else ""
            items.append(f"{badge}{user(str(change).replace(' -> ', ' → '))}")
        elif (metric := one.columns.metric) is not None:
            value, when = (one.figures or one.before).get(metric.name), "" if one.figures else " before training"
            items.append(user(f"{one.title}: {metric.title.strip()} {metric.shown(value)}{metric.unit}{when}"))
    first, *rest = items or [user("No split was evaluated.")]
    lines = [f'<p class="verdict">{first}</p>', *(f"<p>{item}</p>" for item in rest)]
    if not run.figures:
        step = run.history[-1]["step"] if run.history else 0
        lines.insert(0, f'<p class="verdict"><span class="badge warning">unfinished</span> after {step} steps</p>')
    return "\n".join([*lines, cards(sizes(run))])


def sizes(run: Run) -> dict[str, str]:
    """Return the length of a run, as text by what it is."""
    steps = [entry["step"] for entry in run.history if "step" in entry]
    found = {"optimizer steps": f"{max(steps):,}"} if steps else {}
    if "audio_hours" in run.figures:
        found["hours of audio"] = f"{run.figures['audio_hours']:.2f}"
    if "train_runtime" in run.figures:
        found["training time"] = str(timedelta(seconds=round(run.figures["train_runtime"])))
    if run.starts:
        found["device"] = f"{run.starts[-1]['processes']} x {run.starts[-1]['device']}"
    return found


def _figures(run: Run, found: list[Evaluated]) -> str:
    evaluations = [figures for one in found for figures in (one.before, one.figures)]
    metrics = [one for one in run.spec.metrics if any(figures.get(one.name) is not None for figures in evaluations)]
    if not metrics:
        return ""
    heads = ["split", "utterances", "hours", *(shown(one.heading) for one in metrics)]
    rows = []
    for one in found:
        latest = one.figures or one.before
        title = user(one.title.removeprefix(KEEP)) + (" (to keep)" if one.role.startswith(KEEP) else "")
        values = [before_and_after(one, metric) for metric in metrics]
        rows.append([title, f"{latest.get('utterances', 0):,}", f"{latest.get('hours', 0):.2f}", *values])
    table = tabular("Figures", heads, rows)
    normalizers = sorted({one.figures.get("normalizer", "checkpoint") for one in found} - {"checkpoint"})
    notes = {
        "Before → after training.": any(one.before and one.figures for one in found),
        "In parentheses: 95 % bootstrap intervals.": 'class="around"' in table,
        f"Normalizer: {', '.join(normalizers)}.": bool(normalizers),
    }
    return table + f'<p class="rule">{shown(" ".join(note for note, applies in notes.items() if applies))}</p>'


def before_and_after(one: Evaluated, metric: Metric) -> str:
    """Return the values of a metric on a split, with the interval of the last one, as HTML."""
    values = [figures.get(metric.name) for figures in (one.before, one.figures) if figures]
    text = " → ".join(metric.shown(value) for value in values if value is not None) or "–"
    text = f'<span class="values">{text}</span>'
    around = (one.figures or one.before).get(f"{metric.name}_interval")
    if not around or None in around:
        return text
    low, high = map(metric.shown, around)
    return f'{text} <span class="around">({low} to {high})</span>'


def _curves(run: Run) -> str:
    drawn = [_lines(title, curves) for title, curves in curves_of(run.history, run.spec).values()]
    mixed = run.figures.get("interpolation", {})
    if len(mixed.get("curve", [])) > 1:
        metric = run.spec.metric(mixed["metric"])
        x, y = zip(*((one["share"], metric.scale * one[metric.name]) for one in mixed["curve"]), strict=True)
        name = f"{metric.heading} by the share of the trained weights, {mixed['share']:g} of which is used"
        drawn.append(pictures.lines(name, [(metric.heading, x, y)], "share of the trained weights"))
    ring = any(entry.get("step") == 0 for entry in run.history)
    note = '<p class="rule">A ring marks the starting checkpoint, before training.</p>' if ring else ""
    return f'<div class="figures">{"".join(drawn)}</div>{note}' if drawn else ""


def _lines(title: str, curves: list[Curve]) -> str:
    return pictures.lines(title[:1].upper() + title[1:], curves, "optimizer step")


# ---- utterances ----


def _split(one: Evaluated, players: Players, row_of: RowOf, left: int) -> str:
    """Return the section of a split.

    Args:
        left: splits that share what is left of the players, this one included.
    """
    columns, names = one.columns, one.names
    most = -(-(players.most - len(players.anchors)) // left)
    groups = sections.interesting(columns, most) if columns.has_texts else []
    heard = sections.utterances(columns, names, groups, players, row_of)
    loops = (one.figures or one.before).get("loops", 0)
    remark = f"<p>{counted(loops, 'hypothesis was', 'hypotheses were')} likely not spoken.</p>" if loops else ""
    return section(
        f"Split {one.title}",
        remark,
        sections.breakdowns(columns, names),
        sections.words_and_confusions(columns, names),
        heard,
        sections.others(columns, names, [place for _, places in groups for place in places]),
    )


def _samples(folder: Path, players: Players) -> str:
    """Return spoken samples of the first and the last evaluation, with their pictures."""
    numbers = sorted({path.name.split("-")[0] for path in folder.glob("*-*.wav")})
    body = ""
    for number in dict.fromkeys([*numbers[:1], *numbers[-1:]]):
        for path in sorted(folder.glob(f"{number}-*.wav"))[:SAMPLES]:
            row = {"audio": str(path), "seconds": _seconds(path)}
            name = f"{path.stem.split('-', 1)[1]}, evaluation {int(number)}" if number.isdigit() else path.stem
            sound = players.player(path, row, path.stem)
            drawn = _drawn(path.with_suffix(".png"))
            body += f'<article class="case wide"><h4>{user(name)}</h4>{sound}{drawn}</article>'
    return body


def _drawn(picture: Path) -> str:
    """Return the picture of a sample; "" if there is none."""
    if not picture.is_file():
        return ""
    uri = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
    return f'<div class="clip tall"><img src="{uri}" alt="mel spectrograms and attention" loading="lazy"></div>'


def _seconds(path: Path) -> float:
    import soundfile

    return float(soundfile.info(path).duration)


# ---- data and options ----


def dropped(report: Mapping[str, Any]) -> str:
    """Return the rows kept and dropped, with the first ids of each reason, from the content of corpus_report.json."""
    rows, parts = [], []
    for role, found in report.items():
        reasons = sorted(found["dropped"]["reasons"].items(), key=lambda item: -len(item[1]))
        why = ", ".join(f"{reason} {len(ids):,}" for reason, ids in reasons)
        kept = found["kept"]
        rows.append(
            [user(role), shown(why), f"{kept['rows']:,}", f"{kept['hours']:.2f}", f"{found['dropped']['rows']:,}"]
        )
        for reason, ids in reasons:
            listed = (f"{one['id']} ({one['detail']})" if one["detail"] else one["id"] for one in ids)
            parts.append(_listed(f"{role}: {reason}", listed, len(ids), "corpus_report.json"))
        if missing := found.get("missing_characters"):
            items = "".join(f"<li><b>{user(one)}</b> {count:,}</li>" for one, count in list(missing.items())[:50])
            parts.append(f"<h3>{user(f'{role}: not in the vocabulary, left out')}</h3><ul class='counts'>{items}</ul>")
    if not rows:
        return ""
    heads = ["for", "dropped because", "utterances kept", "hours", "dropped"]
    return tabular("Rows kept and dropped", heads, rows, texts=2) + "".join(parts)


def _unread(found: Iterable[Evaluated]) -> str:
    failed = [(one.title, one.figures.get("failed") or {}) for one in found]
    return "".join(
        _listed(f"{title}: could not be read", (f"{id} ({why})" for id, why in ids.items()), len(ids), "evaluation/")
        for title, ids in failed
        if ids
    )


def _listed(title: str, items: Iterable[str], count: int, file: str) -> str:
    listed = "".join(f"<li>{user(item)}</li>" for item, _ in zip(items, range(IDS), strict=False))
    more = f"<li>and {count - IDS:,} more, in {file}</li>" if count > IDS else ""
    return f"<h3>{user(title)}</h3><ul>{listed}{more}</ul>"


def _run(run: Run) -> str:
    parts, start = [], run.starts[-1] if run.starts else {}
    if start and start["command"]:  # absent if started from Python
        parts.append(scrolling("Command", f"<pre>{user(shlex.join(['sft-speech', *start['command']]))}</pre>"))
    options = yaml.safe_dump(run.settings, sort_keys=False, allow_unicode=True)
    written = "\n".join(map(user, options.splitlines()))
    parts.append(f"<h3>Options that differ from the defaults</h3><pre>{written}</pre>")
    if start:
        parts.append(f'<p class="rule">{user(". ".join(provenance.machine(start)))}.</p>')
    return "".join(parts)
