"""Evaluate a recognizer on a corpus: word and character error rates, their intervals, and confusions of words.

Writes evaluation/SPLIT.jsonl (one line per utterance) and evaluation/SPLIT.json (the figures).
"""

from __future__ import annotations

import argparse
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

from sft_speech.audio.read import AudioError
from sft_speech.corpora.arguments import evaluation_folder, rows_of_arguments
from sft_speech.corpora.report import NEW_VOCABULARY, source_name
from sft_speech.corpora.rows import column_of, with_columns
from sft_speech.corpora.select import empty_reason
from sft_speech.errors import UserError
from sft_speech.metrics.calibration import confidences_after, right_words
from sft_speech.metrics.loops import loop_of
from sft_speech.metrics.words import character_errors, word_errors
from sft_speech.tasks.asr.ctc.decoding import add_decoding_arguments, decoding_of
from sft_speech.tasks.asr.generation import add_generation_arguments, generation_of
from sft_speech.tasks.asr.languages import add_language_arguments, code_of, language_reason
from sft_speech.tasks.asr.recognizer import Clip, Hypothesis, Recognizer, is_spaced, scoring_of
from sft_speech.tasks.asr.results import EvaluationResult, Utterance
from sft_speech.text.markup import Cleaned, clean
from sft_speech.text.scoring import NormalizerName, Scoring, has_marks, is_english, split_letters
from sft_speech.text.scripts import most_common_script
from sft_speech.text.unspelt import unspelt_by, warn_of_unspelt

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from tqdm import tqdm

    from sft_speech.corpora.report import CorpusReport
    from sft_speech.tasks.asr.ctc.beam import BeamDecoder

logger = logging.getLogger(__name__)

MARKED = 0.05  # share of references in which the normalizer cuts words; more are worth a warning


def evaluate_corpus(
    checkpoint: Recognizer,
    corpus: Dataset | Iterable[dict[str, Any]],
    *,
    max_batch_seconds: float | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[float], object] | None = None,
    decoder: BeamDecoder | None = None,
    normalizer: NormalizerName | None = None,
    spaced: bool | None = None,
) -> EvaluationResult:
    """Recognize every utterance of a corpus and count the errors against its transcripts.

    Errors are counted under a normalizer and, except under ``checkpoint``, in the texts as they are written too. Every
    row counts, even one with an empty transcript: its whole hypothesis is an insertion. Rows whose audio cannot be read
    are left out with a warning and named in the result.

    Args:
        corpus: rows {id, audio, text, speaker, seconds, start}, and language in a corpus of several. Results of the
            parts that processes evaluate are merged by :meth:`EvaluationResult.merge`.
        max_batch_seconds, device, progress, decoder: see
            :meth:`~sft_speech.tasks.asr.recognizer.Recognizer.recognize`.
        normalizer: see :mod:`sft_speech.text.scoring`; None: the recognizer's default.
        spaced: whether there are spaces between words; None: as the language and the references of a list have it.
    """
    if spaced is None and isinstance(corpus, list):
        spaced = is_spaced(checkpoint, (row["text"] for row in corpus))
    scoring = scoring_of(checkpoint, normalizer, spaced)
    waiting: deque[tuple[str, str, str, int, Counter[str]]] = deque()  # for clips in progress: at most a pool of them

    def clips() -> Iterable[Clip]:
        for row in corpus:
            reference, missing, folded, *_ = checkpoint.normalizer(row["text"])
            language = code_of(row.get("language") or "", checkpoint.languages)
            labels = checkpoint.encode(reference, language) if language else checkpoint.encode(reference)
            waiting.append((row["id"], row["speaker"] or "", row["text"], len(labels), folded + missing))
            yield Clip(
                row["audio"],
                row["seconds"],
                row.get("start"),
                channel=row.get("channel"),
                labels=labels,
                language=language,
            )

    decoding = decoder.search.decoding.summary() if decoder else checkpoint.search
    unspelt = unspelt_by(checkpoint.normalizer) if scoring.name == "checkpoint" else None
    result = EvaluationResult(decoding=decoding, normalizer=scoring.name, spaced=scoring.spaced, unspelt=unspelt)
    began, cpu_began = time.perf_counter(), time.process_time()
    hypotheses = checkpoint.recognize(
        clips(), max_batch_seconds=max_batch_seconds, device=device, progress=progress, decoder=decoder
    )
    for found in hypotheses:
        id, speaker, reference, labels, folded = waiting.popleft()
        if isinstance(found, AudioError) or found.problem:
            result.failed[id] = str(found) if isinstance(found, AudioError) else found.problem
            logger.warning("%s is left out: %s", id, result.failed[id])
            continue
        utterance = scored(scoring, id, speaker, reference, found)
        result.add(replace(utterance, folded=folded) if scoring.own else utterance, found, labels)
    result.runtime = time.perf_counter() - began
    if next(checkpoint.model.parameters()).device.type == "cpu":
        result.cpu_time = time.process_time() - cpu_began
    for warning in filter(None, [result.counts.warning(result.loss_sum), *warnings_of(result)]):
        logger.warning("%s", warning)
    return result


def scored(scoring: Scoring, id: str, speaker: str, text: str, found: Hypothesis) -> Utterance:
    """Return an utterance with its errors.

    Args:
        text: the reference as it is written.
    """
    reference, hypothesis = scoring.reference(text), scoring.hypothesis(found.text)
    (words,) = word_errors([scoring.words(reference)], [scoring.words(hypothesis)])
    (characters,) = character_errors([reference], [hypothesis])
    written = (text, found.text) if (text, found.text) != (reference, hypothesis) else None
    as_written = None
    if not scoring.own:
        (as_written,) = word_errors([scoring.words(text)], [scoring.words(found.text)])
    right = right_words(scoring.words(reference), scoring.words(hypothesis))
    sure = confidences_of(scoring, found, scoring.words(hypothesis).split())
    loop = loop_of(found.text, found.seconds, found.silent)
    if loop is not None and loop == loop_of(text, found.seconds):  # somebody said it, for example a refrain
        loop = None
    return Utterance(
        id,
        speaker,
        reference,
        hypothesis,
        found.seconds,
        words,
        characters,
        written,
        as_written,
        loop,
        confidence=found.confidence,
        judged=tuple(zip(sure, right, strict=True)) if sure else (),
    )


def confidences_of(scoring: Scoring, found: Hypothesis, words: Sequence[str]) -> list[float]:
    """Return the confidences of the words of a normalized hypothesis; [] from a recognizer that gives none."""
    given = found.confident_words()
    if not scoring.spaced:
        given = tuple((letter, confidence) for word, confidence in given for letter in split_letters(word))
    normalize = lambda word: scoring.words(scoring.hypothesis(word)).split()  # noqa: E731
    return confidences_after(given, words, normalize) if given else []


def warnings_of(result: EvaluationResult) -> Iterator[str]:
    """Yield warnings about hypotheses that were likely not spoken, and about words that the normalizer cuts."""
    if loops := result.loop_summary():
        yield f"{loops}; listen to them, and try a lower learning_rate, more data or shorter clips (sft-speech cut)"
    if result.normalizer == "basic":
        count = sum(has_marks((u.written or (u.reference,))[0]) for u in result.utterances)
        if count > MARKED * len(result.utterances):
            yield (
                f"the normalizer basic cuts words at the vowel signs and marks of {count} of {len(result.utterances)} "
                "references: compare WER only with figures under the same normalizer; see WER as written, "
                "or use --normalizer none"
            )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft-speech evaluate`` that only recognizers have."""
    parser.add_argument("--normalizer", choices=get_args(NormalizerName), help="of WER and CER [what suits the model]")
    parser.add_argument(
        "--markup", choices=("remove", "keep"), default="remove", help="signs of transcription in references [remove]"
    )
    parser.add_argument(
        "--language_column", metavar="NAME", help="column of the rows' languages, for multilingual models"
    )
    add_language_arguments(parser)
    add_decoding_arguments(parser)
    add_generation_arguments(parser)


def main(args: argparse.Namespace) -> None:
    """Evaluate, write both files and print the table."""
    from sft_speech.tasks.asr.transcriber import Transcriber

    decoding, generation = decoding_of(args), generation_of(args)
    columns = {"language": args.language_column} if args.language_column else {}
    rows, split, report = rows_of_arguments(args, **columns)
    transcriber = Transcriber(
        args.model,
        device=args.device,
        max_batch_seconds=args.max_batch_seconds,
        decoding=decoding,
        allow_pickle=args.allow_pickle,
        generation=generation,
        times=False,
        target_lang=args.target_lang,
        dtype=args.dtype,
    )
    corpus = reported(transcriber.checkpoint, rows, split, report, args.normalizer, args.markup)
    with progress_bar(corpus["seconds"]) as bar:
        result = evaluate_corpus(
            transcriber.checkpoint,
            corpus,
            max_batch_seconds=transcriber.max_batch_seconds,
            device=transcriber.device,
            progress=bar.update,
            decoder=transcriber.decoder,
            normalizer=args.normalizer,
            spaced=is_spaced(transcriber.checkpoint, corpus["text"]),
        )
    if not result.utterances:
        raise UserError(f"{args.source} {split}", "none of its utterances could be evaluated", "see the messages above")
    written = result.save(evaluation_folder(args.model, args.output), split, source_name(args.source))
    print(result.table(split))
    print(f"\n{written.with_suffix('.jsonl')}\n{written}")


def reported(
    checkpoint: Recognizer,
    rows: Dataset,
    split: str,
    report: CorpusReport,
    normalizer: NormalizerName | None = None,
    markup: str = "remove",
) -> Dataset:
    """Return the rows that can be evaluated; warn about the others, and about what is changed in the references."""
    corpus = with_transcript(checkpoint, rows, split, report, normalizer, markup)
    if report.dropped(split) or report.missing(split):
        logger.warning("%s", report.table())
    report.warn_of_notes()
    return corpus


def with_transcript(
    checkpoint: Recognizer,
    corpus: Dataset,
    split: str,
    report: CorpusReport,
    normalizer: NormalizerName | None = None,
    markup: str = "remove",
) -> Dataset:
    """Return the rows that have a transcript, in a language that the recognizer can write; the report gets the others.

    A transcript is empty if nothing is left after normalization. Rows of any length are kept.

    Args:
        markup: "remove" takes signs of transcription out of the references, "keep" keeps them.

    Raises:
        UserError: the vocabulary lacks most letters of the transcripts.
    """
    import pyarrow as pa

    scoring, language = scoring_of(checkpoint, normalizer), checkpoint.language
    if normalizer == "whisper" and not is_english(language or "en"):
        logger.warning("the normalizer whisper is for English, but the model's language is %s: use basic", language)
    ids, seconds, kept = column_of(corpus, "id"), column_of(corpus, "seconds").to_numpy(), []
    chosen = bool(checkpoint.languages) and "language" in corpus.column_names
    languages = column_of(corpus, "language").to_pylist() if chosen else []
    given, missing, spelt = column_of(corpus, "text"), Counter[str](), 0
    texts: list[str] = []
    for number, text in enumerate(given.to_pylist()):
        cleaned = clean(text, language) if markup == "remove" else Cleaned(text)
        written = checkpoint.normalizer(cleaned.text)
        written = written._replace(marks=cleaned.marks, unknown_marks=cleaned.unknown)
        texts.append(cleaned.text)
        reason = language_reason(languages[number], checkpoint.languages) if chosen else None
        if not scoring.reference(cleaned.text):
            reason = empty_reason(written)
        if reason is None:
            kept.append(number)
        else:
            report.drop(split, ids[number].as_py(), *reason)
        report.note(split, ids[number].as_py(), written)
        missing, spelt = missing + written.missing if written.missing else missing, spelt + len(written.text)
    report.missing_characters(split, missing)
    report.keep(split, len(kept), float(seconds[kept].sum()))
    if sum(count for character, count in missing.items() if character.isalpha()) > spelt:
        why = f"the vocabulary of the model lacks most of its letters, which are {most_common_script(missing)}"
        raise UserError(f"corpus {split}", why, f"take a model that knows them: {NEW_VOCABULARY}")
    if any(new != old for new, old in zip(texts, given.to_pylist(), strict=True)):
        corpus = with_columns(corpus, pa.table({"text": pa.array(texts, pa.string())}))
    if scoring.own:
        warn_of_unspelt(checkpoint.normalizer, split, ids, column_of(corpus, "text"))
    return corpus.select(kept)


def progress_bar(seconds: Sequence[float]) -> tqdm[Any]:
    """Return a progress bar over the seconds of a corpus."""
    from tqdm import tqdm

    layout = "{percentage:3.0f} %|{bar}| {n:.0f}/{total:.0f} s of audio, {rate_fmt}, {remaining} left"
    return tqdm(total=sum(seconds), unit="s", bar_format=layout, disable=None, leave=False)
