"""Transcripts that a model disputes: they fit what it heard no better than those of other utterances."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sft_speech.audio.read import AudioError
from sft_speech.metrics.words import character_errors
from sft_speech.tasks.asr.ctc.recognize import Clip, recognize
from sft_speech.tools.check.findings import Case, Finding, counted
from sft_speech.tools.check.rows import Rows
from sft_speech.tools.check.texts import quoted

if TYPE_CHECKING:
    from sft_speech.tasks.asr.transcriber import Transcriber

OTHERS = 8  # transcripts of the nearest lengths that are tried in place of an utterance's own
AT_CHANCE = 0.92  # of the CER of the others: the own transcript fits hardly better
SIGMAS, LEAST_SIGMA = 3.5, 0.08  # above the median, for a transcript that fits in part
FEWEST = 10  # utterances, for chance and median to mean anything
# A word or two that a weak model mishears look as wrong as a wrong transcript: such short ones (characters) are judged
# only by a model that is as good as this (median CER over chance).
SHORT, GOOD = 12, 0.15
WEAK = 0.4  # median CER over chance; who hears so little accuses the innocent now and then
LOST = 0.2  # share of disputed transcripts above which the model, or the whole table, is wrong


@dataclass
class Heard:
    """What a model heard in utterances.

    Args:
        rows: (N,) their numbers.
        references: N transcripts, as the model writes them.
        hypotheses: N texts.
        error_rates: (N,) CER of the transcripts.
        chance: (N,) CER of the transcripts of other utterances in their place, see :func:`chance`.
    """

    rows: np.ndarray
    references: list[str]
    hypotheses: list[str]
    error_rates: np.ndarray
    chance: np.ndarray

    @property
    def misfit(self) -> np.ndarray:
        """(N,) CER over chance: about 1 for a transcript that has nothing to do with the recording, whatever the model
        is worth.
        """
        return self.error_rates / np.maximum(self.chance, 1e-9)


def hear(
    transcriber: Transcriber, rows: Rows, spelt: list[str], picked: np.ndarray, progress: Callable[[float], Any]
) -> Heard:
    """Transcribes rows.

    Args:
        spelt: the transcripts of all rows, as the model writes them; rows without one are left out.
        picked: numbers of rows.
        progress: called with the seconds of audio behind it.
    """
    numbers = [int(row) for row in picked if spelt[row]]

    def clips() -> Iterator[Clip]:
        for number in numbers:
            row = rows.row(number)
            yield Clip(row["audio"], row["seconds"], row["start"])

    limit = transcriber.max_batch_seconds
    results = recognize(transcriber.checkpoint, clips(), max_batch_seconds=limit, progress=progress)
    heard = [
        (number, result.text)
        for number, result in zip(numbers, results, strict=True)
        if not isinstance(result, AudioError)
    ]
    kept, hypotheses = np.array([number for number, _ in heard], int), [text for _, text in heard]
    references = [spelt[row] for row in kept]
    own = np.array([errors.rate for errors in character_errors(references, hypotheses)])
    return Heard(kept, references, hypotheses, own, chance(references, hypotheses))


def chance(references: list[str], hypotheses: list[str]) -> np.ndarray:
    """(N,) median CER of each of N hypotheses against the transcripts of other utterances, :data:`OTHERS` of them whose
    lengths are nearest, and which say something else; 1 where there are none.
    """
    distinct = sorted(set(references), key=lambda text: (len(text), text))
    place = {text: number for number, text in enumerate(distinct)}
    rates = []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        first = max(0, min(place[reference] - OTHERS // 2, len(distinct) - OTHERS - 1))
        others = [text for text in distinct[first : first + OTHERS + 1] if text != reference]
        tried = character_errors(others, [hypothesis] * len(others))
        rates.append(float(np.median([errors.rate for errors in tried])) if tried else 1.0)
    return np.array(rates)


def disputed(misfit: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(N,) which of N utterances have a transcript that is likely wrong, by misfit and length: the characters of its
    transcript, or of what was heard, whichever are more.
    """
    if len(misfit) < FEWEST:
        return np.zeros(len(misfit), bool)
    judged = np.ones(len(misfit), bool) if np.median(misfit) <= GOOD else lengths >= SHORT
    if judged.sum() < FEWEST:
        return np.zeros(len(misfit), bool)
    middle = float(np.median(misfit[judged]))
    sigma = max(LEAST_SIGMA, 1.4826 * float(np.median(np.abs(misfit[judged] - middle))))
    return judged & (misfit > min(AT_CHANCE, middle + SIGMAS * sigma))


def rates(heard: Heard, place: int) -> str:
    """The CER of one utterance, and what to hold it against."""
    return f"CER {heard.error_rates[place]:.0%} (transcripts of others: {heard.chance[place]:.0%})"


def section(heard: Heard, name: str) -> dict[str, Any]:
    """The part ``model`` of the report: its figures, and every utterance that was heard, worst first."""
    errors = float(np.median(heard.error_rates)) if len(heard.rows) else None
    misfit = float(np.median(heard.misfit)) if len(heard.rows) else None
    said = "no utterance was heard"
    if errors is not None and misfit is not None:
        said = (
            f"{name} heard {counted(len(heard.rows), 'utterance')}: median CER {errors:.0%}, "
            f"{misfit:.0%} of what transcripts of other recordings would get"
        )
    return {"name": name, "utterances": len(heard.rows), "median_cer": errors, "median_misfit": misfit, "said": said}


def findings(rows: Rows, heard: Heard) -> list[Finding]:
    """The transcripts that are likely wrong; or that the model can't tell."""
    both = zip(heard.references, heard.hypotheses, strict=True)
    where = disputed(heard.misfit, np.array([max(map(len, texts)) for texts in both], int))
    if not where.any():
        return []
    share = float(where.mean())
    if share > LOST:
        title = f"{share:.0%} of the transcripts fit what the model heard no better than those of other recordings"
        do = (
            "if the model knows this language and this kind of recording, the rows are mixed up: listen to some of "
            "them; else take a model that does"
        )
        rule = f"so many disputed, more than {LOST:.0%}, that no single one is accused"
        return [Finding("most_disputed", "warning", title, rule, do)]
    order = [place for place in np.argsort(-heard.misfit, kind="stable") if where[place]]
    cases = []
    for place in order:
        row = int(heard.rows[place])
        told = f"{rates(heard, place)}: {quoted(rows.texts[row])}, heard {quoted(heard.hypotheses[place])}"
        cases.append(Case(rows.name(row), rows.ids[row], told, row))
    weak = float(np.median(heard.misfit)) > WEAK
    doubt = "perhaps wrong, but the model hears little here" if weak else "likely wrong"
    title = f"{counted(len(cases), 'transcript')} that the model disputes: {doubt}"
    rule = (
        f"the CER of what was heard is more than {AT_CHANCE:.0%} of that of other transcripts of that length, or "
        f"{SIGMAS:g} robust standard deviations above the median of this share; of a model whose median is above "
        f"{GOOD:.0%}, texts of fewer than {SHORT} characters aren't judged"
    )
    do = "listen: correct the transcript, look for swapped rows, or leave the utterance out"
    return [Finding("disputed_transcript", "warning" if weak else "problem", title, rule, do, cases, heard=True)]
