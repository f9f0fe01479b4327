"""Evaluate a model on a corpus: word and character error rate, their intervals, and what was mistaken for what.

Writes evaluation/SPLIT.jsonl (one line per utterance) and evaluation/SPLIT.json (the figures).
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft_speech.corpora.arguments import evaluation_folder, rows_of_arguments
from sft_speech.corpora.report import file_stem, source_name
from sft_speech.corpora.rows import column_of
from sft_speech.errors import UserError
from sft_speech.metrics.intervals import Interval
from sft_speech.metrics.words import Errors, character_errors, confusions, interval, sum_errors, word_errors
from sft_speech.tasks.asr.ctc.decoding import GREEDY, add_decoding_arguments, decoding_of

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

    from sft_speech.corpora.report import CorpusReport
    from sft_speech.tasks.asr.ctc.beam import BeamDecoder
    from sft_speech.tasks.asr.ctc.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

CONFUSIONS_SHOWN = 15
# CTC first learns to say nothing; a model that speaks leaves well under this share of frames to the blank.
BLANK_SHARE_OF_SILENCE = 0.995


@dataclass(frozen=True)
class Utterance:
    """One utterance, normalized, and what was heard."""

    id: str
    speaker: str
    reference: str
    hypothesis: str
    seconds: float
    words: Errors
    characters: Errors

    def row(self) -> dict[str, Any]:
        """Its line of the per-utterance file."""
        return {
            "id": self.id,
            "reference": self.reference,
            "hypothesis": self.hypothesis,
            "seconds": round(self.seconds, 3),
            "word_errors": self.words.total,
            "words": self.words.reference,
        }


@dataclass
class EvaluationResult:
    """What an evaluation found: counts and texts, so that the parts of a corpus can be put together.

    Args:
        utterances: in the order of the corpus.
        failed: why an utterance could not be heard, by its id; those count nowhere.
        loss_sum: CTC losses, summed; ``labels``: token ids behind it.
        infeasible: utterances whose labels don't fit into their frames; they count as 0 in ``loss_sum``.
        frames, blanks: frames, and how many of them were blank.
        runtime: seconds of computing.
        decoding: how transcripts were searched for.
    """

    utterances: list[Utterance] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    loss_sum: float = 0.0
    labels: int = 0
    infeasible: int = 0
    frames: int = 0
    blanks: int = 0
    runtime: float = 0.0
    decoding: dict[str, Any] = field(default_factory=GREEDY.copy)

    @classmethod
    def merge(cls, parts: Iterable[EvaluationResult]) -> EvaluationResult:
        """The result of a corpus from those of its parts, each heard by a process of its own at the same time."""
        whole = cls()
        for part in parts:
            whole.utterances += part.utterances
            whole.failed |= part.failed
            whole.loss_sum += part.loss_sum
            whole.labels += part.labels
            whole.infeasible += part.infeasible
            whole.frames += part.frames
            whole.blanks += part.blanks
            whole.runtime = max(whole.runtime, part.runtime)
            whole.decoding = part.decoding
        return whole

    @property
    def words(self) -> Errors:
        """Counts in words."""
        return sum_errors(utterance.words for utterance in self.utterances)

    @property
    def characters(self) -> Errors:
        """Counts in characters."""
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
    def loss(self) -> float:
        """CTC loss in nats per label; NaN where no loss was computed."""
        return self.loss_sum / self.labels if self.labels else math.nan

    @property
    def blank_share(self) -> float:
        """Share of frames in which the blank is the best token."""
        return self.blanks / self.frames if self.frames else math.nan

    @property
    def seconds(self) -> float:
        """Audio that was heard."""
        return sum(utterance.seconds for utterance in self.utterances)

    @property
    def real_time_factor(self) -> float:
        """Seconds of computing per second of audio."""
        return self.runtime / self.seconds if self.seconds else math.nan

    def word_interval(self) -> Interval:
        """95 % bootstrap interval of ``wer``."""
        return interval([u.words for u in self.utterances], [u.speaker for u in self.utterances])

    def character_interval(self) -> Interval:
        """95 % bootstrap interval of ``cer``."""
        return interval([u.characters for u in self.utterances], [u.speaker for u in self.utterances])

    def confusions(self) -> list[tuple[tuple[str, str], int]]:
        """((reference word, hypothesis word), count), most frequent first; "" stands for a word that isn't there."""
        found = confusions([u.reference for u in self.utterances], [u.hypothesis for u in self.utterances])
        return sorted(found.items(), key=lambda item: (-item[1], item[0]))

    def summary(self) -> dict[str, Any]:
        """The figures of SPLIT.json; what can't be said (no audio, no labels) is null."""
        words, of_words, of_characters = self.words, self.word_interval(), self.character_interval()
        figures = {
            "wer": words.rate,
            "wer_interval": [of_words.low, of_words.high],
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
            "infeasible": self.infeasible,
            "blank_share": self.blank_share,
            "real_time_factor": self.real_time_factor,
            "decoding": self.decoding,
            "failed": self.failed,
        }
        return {name: _finite(value) for name, value in figures.items()}

    def save(self, folder: str | Path, split: str, source: str | None = None) -> Path:
        """Writes SPLIT.jsonl and SPLIT.json into ``folder``, which is made; returns the path of the second.

        Args:
            source: corpus, where it isn't that of the run.

        Raises:
            UserError: the folder can't be written.
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
            why = f"it can't be written ({error.strerror})"
            raise UserError(str(folder), why, "choose another --output") from error
        return folder / f"{name}.json"

    def metrics(self) -> dict[str, float]:
        """The figures that a trainer logs: loss, wer, cer and share of blank frames; those without data left out."""
        figures = {"loss": self.loss, "wer": self.wer, "cer": self.cer, "blank_share": self.blank_share}
        return {name: value for name, value in figures.items() if math.isfinite(value)}

    def table(self, split: str = "") -> str:
        """The figures and the most frequent confusions, to be read by people."""
        words = self.words
        speed = 1 / self.real_time_factor if self.real_time_factor else math.nan
        lines = [
            f"{split}{': ' if split else ''}{len(self.utterances)} utterances, {self.seconds / 3600:.2f} h, "
            f"{speed:.0f} x real time, {100 * self.blank_share:.1f} % blank frames",
            _rate_line("WER", words, self.word_interval()),
            _rate_line("CER", self.characters, self.character_interval()),
        ]
        if self.failed:
            lines.append(f"{len(self.failed)} utterances could not be read and count nowhere")
        found = self.confusions()[:CONFUSIONS_SHOWN]
        if found:
            width = max(len(said or "(nothing)") for (said, _), _ in found)
            lines += ["", "times  " + "said".ljust(width) + "  heard"]
            lines += [f"{n:5}  {(said or '(nothing)'):{width}}  {heard or '(nothing)'}" for (said, heard), n in found]
        return "\n".join(lines)


def _rate_line(name: str, errors: Errors, found: Interval) -> str:
    return (
        f"{name} {100 * errors.rate:6.2f} %  [{100 * found.low:.2f}, {100 * found.high:.2f}] over {found.over}   "
        f"{errors.substitutions} substituted, {errors.deletions} deleted, {errors.insertions} inserted "
        f"of {errors.reference}"
    )


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def evaluate_corpus(
    checkpoint: Checkpoint,
    corpus: Dataset | Iterable[dict[str, Any]],
    *,
    max_batch_seconds: float | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[float], None] | None = None,
    decoder: BeamDecoder | None = None,
) -> EvaluationResult:
    """Recognizes every utterance of a corpus and counts the errors against its transcripts.

    References are normalized for the checkpoint's vocabulary (which changes nothing in those that are already). Every
    row counts, one with an empty transcript too: whatever is heard in it was inserted. Rows whose audio can't be
    decoded are left out, warned of and named in the result.

    Args:
        corpus: rows {id, audio, text, speaker, seconds, start}; a part of a corpus on each process is put together by
            :meth:`EvaluationResult.merge`.
        max_batch_seconds, device, progress, decoder: of :func:`sft_speech.tasks.asr.ctc.recognize.recognize`.
    """
    from sft_speech.audio.read import AudioError
    from sft_speech.tasks.asr.ctc.recognize import Clip, recognize

    waiting: deque[tuple[str, str, str, int]] = deque()  # of clips whose turn has not come: at most a pool of them

    def clips() -> Iterable[Clip]:
        for row in corpus:
            reference = checkpoint.normalizer(row["text"]).text
            labels = checkpoint.encode(reference)
            waiting.append((row["id"], row["speaker"] or "", reference, len(labels)))
            yield Clip(row["audio"], row["seconds"], row.get("start"), labels)

    result = EvaluationResult(decoding=decoder.search.decoding.summary() if decoder else GREEDY.copy())
    began = time.perf_counter()
    heard = recognize(
        checkpoint, clips(), max_batch_seconds=max_batch_seconds, device=device, progress=progress, decoder=decoder
    )
    for recognition in heard:
        id, speaker, reference, labels = waiting.popleft()
        problem = str(recognition) if isinstance(recognition, AudioError) else recognition.problem
        if isinstance(recognition, AudioError) or problem:
            result.failed[id] = problem
            logger.warning("%s is left out: %s", id, problem)
            continue
        (words,) = word_errors([reference], [recognition.text])
        (characters,) = character_errors([reference], [recognition.text])
        texts = (id, speaker, reference, recognition.text)
        result.utterances.append(Utterance(*texts, recognition.seconds, words, characters))
        result.frames += recognition.frames
        result.blanks += recognition.blanks
        if recognition.loss is not None:
            result.loss_sum += recognition.loss
            result.labels += labels
            result.infeasible += recognition.infeasible
    result.runtime = time.perf_counter() - began
    if result.utterances and result.blank_share > BLANK_SHARE_OF_SILENCE:
        chance = result.frames * math.log(checkpoint.model.config.vocab_size)  # bounds the loss of equal probabilities
        share, why = 100 * result.blank_share, "usual in the first hundreds of steps"
        if result.loss_sum > chance:
            why = f"its loss of {result.loss:.4g} is worse than chance: it diverged, or was not trained"
        logger.warning("%.1f %% of frames are blank: the model outputs next to nothing (%s)", share, why)
    return result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft-speech evaluate`` that only recognizers have."""
    add_decoding_arguments(parser)


def main(args: argparse.Namespace) -> None:
    """Evaluates, writes both files, prints the table."""
    from sft_speech.tasks.asr.transcriber import Transcriber

    decoding = decoding_of(args)
    rows, split, report = rows_of_arguments(args)
    transcriber = Transcriber(
        args.model,
        device=args.device,
        max_batch_seconds=args.max_batch_seconds,
        decoding=decoding,
        allow_pickle=args.allow_pickle,
    )
    corpus = reported(transcriber.checkpoint, rows, split, report)
    with progress_bar(corpus["seconds"]) as bar:
        result = evaluate_corpus(
            transcriber.checkpoint,
            corpus,
            max_batch_seconds=transcriber.max_batch_seconds,
            device=transcriber.device,
            progress=bar.update,
            decoder=transcriber.decoder,
        )
    if not result.utterances:
        raise UserError(f"{args.source} {split}", "no utterance of it could be evaluated", "see the messages above")
    written = result.save(evaluation_folder(args.model, args.output), split, source_name(args.source))
    print(result.table(split))
    print(f"\n{written.with_suffix('.jsonl')}\n{written}")


def reported(checkpoint: Checkpoint, rows: Dataset, split: str, report: CorpusReport) -> Dataset:
    """The rows that can be evaluated; those that can't are told."""
    corpus = with_transcript(checkpoint, rows, split, report)
    if report.dropped(split) or report.missing(split):
        logger.warning("%s", report.table())
    return corpus


def with_transcript(checkpoint: Checkpoint, corpus: Dataset, split: str, report: CorpusReport) -> Dataset:
    """Drops rows that say nothing once they are normalized, into the report; long and dense ones stay, they count."""
    ids, seconds, kept = column_of(corpus, "id"), column_of(corpus, "seconds").to_numpy(), []
    for number, text in enumerate(column_of(corpus, "text").to_pylist()):
        normalized = checkpoint.normalizer(text)
        if normalized.text:
            kept.append(number)
        else:
            report.drop(split, ids[number].as_py(), "empty transcript")
        report.missing_characters(split, normalized.missing)
    report.keep(split, len(kept), float(seconds[kept].sum()))
    return corpus.select(kept)


def progress_bar(seconds: Sequence[float]) -> Any:
    """A bar over the seconds of a corpus."""
    from tqdm import tqdm

    layout = "{percentage:3.0f} %|{bar}| {n:.0f}/{total:.0f} s of audio, {rate_fmt}, {remaining} left"
    return tqdm(total=sum(seconds), unit="s", bar_format=layout, disable=None, leave=False)
