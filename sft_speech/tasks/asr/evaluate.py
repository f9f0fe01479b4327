"""Evaluate a recognizer on a corpus: word and character error rates, their intervals, and confusions of words.

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

from sft_speech.audio.read import AudioError
from sft_speech.corpora.arguments import evaluation_folder, rows_of_arguments
from sft_speech.corpora.report import file_stem, source_name
from sft_speech.corpora.rows import column_of
from sft_speech.errors import UserError
from sft_speech.metrics.intervals import Interval
from sft_speech.metrics.words import Errors, character_errors, confusions, interval, sum_errors, word_errors
from sft_speech.tasks.asr.ctc.decoding import GREEDY, add_decoding_arguments, decoding_of
from sft_speech.tasks.asr.languages import code_of, language_reason
from sft_speech.tasks.asr.recognizer import Clip, Counts, Hypothesis, Recognizer

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from tqdm import tqdm

    from sft_speech.corpora.report import CorpusReport
    from sft_speech.tasks.asr.ctc.beam import BeamDecoder

logger = logging.getLogger(__name__)

CONFUSIONS_SHOWN = 15


@dataclass(frozen=True)
class Utterance:
    """An utterance: reference and hypothesis, normalized, and the errors between them."""

    id: str
    speaker: str
    reference: str
    hypothesis: str
    seconds: float
    words: Errors
    characters: Errors

    def row(self) -> dict[str, object]:
        """Return its line of SPLIT.jsonl."""
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
    """Counts and texts of an evaluation; results of parts of a corpus can be merged.

    Args:
        utterances: in the order of the corpus.
        failed: why an utterance could not be read, by its id; it is not counted.
        loss_sum: sum of the losses.
        labels: number of labels behind ``loss_sum``.
        counts: counts that only this kind of recognizer has.
        runtime: seconds of computation.
        decoding: how hypotheses were searched for.
    """

    utterances: list[Utterance] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    loss_sum: float = 0.0
    labels: int = 0
    counts: Counts = field(default_factory=Counts)
    runtime: float = 0.0
    decoding: dict[str, object] = field(default_factory=GREEDY.copy)

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
            whole.decoding = part.decoding
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

    def character_interval(self) -> Interval:
        """Return the 95 % bootstrap interval of ``cer``."""
        return interval([u.characters for u in self.utterances], [u.speaker for u in self.utterances])

    def confusions(self) -> list[tuple[tuple[str, str], int]]:
        """Return ((reference word, hypothesis word), count), most frequent first; "" is a missing word."""
        found = confusions([u.reference for u in self.utterances], [u.hypothesis for u in self.utterances])
        return sorted(found.items(), key=lambda item: (-item[1], item[0]))

    def summary(self) -> dict[str, object]:
        """Return the figures of SPLIT.json; those without data (no audio, no labels) are null."""
        words, of_words, of_characters = self.words, self.word_interval(), self.character_interval()
        figures: dict[str, object] = {
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
            **self.counts.figures(),
            "real_time_factor": self.real_time_factor,
            "decoding": self.decoding,
            "failed": self.failed,
        }
        return {name: _finite(value) for name, value in figures.items()}

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
        figures = {"loss": self.loss, "wer": self.wer, "cer": self.cer, **self.counts.metrics()}
        return {name: value for name, value in figures.items() if math.isfinite(value)}

    def table(self, split: str = "") -> str:
        """Return the figures and the most frequent confusions as text."""
        speed = 1 / self.real_time_factor if self.real_time_factor else math.nan
        first = f"{len(self.utterances)} utterances, {self.seconds / 3600:.2f} h, {speed:.0f} x real time"
        lines = [
            ", ".join(filter(None, [f"{split}: {first}" if split else first, self.counts.summary()])),
            _rate_line("WER", self.words, self.word_interval()),
            _rate_line("CER", self.characters, self.character_interval()),
        ]
        if self.failed:
            lines.append(f"{len(self.failed)} utterances could not be read and are not counted")
        found = [(a or "(nothing)", b or "(nothing)", n) for (a, b), n in self.confusions()[:CONFUSIONS_SHOWN]]
        if found:
            width = max(len("reference"), *(len(reference) for reference, _, _ in found))
            lines += ["", f"times  {'reference':{width}}  hypothesis"]
            lines += [f"{count:5}  {reference:{width}}  {hypothesis}" for reference, hypothesis, count in found]
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


def evaluate_corpus(
    checkpoint: Recognizer,
    corpus: Dataset | Iterable[dict[str, Any]],
    *,
    max_batch_seconds: float | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[float], object] | None = None,
    decoder: BeamDecoder | None = None,
) -> EvaluationResult:
    """Recognize every utterance of a corpus and count the errors against its transcripts.

    References are normalized as the recognizer writes its hypotheses; normalizing them twice changes nothing. Every row
    counts, even one with an empty transcript: its whole hypothesis is an insertion. Rows whose audio cannot be read are
    left out with a warning and named in the result.

    Args:
        corpus: rows {id, audio, text, speaker, seconds, start}, and language in a corpus of several. Results of the
            parts that processes evaluate are merged by :meth:`EvaluationResult.merge`.
        max_batch_seconds, device, progress, decoder: see
            :meth:`~sft_speech.tasks.asr.recognizer.Recognizer.recognize`.
    """
    waiting: deque[tuple[str, str, str, int]] = deque()  # for clips in progress: at most a pool of them

    def clips() -> Iterable[Clip]:
        for row in corpus:
            reference = checkpoint.normalizer(row["text"]).text
            language = code_of(row.get("language") or "", checkpoint.languages)
            labels = checkpoint.encode(reference, language) if language else checkpoint.encode(reference)
            waiting.append((row["id"], row["speaker"] or "", reference, len(labels)))
            yield Clip(row["audio"], row["seconds"], row.get("start"), labels=labels, language=language)

    result = EvaluationResult(decoding=decoder.search.decoding.summary() if decoder else GREEDY.copy())
    began = time.perf_counter()
    hypotheses = checkpoint.recognize(
        clips(), max_batch_seconds=max_batch_seconds, device=device, progress=progress, decoder=decoder
    )
    for found in hypotheses:
        id, speaker, reference, labels = waiting.popleft()
        if isinstance(found, AudioError) or found.problem:
            result.failed[id] = str(found) if isinstance(found, AudioError) else found.problem
            logger.warning("%s is left out: %s", id, result.failed[id])
            continue
        (words,) = word_errors([reference], [found.text])
        (characters,) = character_errors([reference], [found.text])
        utterance = Utterance(id, speaker, reference, found.text, found.seconds, words, characters)
        result.add(utterance, found, labels)
    result.runtime = time.perf_counter() - began
    if warning := result.counts.warning(result.loss_sum):
        logger.warning("%s", warning)
    return result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft-speech evaluate`` that only recognizers have."""
    parser.add_argument("--language_column", metavar="NAME", help="column of the language, for models of several")
    add_decoding_arguments(parser)


def main(args: argparse.Namespace) -> None:
    """Evaluate, write both files and print the table."""
    from sft_speech.tasks.asr.transcriber import Transcriber

    decoding = decoding_of(args)
    columns = {"language": args.language_column} if args.language_column else {}
    rows, split, report = rows_of_arguments(args, **columns)
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
        raise UserError(f"{args.source} {split}", "none of its utterances could be evaluated", "see the messages above")
    written = result.save(evaluation_folder(args.model, args.output), split, source_name(args.source))
    print(result.table(split))
    print(f"\n{written.with_suffix('.jsonl')}\n{written}")


def reported(checkpoint: Recognizer, rows: Dataset, split: str, report: CorpusReport) -> Dataset:
    """Return the rows that can be evaluated; warn about the others."""
    corpus = with_transcript(checkpoint, rows, split, report)
    if report.dropped(split) or report.missing(split):
        logger.warning("%s", report.table())
    return corpus


def with_transcript(checkpoint: Recognizer, corpus: Dataset, split: str, report: CorpusReport) -> Dataset:
    """Return the rows that have a transcript, in a language that the recognizer can write; the report gets the others.

    Transcripts are empty or not as they are normalized. However long a row is, it is kept.
    """
    ids, seconds, kept = column_of(corpus, "id"), column_of(corpus, "seconds").to_numpy(), []
    chosen = bool(checkpoint.languages) and "language" in corpus.column_names
    languages = column_of(corpus, "language").to_pylist() if chosen else []
    for number, text in enumerate(column_of(corpus, "text").to_pylist()):
        normalized = checkpoint.normalizer(text)
        reason = language_reason(languages[number], checkpoint.languages) if chosen else None
        if not normalized.text:
            reason = "empty transcript", ""
        if reason is None:
            kept.append(number)
        else:
            report.drop(split, ids[number].as_py(), *reason)
        report.missing_characters(split, normalized.missing)
    report.keep(split, len(kept), float(seconds[kept].sum()))
    return corpus.select(kept)


def progress_bar(seconds: Sequence[float]) -> tqdm[Any]:
    """Return a progress bar over the seconds of a corpus."""
    from tqdm import tqdm

    layout = "{percentage:3.0f} %|{bar}| {n:.0f}/{total:.0f} s of audio, {rate_fmt}, {remaining} left"
    return tqdm(total=sum(seconds), unit="s", bar_format=layout, disable=None, leave=False)
