"""Several runs of a task on one page: figures, differences, options, curves, and what tells them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sft_speech.hub.card import Run
from sft_speech.hub.plots import Curve, curve
from sft_speech.metrics.utterances import Lines, rescored
from sft_speech.options.spec import TaskSpec
from sft_speech.pages import pictures
from sft_speech.pages.markup import document, shown, tabular, user
from sft_speech.pages.players import Players
from sft_speech.redact import redact
from sft_speech.report import sections
from sft_speech.report.evaluated import Columns, Evaluated, evaluated
from sft_speech.report.page import MOST_KILOBYTES, PLAYERS, Rows, before_and_after, row_finder, sizes, style
from sft_speech.report.sections import section


class Shared(NamedTuple):
    """A split that several runs evaluated.

    Args:
        title: its name.
        numbers: of the runs that evaluated it.
        columns: their lines, on the utterances that all of them have.
        others: utterances that only some of them have.
        normalizer: under which all were scored again; "" if they were scored alike.
    """

    title: str
    numbers: list[int]
    columns: Columns
    others: int
    normalizer: str


def page(runs: Sequence[Run], rows: Sequence[Rows]) -> str:
    """Return the whole page.

    Args:
        runs: two or more of one task.
        rows: of each run, see :func:`~sft_speech.report.page.page`.
    """
    names, found = names_of(runs), [evaluated(run) for run in runs]
    splits = [one for evaluations in found for one in evaluations]
    if len({one.chosen for one in splits}) > 1:  # the runs select by different metrics: the task's comes first
        for one in splits:
            one.chosen = ""
    shared, players = shared_splits(found, runs[0].spec), Players(PLAYERS, MOST_KILOBYTES)
    parts = [
        _verdict(shared, names),
        section("Runs", _runs(runs, found, names)),
        section("Options that differ", _options(runs, names)),
        section("Curves", _curves(runs, names)),
        *(_split(one, names, found, rows, players, len(shared) - place) for place, one in enumerate(shared)),
        section("Data", _data(runs, names)),
    ]
    title = f"{len(runs)} runs side by side"
    return redact(document(title, "\n".join(filter(None, parts)), style()))


def names_of(runs: Sequence[Run]) -> list[str]:
    """Return the names of the directories, with as many parents as tell them apart."""
    paths = [run.folder.resolve().parts for run in runs]
    for depth in range(1, max(map(len, paths)) + 1):
        names = ["/".join(path[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def shared_splits(found: Sequence[Sequence[Evaluated]], spec: TaskSpec) -> list[Shared]:
    """Return the splits that at least two of the runs evaluated, by the utterances that they have in common."""
    titles = dict.fromkeys(one.title for evaluations in found for one in evaluations if one.after)
    shared = []
    for title in titles:
        own = {
            number: one
            for number, evaluations in enumerate(found)
            for one in evaluations
            if one.title == title and one.after
        }
        ids = [id for id in next(iter(own.values())).after if all(id in one.after for one in own.values())]
        if len(own) < 2 or not ids:
            continue
        lines: dict[str, Lines] = {str(number): {id: one.after[id] for id in ids} for number, one in own.items()}
        first, normalizer = next(iter(own.values())), ""
        if "hypothesis" in first.after[ids[0]]:
            named = {str(number): str(one.figures.get("normalizer", "")) for number, one in own.items()}
            lines, normalizer = rescored(lines, named)
        columns = Columns([*lines.values()], spec.metrics, first.columns.spaced, first.headline)
        others = len(set[str]().union(*(one.after for one in own.values()))) - len(ids)
        shared.append(Shared(title, [*own], columns, others, normalizer))
    return shared


def _verdict(shared: Sequence[Shared], names: Sequence[str]) -> str:
    """Return which run is the best on each split."""
    lines = []
    for one in shared:
        metric = one.columns.metric
        if metric is None:
            continue
        (whole,) = one.columns.grouped(["all"] * len(one.columns.ids))
        sign = 1 if metric.best == "min" else -1
        order = sorted(range(len(whole.values)), key=lambda place: sign * whole.values[place])
        best = names[one.numbers[order[0]]]
        lines.append(
            f"{one.title}: {best} has the best {metric.title.strip()}, {whole.values[order[0]]:.4g}{metric.unit}"
        )
    if not lines:
        return '<p class="verdict">The runs have no evaluated split in common.</p>'
    return f'<p class="verdict">{user(lines[0])}</p>' + "".join(f"<p>{user(line)}</p>" for line in lines[1:])


def _runs(runs: Sequence[Run], found: Sequence[Sequence[Evaluated]], names: Sequence[str]) -> str:
    """Return a table with a row per run: its length, and the leading metric of each split."""
    titles = dict.fromkeys(one.title for evaluations in found for one in evaluations)
    lengths = [sizes(run) for run in runs]
    keys = dict.fromkeys(key for length in lengths for key in length)
    rows = []
    for name, evaluations, length in zip(names, found, lengths, strict=True):
        own = {one.title: one for one in evaluations}
        figures = []
        for title in titles:
            metric = own[title].columns.metric if title in own else None
            figures.append(before_and_after(own[title], metric) if metric is not None else "–")
        rows.append([user(name), *figures, *(shown(length.get(key, "–")) for key in keys)])
    metrics = {one.title: one.columns.metric for evaluations in found for one in evaluations}
    heads = [f"{user(title)}, {shown(metric.heading) if (metric := metrics[title]) else ''}" for title in titles]
    note = "Before → after training, with the 95 % interval, as each run scored itself."
    return tabular("Runs", ["run", *heads, *map(shown, keys)], rows) + f'<p class="rule">{note}</p>'


def _options(runs: Sequence[Run], names: Sequence[str]) -> str:
    settings: list[Mapping[str, Any]] = [run.settings for run in runs]
    keys = dict.fromkeys(key for one in settings for key in one if key != "output_dir")
    rows = []
    for key in keys:
        values = [getattr(run.config, key) for run in runs]
        if any(value != values[0] for value in values):
            rows.append([user(key), *(user(str(value)) for value in values)])
    heads = ["option", *map(user, names)]
    return tabular("Options that differ", heads, rows, texts=len(heads)) if rows else "<p>None.</p>"


def _curves(runs: Sequence[Run], names: Sequence[str]) -> str:
    spec = runs[0].spec
    wanted = {
        "loss": (f"Training loss, {spec.card.loss_unit}", 1.0),
        "eval_loss": ("Loss on the evaluation split", 1.0),
    }
    wanted |= {
        f"eval_{one.name}": (f"{one.heading} on the evaluation split", one.scale) for one in spec.metrics if one.curve
    }
    wanted["learning_rate"] = ("Learning rate", 1.0)
    drawn = ""
    for key, (title, scale) in wanted.items():
        curves: list[Curve] = [curve(run.history, key, name, scale) for run, name in zip(runs, names, strict=True)]
        if any(len(steps) > 1 for _, steps, _ in curves):
            drawn += pictures.lines(title, curves, "optimizer step")
    note = '<p class="rule">A ring marks the starting checkpoint, before training.</p>' if drawn else ""
    return f'<div class="figures">{drawn}</div>{note}' if drawn else ""


def _split(
    one: Shared,
    names: Sequence[str],
    found: Sequence[Sequence[Evaluated]],
    rows: Sequence[Rows],
    players: Players,
    left: int,
) -> str:
    """Return the section of a split.

    Args:
        left: splits that share what is left of the players, this one included.
    """
    own = [names[number] for number in one.numbers]
    first = one.numbers[0]
    role = next(each.role for each in found[first] if each.title == one.title)
    most = -(-(players.most - len(players.anchors)) // left)
    groups = sections.interesting(one.columns, most, both=False) if one.columns.has_texts else []
    notes = [f"{one.others:,} utterances that only some of the runs evaluated are left out."] if one.others else []
    if one.normalizer:
        notes.append(
            f"The runs were scored in different ways; here all are scored with the normalizer {one.normalizer}."
        )
    return section(
        f"Split {one.title}",
        f"<p>{shown(' '.join(notes))}</p>" if notes else "",
        _differences(one.columns, own),
        sections.breakdowns(one.columns, own),
        sections.words_and_confusions(one.columns, own),
        sections.utterances(one.columns, own, groups, players, row_finder(rows[first], role)),
    )


def _differences(columns: Columns, names: Sequence[str]) -> str:
    """Return a table of the metric of each run, and its paired difference to the best one."""
    metric = columns.metric
    if metric is None:
        return ""
    (whole,) = columns.grouped(["all"] * len(columns.ids))
    sign = 1 if metric.best == "min" else -1
    order = sorted(range(len(names)), key=lambda place: sign * whole.values[place])
    rows, over = [], ""
    for place in order:
        difference, around = "the best", ""
        if place != order[0] and (found := columns.compare(order[0], place)) is not None:
            difference, over = metric.shown(found.difference, "+"), found.interval.over
            low, high = (metric.shown(limit, "+") for limit in (found.interval.low, found.interval.high))
            around = f"{low} to {high}"
        rows.append([user(names[place]), metric.shown(whole.values[place] / metric.scale), difference, around])
    heads = ["run", shown(metric.heading), "difference to the best", "paired 95 % interval"]
    note = f"{len(columns.ids):,} utterances" + (f"; intervals over {over}." if over else ".")
    return tabular("Differences", heads, rows, style="narrow") + f'<p class="rule">{note}</p>'


def _data(runs: Sequence[Run], names: Sequence[str]) -> str:
    """Return the rows kept and dropped by each run."""
    roles = dict.fromkeys(role for run in runs for role in run.report)
    rows = []
    for role in roles:
        cells = []
        for run in runs:
            found = run.report.get(role)
            kept = found and f"{found['kept']['rows']:,} kept, {found['dropped']['rows']:,} dropped"
            cells.append(kept or "–")
        rows.append([user(role), *cells])
    heads = ["for", *map(user, names)]
    return tabular("Rows kept and dropped", heads, rows, texts=len(heads)) if rows else ""
