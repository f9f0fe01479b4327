"""The recommendation of a comparison in words, from its figures and only from them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from sft_speech.metrics.intervals import Interval
from sft_speech.options.spec import Metric
from sft_speech.tasks import spec_of
from sft_speech.text.counted import counted
from sft_speech.tools.compare.judge import LEVEL, Candidate, Judgement, Score, Versus, more_utterances
from sft_speech.tools.push import readable

NAMED = 2  # candidates in a sentence besides the best, and sentences of one kind
# Arguments of a command, by task.
ARGUMENTS = {"tts": '"How do you do?" -o speech.wav', "vc": "speech.wav -o converted.wav"}
NOTABLE = 1.2  # factor of size, speed or time that is worth a word


def advice(judgement: Judgement) -> list[str]:
    """Return the recommendation, a sentence or two per line; the first one says what to take."""
    lines = [_headline(judgement)]
    if judgement.candidates and not judgement.useless:
        lines += [*_alike(judgement), *_left_behind(judgement), *_untrained(judgement), *_power(judgement)]
    if judgement.candidates:
        lines += _limits(judgement)
    lines += [f"{one.name} failed: {one.why}." for one in judgement.others if one.status == "failed"]
    dropped = [one for one in judgement.others if one.status == "dropped"]
    if len(dropped) > NAMED:
        what = counted(len(dropped), "candidate was", "candidates were")
        lines.append(f"{what} dropped on the way; the table says when.")
    else:
        lines += [f"{one.name} was dropped: {one.why}." for one in dropped]
    lines += [f"{one.name} has no figure to compare." for one in judgement.others if one.status == "finished"]
    return [line.replace("..", ".") if line.endswith("..") else line for line in lines]


def command(judgement: Judgement) -> str:
    """Return the command that uses the recommended model; "" if there is none to recommend."""
    if judgement.chosen is not None:
        model = str(judgement.chosen.outcome.folder)
    elif judgement.untrained is not None and judgement.untrained_wins and not judgement.useless:
        model = judgement.untrained.model
    else:
        return ""
    task = judgement.comparison.task
    verb, rest = next(iter(spec_of(task).verbs)), ARGUMENTS.get(task, "speech.wav")
    return f"sft-speech {verb} {shlex.quote(model)} {rest}"


def _headline(judgement: Judgement) -> str:
    candidates, chosen = judgement.candidates, judgement.chosen
    if not candidates:
        return "No candidate finished, so there is nothing to recommend."
    best = candidates[0]
    of_best = _scored(judgement, best)
    if judgement.useless:
        chance = judgement.chance
        why = (
            ""
            if chance is None
            else f", and always answering the most frequent label has {_shown(judgement.metric, chance)}"
        )
        return (
            f"All candidates are useless: the best, {best.name}, has {of_best}{why}. Take none of them: look at the "
            "data (sft-speech check), train for longer, or start from another model."
        )
    if chosen is None and judgement.untrained is not None:
        before = judgement.untrained
        return (
            f"Nothing beats the untrained checkpoint {before.model}: it has {_figure(judgement, before.score)}, and "
            f"the best candidate, {best.name}, {of_best} ({differ(judgement.metric, before.best)}). Use it as it is."
        )
    assert chosen is not None
    if len(candidates) == 1:
        return f"Only {best.name} finished, with {of_best}: there is nothing to compare it with."
    if not judgement.over:
        return f"{best.name} has the best figure, {of_best}. Whether that is chance is not known: {_UNTESTED}."
    if len(judgement.alike) == 1:
        second = candidates[1]
        assert second.versus is not None
        return (
            f"Take {best.name}: with {of_best} it is better than every other candidate on {_data(judgement)}. "
            f"The next is {second.name} with {_scored(judgement, second)} ({_tested(judgement, second.versus)})."
        )
    return _pick(judgement, chosen)


_UNTESTED = "there are no figures of single utterances"


def _pick(judgement: Judgement, chosen: Candidate) -> str:
    """Return which one of those that cannot be told apart to take, and why."""
    best, over = judgement.candidates[0], _data(judgement)
    if chosen is not best:
        # The next one to it may be hardly cheaper, if the cheapest of all is not as good.
        gains = _gains(chosen, best, judgement.cpu) or _gains(chosen, best, judgement.cpu, least=1.0)
        like = (
            f"it has the same figures as {best.name} on each of {over}, {_scored(judgement, best)},"
            if _same(chosen)
            else f"it can't be told apart from the best, {best.name}, on {over},"
        )
        return f"Take {chosen.name}: {like} and is {_list(gains)}."
    rivals = [one for one in judgement.alike if one is not best]
    of_best = "the lowest error" if judgement.metric.best == "min" else "the best figure"
    whose = rivals[0].name if len(rivals) == 1 else f"{len(rivals)} others"
    alike = f"{whose} can't be told apart from it on {over}"
    gains = _gains(best, rivals[0], judgement.cpu) if len(rivals) == 1 else []
    but = (
        f"but it is {_list(gains)}"
        if gains
        else "but within one standard error no other is clearly smaller, faster or cheaper to train"
    )
    return f"Take {best.name}: it has {of_best}, {_scored(judgement, best)}; {alike}, {but}."


def _alike(judgement: Judgement) -> list[str]:
    """Return the figures of the best and the chosen one, and who else cannot be told apart from the best."""
    best, chosen = judgement.candidates[0], judgement.chosen
    lines, others = [], [one.name for one in judgement.alike if one is not best and one is not chosen]
    if chosen is not None and chosen.versus is not None and not _same(chosen):
        lines.append(
            f"{best.name} has {_scored(judgement, best)}, {chosen.name} {_scored(judgement, chosen)}: "
            f"{_tested(judgement, chosen.versus)}."
        )
    if judgement.over and others and (len(others) > 1 or chosen is not best):
        lines.append(f"Nor can {_list(others)} be told apart from {best.name}.")
    return lines


def _same(one: Candidate) -> bool:
    """Return whether a candidate has the figures of the best one on every utterance."""
    return one.versus is not None and one.versus.difference == one.versus.error == 0


def _gains(one: Candidate, other: Candidate, cpu: bool, least: float = NOTABLE) -> list[str]:
    """Return in what one candidate is cheaper than another, with the figures.

    Args:
        cpu: whether times are those of the processor.
        least: factor that is worth a word.
    """
    gains = []
    sizes = one.outcome.bytes, other.outcome.bytes
    if all(sizes) and sizes[1] > least * sizes[0]:
        gains.append(f"{_times(sizes[1] / sizes[0])} smaller ({readable(sizes[0])} against {readable(sizes[1])})")
    speeds, unit = (one.speed, other.speed), "s of audio per CPU second" if cpu else "x real time"
    if speeds[0] and speeds[1] and speeds[0] > least * speeds[1]:
        given = f"{_speed(speeds[0])} against {_speed(speeds[1])} {unit}"
        gains.append(f"{_times(speeds[0] / speeds[1])} faster in use ({given})")
    times = one.training_seconds, other.training_seconds
    if times[0] and times[1] and times[1] > least * times[0]:
        given = f"{duration(times[0])} against {duration(times[1])}{' of CPU time' if cpu else ''}"
        gains.append(f"{_times(times[1] / times[0])} cheaper to train ({given})")
    return gains


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times" if ratio >= 1.05 else "slightly"


def _speed(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _left_behind(judgement: Judgement) -> list[str]:
    """Return why candidates like the best that are cheaper than the chosen one were not taken."""
    chosen, lines = judgement.chosen, list[str]()
    for one in judgement.alike:
        if chosen is None or one is chosen or one.close or one.versus is None:
            continue
        if not (gains := _gains(one, chosen, judgement.cpu)):
            continue
        gap, error = (_gap(judgement.metric, abs(value)) for value in (one.versus.difference, one.versus.error))
        lines.append(
            f"{one.name} is {gains[0]}, and can't be told apart from the best either. It is not taken because its "
            f"figure is {gap} worse, which is more than one standard error ({error})."
        )
    return lines[:NAMED]


def _untrained(judgement: Judgement) -> list[str]:
    before, best = judgement.untrained, judgement.candidates[0]
    if before is None or judgement.untrained_wins:
        return []
    score = f"{before.model} had {_figure(judgement, before.score)} before training"
    if before.best.p_value >= LEVEL:
        return [
            f"{score}, and {best.name} can't be told apart from it ({_tested(judgement, before.best)}): "
            "that training helps is not shown."
        ]
    return [f"{score}; {best.name} is better ({_tested(judgement, before.best)})."]


def _power(judgement: Judgement) -> list[str]:
    """Return how many more utterances would decide between the best and the closest other one."""
    rivals = [one for one in judgement.alike if one.versus is not None]
    if not rivals:
        return []
    best, rival = judgement.candidates[0], rivals[0]
    if judgement.chosen in rivals:
        rival = next(one for one in rivals if one is judgement.chosen)
    assert rival.versus is not None
    if _same(rival):
        said = rival is judgement.chosen  # in the first line
        return [] if said else [f"{best.name} and {rival.name} have the same figures on every utterance."]
    more = more_utterances(judgement, rival.versus)
    if more is None:
        return [f"More utterances would hardly tell {best.name} and {rival.name} apart: their figures are too close."]
    whose = " of more speakers" if judgement.speakers else ""
    gap = _gap(judgement.metric, abs(rival.versus.difference))
    return [
        f"To show that a difference of {gap} between {best.name} and {rival.name} is real, about {_rounded(more):,} "
        f"more utterances{whose} would be needed (four times out of five, going by the standard error of "
        f"{_gap(judgement.metric, rival.versus.error)})."
    ]


def _limits(judgement: Judgement) -> list[str]:
    """Return what the figures do not show."""
    lines, number, split = [], len(judgement.candidates), judgement.comparison.splits[judgement.role]
    if judgement.over and number > 2:
        lines.append(
            f"{number - 1} candidates were compared with the best; their p-values are adjusted for that (Holm)."
        )
    if judgement.over == "utterances" and judgement.speakers:
        lines.append(
            f"{counted(judgement.speakers, 'speaker')}: too few to draw whole speakers, so intervals and p-values are "
            "for utterances of the same speakers, and too sure of themselves for others."
        )
    elif judgement.over == "utterances":
        lines.append("The speakers are not known: utterances count as independent, which makes intervals too narrow.")
    lead = judgement.chosen or judgement.candidates[0]
    tested = [
        f"{judgement.comparison.splits[role]} {_figure(judgement, lead.scores[role], named=False)}"
        for role in judgement.tests
        if role in lead.scores
    ]
    if tested:
        lines.append(f"{split} decided. {lead.name} on splits that did not decide: {', '.join(tested)}.")
    elif number > 1:
        lines.append(
            f"{split} both decided and gives these figures: the best of {number} on the same utterances looks better "
            "than it is. Set test_splits for a figure to report."
        )
    return [*lines, *_perfect(judgement), *(f"{note}." for note in judgement.notes)]


def _perfect(judgement: Judgement) -> list[str]:
    """Return how many errors there may be where none was found: the interval of the bootstrap is empty then."""
    perfect = 0.0 if judgement.metric.best == "min" else 1.0
    best, number = judgement.candidates[0].scores[judgement.role].value, judgement.utterances
    if judgement.metric.scale != 100 or best != perfect or not number:
        return []
    most = f"{300 / number:.{1 if number > 30 else 0}f} %"
    others = f"up to {most} of others like these may have one (95 %)"
    return [f"No error in {number:,} utterances does not mean none at all: {others}."]


# ---- words for figures ----


def _data(judgement: Judgement) -> str:
    of = f" of {counted(judgement.speakers, 'speaker')}" if judgement.speakers else ""
    return f"{counted(judgement.utterances, 'utterance')}{of}"


def _scored(judgement: Judgement, one: Candidate) -> str:
    return _figure(judgement, one.scores[judgement.role])


def _figure(judgement: Judgement, score: Score, named: bool = True) -> str:
    name = f"{judgement.metric.title} " if named else ""
    return f"{name}{with_interval(judgement.metric, score)}"


def with_interval(metric: Metric, score: Score) -> str:
    """Return a figure with its interval: "12.3 % [10.1, 14.9]"."""
    around = f" [{number(metric, score.interval.low)}, {number(metric, score.interval.high)}]" if score.interval else ""
    return f"{_shown(metric, score.value)}{around}"


def _shown(metric: Metric, value: float) -> str:
    return f"{number(metric, value)}{metric.unit}"


def number(metric: Metric, value: float) -> str:
    """Return a value of a metric without its unit: percent with one decimal, others with three."""
    return f"{value * metric.scale:.1f}" if metric.scale == 100 else f"{value * metric.scale:.3f}"


def _gap(metric: Metric, value: float) -> str:
    return f"{number(metric, value)}{' points' if metric.scale == 100 else ''}"


def between(metric: Metric, interval: Interval) -> str:
    """Return an interval of a difference: "-1.1 to 2.3"."""
    low, high = (number(metric, limit) for limit in (interval.low, interval.high))
    return f"{_minus(low)} to {_minus(high)}"


def _minus(text: str) -> str:
    return text.replace("-", "−")


def differ(metric: Metric, versus: Versus) -> str:
    """Return a difference with its interval, in words."""
    gap = _minus(_gap(metric, versus.difference))
    return f"difference of {gap}, 95 % interval {between(metric, versus.interval)}"


def _tested(judgement: Judgement, versus: Versus) -> str:
    return f"{differ(judgement.metric, versus)}, {p_value(versus.p_value)}"


def p_value(value: float) -> str:
    """Return a p-value: "p = 0.012"."""
    return "p < 0.001" if value < 0.001 else f"p = {min(value, 1):.3f}" if value < 0.1 else f"p = {min(value, 1):.2f}"


def duration(seconds: float) -> str:
    """Return a duration in a suitable unit."""
    for limit, unit, size in ((90, "s", 1), (5400, "min", 60)):
        if seconds < limit:
            return f"{seconds / size:.{0 if seconds / size >= 10 else 1}f} {unit}"
    return f"{seconds / 3600:.1f} h"


def _rounded(count: int) -> int:
    """Return a count with two significant digits."""
    return int(float(f"{count:.2g}"))


def _list(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]
