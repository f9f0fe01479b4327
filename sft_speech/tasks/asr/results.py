"""The result of an evaluation of a recognizer: its utterances, error rates and loops, as files and as text."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft_speech.corpora.report import file_stem
from sft_speech.errors import UserError
from sft_speech.metrics.calibration import Calibration
from sft_speech.metrics.intervals import Comparison, Interval, compare_rows
from sft_speech.metrics.loops import Loop
from sft_speech.metrics.words import Errors, confusions, interval, rate_of, sum_errors
from sft_speech.tasks.asr.ctc.decoding import GREEDY
from sft_speech.tasks.asr.recognizer import Counts, Hypothesis
from sft_speech.text.counted import counted
from sft_speech.text.scoring import words_of
from sft_speech.text.unspelt import Unspelt

CONFUSIONS_SHOWN = 15
FOLDED_SHOWN = 10  # letters
LOOPS_LISTED, LOOPS_SHOWN = 20, 5  # ids in SPLIT.json and in messages


@dataclass(frozen=True)
class Utterance:
    """An utterance and its errors.

    Args:
        reference, hypothesis: normalized.
        words, characters: errors between the normalized texts.
        written: reference and hypothesis as they were written; None if normalization changed neither.
        as_written: errors in words between these; None for a recognizer that has an alphabet of its own.
        loop: why the hypothesis was likely not spoken, see :mod:`sft_speech.metrics.loops`.
        folded: letters of the reference that lost their marks or were left out in normalization.
        confidence: how sure the recognizer is of the hypothesis; None if it does not tell.
        judged: confidence of each word of the normalized hypothesis, and whether it is right.
    """

    id: str
    speaker: str
    reference: str
    hypothesis: str
    seconds: float
    words: Errors
    characters: Errors
    written: tuple[str, str] | None = None
    as_written: Errors | None = None
    loop: Loop | None = None
    folded: Counter[str] = field(default_factory=Counter)
    confidence: float | None = None
    judged: tuple[tuple[float, bool], ...] = ()

    def row(self) -> dict[str, object]:
        """Return its line of SPLIT.jsonl: texts as they were written, and the normalized ones that differ."""
        reference, hypothesis = self.written or (self.reference, self.hypothesis)
        line: dict[str, object] = {"id": self.id, "reference": reference, "hypothesis": hypothesis}
        if reference != self.reference:
            line["normalized_reference"] = self.reference
        if hypothesis != self.hypothesis:
            line["normalized_hypothesis"] = self.hypothesis
        line |= {
            "seconds": round(self.seconds, 3),
            "word_errors": self.words.total,
            "words": self.words.reference,
            "character_errors": self.characters.total,
            "characters": self.characters.reference,
        }
        if self.as_written is not None:
            line["word_errors_as_written"] = self.as_written.total
            line["words_as_written"] = self.as_written.reference
        line |= {"confidence": round(self.confidence, 4)} if self.confidence is not None else {}
        line |= {"speaker": self.speaker} if self.speaker else {}
        return line | ({"loop": self.loop} if self.loop else {})


@dataclass
class EvaluationResult:
    """Counts and texts of an evaluation; results of parts of a corpus can be merged.

    Args:
        utterances: in the order of the corpus.
        failed: why an utterance could not be read, by its id; it is not counted.
        loss_sum: sum of the losses.
        labels: number of labels behind ``loss_sum``.
        counts: counts that only this kind of recognizer has.
        runtime: seconds of computation.
        cpu_time: the same on all processors; 0 if it was not done on the CPU.
        decoding: how hypotheses were searched for.
        normalizer: name of the normalizer of ``wer`` and ``cer``, see :mod:`sft_speech.text.scoring`.
        spaced: whether words have spaces between them; if not, each letter counts as a word.
        unspelt: what references keep that hypotheses have in words; None: nothing.
        plain: the evaluation of a Whisper as plain transformers uses it, with every clip padded to 30 s; None if it was
            not done, or is this one.
    """

    utterances: list[Utterance] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    loss_sum: float = 0.0
    labels: int = 0
    counts: Counts = field(default_factory=Counts)
    runtime: float = 0.0
    cpu_time: float = 0.0
    decoding: dict[str, object] = field(default_factory=GREEDY.copy)
    normalizer: str = "checkpoint"
    spaced: bool = True
    plain: EvaluationResult | None = None
    unspelt: Unspelt | None = None

    @classmethod
    def merge(cls, parts: Iterable[EvaluationResult]) -> EvaluationResult:
        """Return the result of a corpus from those of its parts, each evaluated by a process at the same time."""
        whole = cls()
        for part in parts:
            whole.utterances += part.utterances
            whole.failed |= part.failed
            whole.loss_sum += part.loss_sum
            whole.labels += part.labels
            whole.counts += part.counts
            whole.runtime = max(whole.runtime, part.runtime)
            whole.cpu_time += part.cpu_time
            whole.decoding, whole.normalizer, whole.spaced = part.decoding, part.normalizer, part.spaced
            whole.unspelt = part.unspelt
        return whole

    def add(self, utterance: Utterance, found: Hypothesis, labels: int) -> None:
        """Add an utterance with its hypothesis and the number of its labels."""
        self.utterances.append(utterance)
        self.counts += found.counts
        if found.loss is not None:
            self.loss_sum += found.loss
            self.labels += labels

    @property
    def words(self) -> Errors:
        """Errors in words."""
        return sum_errors(utterance.words for utterance in self.utterances)

    @property
    def characters(self) -> Errors:
        """Errors in characters."""
        return sum_errors(utterance.characters for utterance in self.utterances)

    @property
    def wer(self) -> float:
        """Word errors over words of the references, 1.0 = 100 %."""
        return self.words.rate

    @property
    def cer(self) -> float:
        """Character errors over characters of the references, spaces included."""
        return self.characters.rate

    @property
    def written(self) -> list[Errors]:
        """Errors in words of the texts as they were written; empty if they were not counted."""
        return [utterance.as_written for utterance in self.utterances if utterance.as_written is not None]

    @property
    def wer_as_written(self) -> float:
        """Like ``wer``, but of the texts as they were written; NaN if these errors were not counted."""
        return sum_errors(self.written).rate if self.written else math.nan

    @property
    def loops(self) -> list[Utterance]:
        """Utterances whose hypotheses were likely not spoken."""
        return [utterance for utterance in self.utterances if utterance.loop is not None]

    @property
    def loss(self) -> float:
        """Loss in nats per label; NaN if none was computed."""
        return self.loss_sum / self.labels if self.labels else math.nan

    @property
    def seconds(self) -> float:
        """Seconds of audio that were recognized."""
        return sum(utterance.seconds for utterance in self.utterances)

    @property
    def real_time_factor(self) -> float:
        """Seconds of computation per second of audio."""
        return self.runtime / self.seconds if self.seconds else math.nan

    def word_interval(self) -> Interval:
        """Return the 95 % bootstrap interval of ``wer``."""
        return interval([u.words for u in self.utterances], [u.speaker for u in self.utterances])

    def written_interval(self) -> Interval:
        """Return the 95 % bootstrap interval of ``wer_as_written``."""
        return interval(self.written, [u.speaker for u in self.utterances])

    def character_interval(self) -> Interval:
        """Return the 95 % bootstrap interval of ``cer``."""
        return interval([u.characters for u in self.utterances], [u.speaker for u in self.utterances])

    def compare(self, before: list[dict[str, Any]], metric: str) -> Comparison | None:
        """Return the paired difference of "wer" or "cer" to an earlier evaluation, from the lines of its SPLIT.jsonl;
        None if the utterances are not the same, or for another metric.
        """
        counts = {"wer": ("word_errors", "words"), "cer": ("character_errors", "characters")}
        if metric not in counts:
            return None
        rows, speakers = [one.row() for one in self.utterances], [one.speaker for one in self.utterances]
        return compare_rows(rows, before, lambda row: [row[key] for key in counts[metric]], rate_of, speakers)

    def confusions(self) -> list[tuple[tuple[str, str], int]]:
        """Return ((reference word, hypothesis word), count), most frequent first; "" is a missing word."""
        references = [words_of(u.reference, self.spaced) for u in self.utterances]
        found = confusions(references, [words_of(u.hypothesis, self.spaced) for u in self.utterances])
        return sorted(found.items(), key=lambda item: (-item[1], item[0]))

    def summary(self) -> dict[str, object]:
        """Return the figures of SPLIT.json; those without data (no audio, no labels) are null."""
        words, of_words, of_characters = self.words, self.word_interval(), self.character_interval()
        figures: dict[str, object] = {
            **({} if self.spaced else {"headline": "cer"}),
            "wer": words.rate,
            "wer_interval": [of_words.low, of_words.high],
            **self._written_figures(),
            **self._plain_figures(),
            "normalizer": self.normalizer,
            "cer": self.cer,
            "cer_interval": [of_characters.low, of_characters.high],
            "interval_over": of_words.over,
            "substitutions": words.substitutions,
            "deletions": words.deletions,
            "insertions": words.insertions,
            "words": words.reference,
            "utterances": len(self.utterances),
            "speakers": len({u.speaker for u in self.utterances if u.speaker}),
            "hours": self.seconds / 3600,
            "loss": self.loss,
            **self._loop_figures(),
            **self._unspelt_figures(),
            **self._folded_figures(),
            **self.counts.figures(),
            "real_time_factor": self.real_time_factor,
            **({"cpu_real_time_factor": self.cpu_time / self.seconds} if self.cpu_time and self.seconds else {}),
            **({"calibration": self.calibration.to_dict()} if self.calibration else {}),
            "decoding": self.decoding,
            "failed": self.failed,
        }
        if not self.spaced:  # its CER comes first
            figures = {name: figures[name] for name in ("headline", "cer", "cer_interval")} | figures
        return {name: _finite(value) for name, value in figures.items()}

    def _written_figures(self) -> dict[str, object]:
        if not self.written:
            return {}
        around = self.written_interval()
        return {"wer_as_written": self.wer_as_written, "wer_as_written_interval": [around.low, around.high]}

    def _plain_figures(self) -> dict[str, object]:
        if self.plain is None:
            return {}
        around = self.plain.word_interval()
        return {"wer_plain": self.plain.wer, "wer_plain_interval": [around.low, around.high]}

    def _loop_figures(self) -> dict[str, object]:
        if not self.loops:
            return {"loops": 0}
        reasons = Counter(utterance.loop for utterance in self.loops)
        ids = [utterance.id for utterance in self.loops[:LOOPS_LISTED]]
        return {"loops": len(self.loops), "loop_reasons": dict(reasons.most_common()), "loop_ids": ids}

    def _folded_figures(self) -> dict[str, object]:
        """Return the letters of references that lost their marks or were left out; WER and CER ignore these."""
        found = [utterance for utterance in self.utterances if utterance.folded]
        if not found:
            return {}
        letters = sum((utterance.folded for utterance in found), Counter[str]())
        return {"folded": {"letters": dict(letters.most_common()), "utterances": len(found), "first": found[0].id}}

    def folded_summary(self) -> str:
        """Return which letters of the references lost their marks or were left out; "" if none were."""
        folded: Any = self._folded_figures().get("folded")
        if folded is None:
            return ""
        shown = ", ".join(f"{letter} {count}" for letter, count in list(folded["letters"].items())[:FOLDED_SHOWN])
        return (
            "WER and CER are of references without characters and marks that the vocabulary lacks: "
            f"{shown} in {folded['utterances']} of {len(self.utterances)} references, the first is {folded['first']}"
        )

    def loop_summary(self) -> str:
        """Return how many hypotheses were likely not spoken, why, and the first of them; "" if there are none."""
        if not self.loops:
            return ""
        reasons = Counter(str(utterance.loop) for utterance in self.loops).most_common()
        counted = ", ".join(f"{reason} {count}" for reason, count in reasons)
        ids = [utterance.id for utterance in self.loops]
        shown = ", ".join(ids[:LOOPS_SHOWN]) + (", ..." if len(ids) > LOOPS_SHOWN else "")
        return f"{len(ids)} of {len(self.utterances)} hypotheses were likely not spoken ({counted}): {shown}"

    @property
    def calibration(self) -> Calibration | None:
        """What confidences of words are worth; None if the recognizer gives none."""
        judged = [one for utterance in self.utterances for one in utterance.judged]
        return Calibration.of(judged) if judged else None

    @property
    def references(self) -> list[str]:
        """The references as they are written."""
        return [(one.written or (one.reference,))[0] for one in self.utterances]

    def _unspelt_figures(self) -> dict[str, object]:
        count = self.unspelt.count(self.references) if self.unspelt else 0
        return {"unspelt": count} if count else {}

    def unspelt_summary(self) -> str:
        """Return how many references have numbers or symbols that are not spelled out, and the first; "" for none."""
        ids = [one.id for one in self.utterances]
        return self.unspelt.summary(ids, self.references) if self.unspelt else ""

    def save(self, folder: str | Path, split: str, source: str | None = None) -> Path:
        """Write SPLIT.jsonl and SPLIT.json into ``folder``, which is created; return the path of the second.

        Args:
            source: source of the corpus, if it is not that of the run.

        Raises:
            UserError: the folder cannot be written.
        """
        folder, name = Path(folder), file_stem(split)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as lines:
                lines.writelines(json.dumps(u.row(), ensure_ascii=False) + "\n" for u in self.utterances)
            summary = self.summary() | ({"source": source} if source else {})
            figures = json.dumps(summary, ensure_ascii=False, indent=2, allow_nan=False)
            (folder / f"{name}.json").write_text(figures + "\n", encoding="utf-8")
        except OSError as error:
            why = f"it cannot be written ({error.strerror})"
            raise UserError(str(folder), why, "choose another --output") from error
        return folder / f"{name}.json"

    def metrics(self) -> dict[str, float]:
        """Return the figures that the trainer logs, without those that have no data."""
        figures = {"loss": self.loss, "wer": self.wer, "wer_as_written": self.wer_as_written, "cer": self.cer}
        figures |= {"wer_plain": self.plain.wer} if self.plain else {}
        figures |= {"loops": len(self.loops), **self.counts.metrics()}
        if not self.spaced:
            figures = {"loss": self.loss, "cer": self.cer} | figures
        return {name: value for name, value in figures.items() if math.isfinite(value)}

    def table(self, split: str = "") -> str:
        """Return the figures and the most frequent confusions as text."""
        speed = 1 / self.real_time_factor if self.real_time_factor else math.nan
        first = f"{counted(len(self.utterances), 'utterance')}, {self.seconds / 3600:.2f} h, {speed:.0f} x real time"
        rates = [("WER", self.words, self.word_interval()), ("CER", self.characters, self.character_interval())]
        normalizer = ""
        if self.written:
            rates.insert(1, ("WER as written", sum_errors(self.written), self.written_interval()))
            normalizer = f"normalizer: {self.normalizer}"
        if self.plain is not None:
            rates.insert(1, ("WER padded to 30 s", self.plain.words, self.plain.word_interval()))
        if not self.spaced:  # a sentence without spaces would be one word
            rates = [
                rates[-1],
                *((name.replace("WER", "WER of letters"), one, around) for name, one, around in rates[:-1]),
            ]
        width = max(len(name) for name, *_ in rates)
        lines = [", ".join(filter(None, [f"{split}: {first}" if split else first, normalizer, self.counts.summary()]))]
        lines += [_rate_line(f"{name:{width}}", errors, found) for name, errors, found in rates]
        lines += filter(None, [self.folded_summary(), self.loop_summary(), self.unspelt_summary()])
        if self.failed:
            one, several = "utterance could not be read and is", "utterances could not be read and are"
            lines.append(f"{counted(len(self.failed), one, several)} not counted")
        repeated = [one for one in self.confusions() if one[1] > 1][:CONFUSIONS_SHOWN]
        found = [(a or "(nothing)", b or "(nothing)", n) for (a, b), n in repeated]
        if found:
            width = max(len("reference"), *(len(reference) for reference, _, _ in found))
            lines += ["", f"times  {'reference':{width}}  hypothesis"]
            lines += [f"{count:5}  {reference:{width}}  {hypothesis}" for reference, hypothesis, count in found]
        if calibration := self.calibration:
            lines += ["", *calibration.lines()]
        return "\n".join(lines)


def _rate_line(name: str, errors: Errors, found: Interval) -> str:
    return (
        f"{name} {100 * errors.rate:6.2f} %  [{100 * found.low:.2f}, {100 * found.high:.2f}] over {found.over}   "
        f"{errors.substitutions} substituted, {errors.deletions} deleted, {errors.insertions} inserted "
        f"of {errors.reference}"
    )


def _finite(value: object) -> object:
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
