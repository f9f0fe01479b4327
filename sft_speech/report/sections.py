"""Sections of a report on the same utterances of several systems: before and after training, or several runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sft_speech.pages import pictures
from sft_speech.pages.markup import corrected, shown, tabular, user
from sft_speech.pages.players import Players
from sft_speech.report.evaluated import Columns, Part, texts
from sft_speech.text.counted import counted

SPEAKERS, WORDS, CONFUSIONS = 20, 15, 15  # listed
LISTED = 100  # utterances in a table, of each split
GroupOfUtterances = tuple[str, list[int]]  # a heading, and places in the lines
RowOf = Callable[[str], Mapping[str, Any] | None]  # the row of an utterance, by its id

WORST, WORSE, BETTER, APART = "Most errors", "Worse than before", "Improved most", "Where they differ most"


def section(title: str, *parts: str) -> str:
    """Return a section; "" without content."""
    content = "".join(parts)
    return f"<section><h2>{user(title)}</h2>{content}</section>" if content else ""


def breakdowns(columns: Columns, names: Sequence[str]) -> str:
    """Return the metric by speaker and by length."""
    metric = columns.metric
    if metric is None:
        return ""
    speakers, lengths = columns.by_speaker(), columns.by_length()
    of = metric.title.strip()
    drawn = "".join(
        _parts(f"{of} by {what}", parts, metric.unit, names)
        for what, parts in (("speaker", speakers[:SPEAKERS]), ("length", lengths))
    )
    more = len(speakers) - SPEAKERS
    left_out = f"<p>{counted(more, 'speaker')} with fewer errors not shown.</p>" if more > 0 else ""
    return f'<div class="figures">{drawn}</div>{left_out}' if drawn else ""


def _parts(name: str, parts: Sequence[Part], unit: str, names: Sequence[str]) -> str:
    rows = [(f"{part.label} ({part.utterances:,})", part.values) for part in parts]
    return pictures.pairs(name, rows, unit, names)


def words_and_confusions(columns: Columns, names: Sequence[str]) -> str:
    """Return the words that are wrong most often, and the confusions that repeat."""
    heads = [shown(name) for name in names]
    found = []
    if words := columns.words():
        rows = [[user(word), f"{said:,}", *(f"{count:,}" for count in missed)] for word, said, missed in words[:WORDS]]
        table = tabular("Words", ["word", "occurs", *(f"wrong {name}" for name in heads)], rows, style="narrow")
        left_out = f"<p>and {counted(len(words) - WORDS, 'word')} more</p>" if len(words) > WORDS else ""
        found.append(f"<div><h3>Words that are wrong most often</h3>{table}{left_out}</div>")
    if pairs := columns.repeated():
        nothing = "<i>nothing</i>"
        rows = [
            [user(a) if a else nothing, user(b) if b else nothing, *(f"{count:,}" for count in counts)]
            for (a, b), counts in pairs[:CONFUSIONS]
        ]
        table = tabular("Confusions", ["reference", "hypothesis", *heads], rows, texts=2, style="narrow")
        left_out = f"<p>and {len(pairs) - CONFUSIONS:,} more</p>" if len(pairs) > CONFUSIONS else ""
        found.append(f"<div><h3>Confusions that repeat</h3>{table}{left_out}</div>")
    return f'<div class="columns">{"".join(found)}</div>' if found else ""


def interesting(columns: Columns, most: int, both: bool = True) -> list[GroupOfUtterances]:
    """Return places of utterances to listen to, each once, in groups.

    Args:
        most: how many in all.
        both: whether two systems are those before and after training.
    """
    wrong = columns.wrong
    if not wrong.size or most <= 0:
        return []
    sizes = np.maximum(columns.units[-1, :, 1], 1)
    same = [texts(line) or id for id, line in columns.lines[-1].items()]
    change, spread = wrong[-1] - wrong[0], wrong.max(0) - wrong.min(0)
    scores = {WORST: wrong[-1]} if len(wrong) == 1 else {APART: spread}
    if len(wrong) == 2 and both:
        scores = {WORSE: change, WORST: wrong[-1], BETTER: -change}
    found = {name: (score > 0, score + score / sizes) for name, score in scores.items() if (score > 0).any()}
    return _groups(found, most, same)


def _groups(
    found: Mapping[str, tuple[np.ndarray, np.ndarray]], most: int, same: Sequence[object]
) -> list[GroupOfUtterances]:
    """Return the places of each group, the highest scores first; groups share the room.

    Args:
        found: by the name of a group, which utterances are in it, and their scores.
        same: what is shown of each utterance; what was shown before comes last.
    """
    taken: set[int] = set()
    groups = []
    for number, (name, (chosen, scores)) in enumerate(found.items()):
        room = -(-(most - len(taken)) // (len(found) - number))
        order = [int(place) for place in np.argsort(-scores, kind="stable") if chosen[place] and place not in taken]
        places = _varied(order, same)[:room]
        taken.update(places)
        groups.append((name, places))
    return [group for group in groups if group[1]]


def _varied(order: Sequence[int], same: Sequence[object]) -> list[int]:
    """Return places in an order in which the same mistake is not repeated while there are others."""
    seen: Counter[object] = Counter()
    ranked = []
    for place in order:
        ranked.append((seen[same[place]], place))
        seen[same[place]] += 1
    return [place for _, place in sorted(ranked, key=lambda one: one[0])]


def utterances(
    columns: Columns, names: Sequence[str], groups: Sequence[GroupOfUtterances], players: Players, row_of: RowOf
) -> str:
    """Return utterances with players, with the differences of each hypothesis to the reference marked."""
    body = ""
    for title, places in groups:
        cases = "".join(_case(columns, names, place, players, row_of) for place in places)
        body += f'<h3>{shown(title)}</h3><div class="cases">{cases}</div>'
    return body


def _case(columns: Columns, names: Sequence[str], place: int, players: Players, row_of: RowOf) -> str:
    id = columns.ids[place]
    lines = [one[id] for one in columns.lines]
    line, row = lines[-1], row_of(id)
    sound = players.player((id, line.get("reference")), row, id) if row is not None and not players.full else ""
    speaker = f", speaker {user(str(line['speaker']))}" if line.get("speaker") else ""
    loop = f', <span class="loop">{shown(str(line["loop"]))}</span>' if line.get("loop") else ""
    reference = str(line.get("reference", line.get("expected", line.get("text", ""))))
    heard = "".join(
        f"<dt>{shown(name)}</dt><dd>{marked(one)} {_errors(columns, number, place)}</dd>"
        for number, (name, one) in enumerate(zip(names, lines, strict=True))
    )
    return (
        f'<article class="case wide"><h4><span class="id">{user(id)}</span></h4>'
        f'<p class="detail">{line.get("seconds", 0):.2f} s{speaker}{loop}</p>{sound}'
        f'<dl class="texts"><dt>reference</dt><dd>{user(reference)}</dd>{heard}</dl></article>'
    )


def marked(line: Mapping[str, Any]) -> str:
    """Return the hypothesis of a line with its errors marked."""
    pair = texts(line)
    if pair is None:
        return ""
    if "expected" in line:
        return user(pair[1]) if pair[0] == pair[1] else f"<ins>{user(pair[1])}</ins>"
    return corrected(*pair) or "<i>nothing</i>"


def _errors(columns: Columns, number: int, place: int) -> str:
    metric = columns.metric
    if metric is None:
        return ""
    errors, (found, size) = columns.wrong[number, place], columns.units[number, place]
    if metric.scale == 100 and metric.best == "min":
        return f'<span class="count">{errors:g} of {size:g}</span>'
    return "" if metric.scale == 100 else f'<span class="count">{metric.name} {found / max(size, 1e-9):.4g}</span>'


def others(columns: Columns, names: Sequence[str], shown_places: Sequence[int]) -> str:
    """Return a table of further utterances, folded; those with errors come first."""
    if not columns.has_texts or not columns.wrong.size:
        return ""
    left = [place for place in range(len(columns.ids)) if place not in set(shown_places)]
    left.sort(key=lambda place: (-columns.wrong[-1, place], -columns.wrong[0, place]))
    if not left:
        return ""
    rows = []
    for place in left[:LISTED]:
        id = columns.ids[place]
        line = columns.lines[-1][id]
        reference = str(line.get("reference", line.get("expected", "")))
        heard = [f"{marked(one[id])} {_errors(columns, n, place)}" for n, one in enumerate(columns.lines)]
        rows.append([user(id), user(reference), *heard])
    more = len(left) - LISTED
    rest = f"<p>{more:,} more are in the .jsonl files.</p>" if more > 0 else ""
    heads = ["utterance", "reference", *map(shown, names)]
    table = tabular("Utterances", heads, rows, texts=len(heads), style="utterances")
    return f"<details><summary>{counted(len(rows), 'other utterance')}</summary>{table}{rest}</details>"
