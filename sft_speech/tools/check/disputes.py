"""Findings about transcripts that a recognizer disputes: others match its hypothesis as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sft_speech.audio.read import AudioError
from sft_speech.metrics.words import character_errors
from sft_speech.tasks.asr.recognizer import Clip, scoring_of
from sft_speech.text.counted import counted
from sft_speech.tools.check.findings import Finding, finding
from sft_speech.tools.check.rows import Rows, quoted

if TYPE_CHECKING:
    from sft_speech.tasks.asr.transcriber import Transcriber

OTHERS = 8  # transcripts of similar length that the hypothesis is compared with too
AT_CHANCE = 0.85  # of the CER with the others: the utterance's transcript hardly fits better
SIGMAS, LEAST_SIGMA = 3.5, 0.08  # above the median, for partly correct transcripts
FAIR = 0.25  # median CER over chance; a worse model disputes only what is at chance
FEWEST = 10  # utterances, for chance and median to be meaningful
# If a weak model gets a word or two wrong, a short transcript looks wrong: those below SHORT characters are only judged
# by a model whose median CER over chance is at most GOOD.
SHORT, GOOD = 12, 0.15
WEAK = 0.4  # median CER over chance; a worse model disputes some correct transcripts
# A model that is not sure of a hypothesis disputes nothing with it: below LEAST_SURE, exp of Whisper's mean
# log-probability, or the mean posterior of CTC; and of a weak model, the UNSUREST share of its hypotheses.
LEAST_SURE, UNSUREST = 0.5, 0.1
MIXED_UP = 0.2  # share of disputed transcripts; above it, the model or the whole table is wrong


@dataclass
class Recognized:
    """Transcripts and hypotheses of N utterances.

    Args:
        rows: (N,) row numbers.
        references: N transcripts, normalized for the model.
        hypotheses: N texts from the model, normalized alike.
        error_rates: (N,) CER with their transcripts.
        chance: (N,) CER with transcripts of other utterances, see :func:`chance`.
        confidences: (N,) of the hypotheses; 1 if the model does not tell, or wrote nothing.
    """

    rows: np.ndarray
    references: list[str]
    hypotheses: list[str]
    error_rates: np.ndarray
    chance: np.ndarray
    confidences: np.ndarray

    @property
    def misfit(self) -> np.ndarray:
        """(N,) CER over chance: about 1 for an unrelated transcript, however good the model is."""
        return self.error_rates / np.maximum(self.chance, 1e-9)

    def rates(self, place: int) -> str:
        """Return the CER of one utterance with its own and with other transcripts, as text."""
        return f"CER {self.error_rates[place]:.0%} (with other transcripts: {self.chance[place]:.0%})"


def recognize_rows(
    transcriber: Transcriber, rows: Rows, picked: np.ndarray, progress: Callable[[float], Any]
) -> Recognized:
    """Transcribe rows; those whose normalized transcript is empty are left out.

    Args:
        picked: row numbers.
        progress: called with the seconds of audio just transcribed.
    """
    scoring = scoring_of(transcriber.checkpoint)
    normalized = [scoring.reference(text) for text in rows.texts]
    numbers = [int(row) for row in picked if normalized[row]]

    def clips() -> Iterator[Clip]:
        for number in numbers:
            row = rows.row(number)
            yield Clip(row["audio"], row["seconds"], row["start"], channel=row.get("channel"))

    limit = transcriber.max_batch_seconds
    results = transcriber.checkpoint.recognize(clips(), max_batch_seconds=limit, progress=progress)
    found = {
        number: (scoring.hypothesis(result.text), 1.0 if result.confidence is None else result.confidence)
        for number, result in zip(numbers, results, strict=True)
        if not isinstance(result, AudioError)
    }
    references, hypotheses = [normalized[row] for row in found], [text for text, _ in found.values()]
    sure = np.array([confidence for _, confidence in found.values()])
    own = np.array([errors.rate for errors in character_errors(references, hypotheses)])
    return Recognized(np.array(list(found), int), references, hypotheses, own, chance(references, hypotheses), sure)


def chance(references: list[str], hypotheses: list[str]) -> np.ndarray:
    """Return the median CER (N,) of each of N hypotheses against transcripts of other utterances.

    These are the :data:`OTHERS` different transcripts of nearest length; the rate is 1 if there are none.
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


def is_weak(misfit: np.ndarray) -> bool:
    """Return whether a model is so weak that it disputes some correct transcripts."""
    return bool(len(misfit)) and float(np.median(misfit)) > WEAK


def disputed(misfit: np.ndarray, lengths: np.ndarray, confidences: np.ndarray | None = None) -> np.ndarray:
    """Return which of N utterances (N,) have a transcript that is likely wrong.

    Args:
        misfit: (N,) see :class:`Recognized`.
        lengths: (N,) characters of the transcript or the hypothesis, whichever is longer.
        confidences: (N,) of the hypotheses; None: the model is sure of all of them.
    """
    judged = np.ones(len(misfit), bool)
    if len(misfit) and np.median(misfit) > GOOD:
        judged = lengths >= SHORT
    if judged.sum() < FEWEST:
        return np.zeros(len(misfit), bool)
    median = float(np.median(misfit[judged]))
    sigma = max(LEAST_SIGMA, 1.4826 * float(np.median(np.abs(misfit[judged] - median))))
    found = judged & (misfit > (AT_CHANCE if median > FAIR else min(AT_CHANCE, median + SIGMAS * sigma)))
    if confidences is None:
        return found
    least = np.quantile(confidences, UNSUREST) if is_weak(misfit) else LEAST_SURE
    return found & (confidences >= max(LEAST_SURE, least))


def section(recognized: Recognized, name: str) -> dict[str, Any]:
    """Return the section ``model`` of the report."""
    errors = misfit = None
    summary = "no utterance was transcribed"
    if len(recognized.rows):
        errors, misfit = float(np.median(recognized.error_rates)), float(np.median(recognized.misfit))
        summary = (
            f"{name} transcribed {counted(len(recognized.rows), 'utterance')}: median CER {errors:.0%}, "
            f"{misfit:.0%} of the CER with transcripts of other recordings"
        )
    count = len(recognized.rows)
    return {"name": name, "utterances": count, "median_cer": errors, "median_misfit": misfit, "said": summary}


def findings(rows: Rows, recognized: Recognized) -> list[Finding]:
    """Return the transcripts that are likely wrong, or the finding that the model cannot judge."""
    texts = list(zip(recognized.references, recognized.hypotheses, strict=True))
    lengths = np.array([max(map(len, both)) for both in texts], int)
    where = disputed(recognized.misfit, lengths, recognized.confidences)
    share = float(where.mean()) if len(where) else 0.0
    if share > MIXED_UP:
        title = f"{share:.0%} of the transcripts match the recognized text no better than those of other recordings"
        do = (
            "if the model knows this language and this kind of recording, the rows are mixed up: listen to some; "
            "otherwise use a model that does"
        )
        rule = f"more than {MIXED_UP:.0%} are disputed, too many to list single ones"
        return [Finding("most_disputed", "warning", title, rule, do)]
    places = {int(recognized.rows[n]): n for n in np.argsort(-recognized.misfit, kind="stable") if where[n]}

    def detail(row: int) -> str:
        place = places[row]
        return f"{recognized.rates(place)}: {rows.quote(row)}, recognized {quoted(recognized.hypotheses[place])}"

    weak = is_weak(recognized.misfit)
    cases = rows.cases(places, detail)
    what = "that the model disputes: " + ("perhaps wrong, but the model is weak here" if weak else "likely wrong")
    rule = (
        f"the CER with its transcript is above {AT_CHANCE:.0%} of the CER with other transcripts of similar length, "
        f"or, if the median of this share is at most {FAIR:.0%}, {SIGMAS:g} robust standard deviations above it; a "
        f"model whose median is above {GOOD:.0%} doesn't judge texts of fewer than {SHORT} characters, and none judges "
        f"with a confidence below {LEAST_SURE:g}, a weak one not with the lowest {UNSUREST:.0%} of its confidences"
    )
    do = "listen: correct the transcript, look for swapped rows, or leave the utterance out"
    return finding(
        "disputed_transcript", "warning" if weak else "problem", cases, "transcript", what, rule, do, listen=True
    )
