"""The table of a comparison, as text."""

from __future__ import annotations

from collections.abc import Iterator

from sft_speech.options.spec import Metric
from sft_speech.tools.compare.advice import between, duration, number, p_value, with_interval
from sft_speech.tools.compare.judge import Candidate, Judgement, Score, effects
from sft_speech.tools.compare.outcomes import Outcome
from sft_speech.tools.push import readable

HEADS = ("difference", "p", "trained", "size", "peak memory", "s/update", "updates", "training", "speed")
LEGEND = (
    "Brackets: 95 % intervals by bootstrap. Difference: to the best, paired on the same utterances, with its 95 % "
    "interval and the p-value after Holm's adjustment. Trained: parameters, and their share of the model. Speed: audio "
    "seconds per second of evaluation."
)


def title(judgement: Judgement) -> str:
    """Return the title: how many candidates, and what decides."""
    number = len(judgement.candidates) + len(judgement.others)
    decided = judgement.comparison.splits.get(judgement.role, judgement.role)
    return f"{number} candidate{'' if number == 1 else 's'} by {_name(judgement.metric)} on {decided}"


def _name(metric: Metric) -> str:
    return metric.heading.removesuffix(" %")


def table(judgement: Judgement) -> tuple[list[str], list[list[str]]]:
    """Return the heads and the rows of text of the table.

    Columns that are empty for all are left out, and so is the number of updates if it is the same for all.
    """
    metric, splits = judgement.metric.heading, judgement.comparison.splits
    scores = [f"{metric}, {splits[role]}" for role in roles_of(judgement)]
    heads = ["", "candidate", "status", *scores, *HEADS]
    rows = [_cells(judgement, rank, one) for rank, one in enumerate(judgement.candidates, 1)]
    unscored = [""] * (len(scores) + 2)
    for one in judgement.others:
        status = f"{one.status}: {one.why}" if one.why else one.status
        rows.append(["", one.name, status, *unscored, *_costs(one, None)])
    used = [place for place in range(len(heads)) if place == 0 or any(row[place] for row in rows)]
    if _updates(judgement):
        used = [place for place in used if heads[place] != "updates"]
    return [heads[place] for place in used], [[row[place] for place in used] for row in rows]


def _updates(judgement: Judgement) -> int:
    """Return the optimizer steps of every finished candidate; 0 if they differ or are not known."""
    counts = {one.outcome.updates for one in judgement.candidates}
    return counts.pop() if len(counts) == 1 and len(judgement.candidates) > 1 else 0


def legend(judgement: Judgement) -> str:
    """Return what the columns of the table hold."""
    count = _updates(judgement)
    return f"{LEGEND} Every candidate was trained for {count:,} updates." if count else LEGEND


def _cells(judgement: Judgement, rank: int, one: Candidate) -> list[str]:
    metric, versus = judgement.metric, one.versus
    scores = [_score(metric, one.scores.get(role)) for role in roles_of(judgement)]
    against = ["", ""]
    if versus is not None:
        signed = number(metric, versus.difference).replace("-", "−")
        against = [
            f"{signed} [{between(metric, versus.interval)}]",
            p_value(versus.p_value).removeprefix("p ").lstrip("= "),
        ]
    return [f"{rank}", one.name, _status(judgement, one), *scores, *against, *_costs(one.outcome, one.training_seconds)]


def _status(judgement: Judgement, one: Candidate) -> str:
    if one is judgement.chosen:
        return "recommended"
    if one is judgement.candidates[0]:
        return "best"
    return "like the best" if one.alike and judgement.over else ""


def roles_of(judgement: Judgement) -> list[str]:
    """Return the roles of all splits, the deciding one first."""
    return [role for role in (judgement.role, *judgement.tests) if role in judgement.comparison.splits]


def _score(metric: Metric, score: Score | None) -> str:
    return "" if score is None else with_interval(metric, score).replace(" %", "")


def _costs(one: Outcome, seconds: float | None) -> list[str]:
    share = f" ({100 * one.trained_parameters / one.parameters:.3g} %)" if one.parameters else ""
    return [
        f"{short(one.trained_parameters)}{share}" if one.trained_parameters else "",
        readable(one.bytes) if one.bytes else "",
        readable(one.peak_bytes) if one.peak_bytes else "",
        f"{one.seconds_per_update:.3g}" if one.seconds_per_update else "",
        f"{one.updates:,}" if one.updates else "",
        duration(seconds) if seconds else "",
        f"{one.audio_seconds_per_second:.3g} x" if one.audio_seconds_per_second else "",
    ]


def short(count: float) -> str:
    """Return a count of parameters: "37.8 M"."""
    for unit in ("", " k", " M"):
        if count < 1000:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.3g} G"


def effect_heads(judgement: Judgement) -> list[str]:
    """Return the heads of :func:`effect_rows`."""
    return ["setting", "value", f"mean {judgement.metric.heading}", "candidates"]


def effect_rows(judgement: Judgement) -> Iterator[list[str]]:
    """Yield setting, value, mean figure and number of candidates of each value of each varied setting."""
    for key, values in effects(judgement).items():
        for value, mean, count in values:
            yield [key, value, number(judgement.metric, mean), str(count)]
