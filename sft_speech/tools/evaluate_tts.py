"""Measure the speech of a model against the recordings of a corpus, and with a recognizer as a judge.

Writes SPLIT.jsonl (one line per utterance) and SPLIT.json (the figures).
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sft_speech.corpora.arguments import add_corpus_arguments, evaluation_folder, rows_of_arguments
from sft_speech.corpora.report import source_name
from sft_speech.errors import UserError
from sft_speech.options.parser import add_output_argument
from sft_speech.tasks.speech.arguments import add_generator_arguments, generator_settings

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from sft_speech.tasks.asr.transcriber import Transcriber
    from sft_speech.tasks.speech.generator import SpeechGenerator


logger = logging.getLogger(__name__)


class RecognizerJudge:
    """A recognizer as the judge of speech, for :mod:`sft_speech.tasks.speech.evaluate`.

    It is a tool, because the synthesis task must not import the recognition task.
    """

    def __init__(self, transcriber: Transcriber) -> None:
        from sft_speech.tasks.asr.recognizer import scoring_of

        self.transcriber, self.scoring = transcriber, scoring_of(transcriber.checkpoint)

    def score(self, reference: str, waveform: np.ndarray, rate: int) -> dict[str, Any]:
        """Return the hypothesis for a waveform (S,), and its counts of errors."""
        from sft_speech.metrics.words import character_errors, word_errors

        written = self.transcriber((waveform, rate)).text
        reference, hypothesis = self.scoring.reference(reference), self.scoring.hypothesis(written)
        (words,) = word_errors([self.scoring.words(reference)], [self.scoring.words(hypothesis)])
        (characters,) = character_errors([reference], [hypothesis])
        return {"hypothesis": written, "word_errors": vars(words), "character_errors": vars(characters)}

    def summary(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return WER and CER over all utterances, with their intervals, and the name of the normalizer."""
        from sft_speech.metrics.words import Errors, interval, sum_errors

        figures: dict[str, Any] = {"normalizer": self.scoring.name}
        for name, key in (("wer", "word_errors"), ("cer", "character_errors")):
            counts = [Errors(**row[key]) for row in rows]
            around = interval(counts, [""] * len(counts))
            figures |= {name: sum_errors(counts).rate, f"{name}_interval": [around.low, around.high]}
        return figures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft-speech evaluate-tts``."""
    parser.add_argument("model", metavar="MODEL", help="directory or Hub id of a SpeechT5 for speech synthesis")
    add_shared_arguments(parser)


def add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that ``evaluate-tts`` and ``evaluate-vc`` share."""
    add_corpus_arguments(parser)
    parser.add_argument("--judge", metavar="MODEL", help="a recognizer that transcribes the speech, for WER and CER")
    add_output_argument(parser, "gets evaluation/ [MODEL-evaluation; evaluation for a Hub id]")
    add_generator_arguments(parser)


def main(args: argparse.Namespace) -> None:
    """Synthesize and measure; write both files and print the table."""
    from sft_speech.tasks.tts.synthesizer import Synthesizer

    corpus, split, _ = rows_of_arguments(args)
    synthesizer = Synthesizer(args.model, args.vocoder, **generator_settings(args))
    measure(args, synthesizer, corpus, split, lambda row, voice: (synthesizer([row["text"]], voice)[0], None))


def add_voices(generator: SpeechGenerator, corpus: Dataset) -> None:
    """Add voices for speakers that the model does not know, from their recordings in the corpus.

    If the model's speaker encoder is unknown, these speakers get the mean voice of the model.
    """
    from sft_speech.tasks.speech.data import voice_name, voices_of
    from sft_speech.tasks.speech.evaluate import TRIM_DB
    from sft_speech.tasks.speech.speakers import MEAN, Speakers

    known, rate = generator.checkpoint.speakers, generator.checkpoint.rate
    unknown = [index for index, name in enumerate(corpus["speaker"]) if voice_name(name) not in known]
    if not unknown or not (generator.encoder_name or known.encoder):
        return
    found = voices_of([corpus.select(unknown)], generator.encoder(), rate, known.size, TRIM_DB)
    new = {name: voice for name, voice in found.items() if name != MEAN}
    logger.info("voices made from recordings, because the model does not know them: %s", ", ".join(sorted(new)[:10]))
    generator.checkpoint.speakers = Speakers({**known, **new}, known.size, known.encoder)


def measure(
    args: argparse.Namespace, generator: SpeechGenerator, corpus: Dataset, split: str, say: Callable[..., Any]
) -> None:
    """Synthesize and measure a corpus; write and print the results.

    Args:
        say: see :func:`~sft_speech.tasks.speech.evaluate.evaluate_speech`.
    """
    from tqdm import tqdm

    from sft_speech.tasks.asr.transcriber import Transcriber
    from sft_speech.tasks.speech.evaluate import evaluate_speech, save, summary, table
    from sft_speech.text.unspelt import warn_of_unspelt

    if args.judge and not any(corpus["text"]):
        raise UserError(f"--judge {args.judge}", "the corpus has no transcripts to compare with", "leave it out")
    judge = None
    if args.judge:
        transcriber = Transcriber(args.judge, args.device, allow_pickle=args.allow_pickle)
        warn_of_unspelt(transcriber.checkpoint.normalizer, args.source, corpus["id"], corpus["text"])
        judge = RecognizerJudge(transcriber)
    add_voices(generator, corpus)
    with tqdm(total=len(corpus), unit=" utterances", disable=None, leave=False) as bar:
        lines = evaluate_speech(generator, corpus, say, judge, bar.update)
    figures = summary(lines, judge) | {"source": source_name(args.source)}
    written = save(lines, figures, evaluation_folder(args.model, args.output), split)
    print(table(figures, split))
    print(f"\n{written.with_suffix('.jsonl')}\n{written}")
