"""Measure how a model speaks: against the recordings of a corpus, and by a recognizer that listens.

Writes evaluation/SPLIT.jsonl (one line per utterance) and evaluation/SPLIT.json (the figures).
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft_speech.corpora.report import source_name
from sft_speech.errors import UserError
from sft_speech.tasks.speech.arguments import add_generator_arguments, generator_settings

if TYPE_CHECKING:
    import numpy as np

    from sft_speech.tasks.asr.transcriber import Transcriber
    from sft_speech.tasks.speech.generator import SpeechGenerator


logger = logging.getLogger(__name__)


class RecognizerJudge:
    """A recognizer of this toolkit that listens to speech: the judge of :mod:`sft_speech.tasks.speech.evaluate`.

    It lives above both: synthesis doesn't know recognition.
    """

    def __init__(self, transcriber: Transcriber) -> None:
        self.transcriber = transcriber

    def hear(self, reference: str, waveform: np.ndarray, rate: int) -> dict[str, Any]:
        from sft_speech.metrics.words import character_errors, word_errors

        said = self.transcriber.checkpoint.normalizer(reference).text
        heard = self.transcriber((waveform, rate)).text
        (words,), (characters,) = word_errors([said], [heard]), character_errors([said], [heard])
        return {"hypothesis": heard, "word_errors": vars(words), "character_errors": vars(characters)}

    def summary(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        from sft_speech.metrics.words import Errors, interval, sum_errors

        figures: dict[str, Any] = {}
        for name, key in (("wer", "word_errors"), ("cer", "character_errors")):
            counts = [Errors(**row[key]) for row in rows]
            around = interval(counts, [""] * len(counts))
            figures |= {name: sum_errors(counts).rate, f"{name}_interval": [around.low, around.high]}
        return figures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``sft-speech evaluate-tts``."""
    parser.add_argument(
        "model", metavar="MODEL", help="directory of a SpeechT5 that speaks texts, or its id on the Hub"
    )
    add_shared_arguments(parser)


def add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of ``sft-speech evaluate-vc`` as well."""
    parser.add_argument("--source", required=True, help="corpus: a folder, a manifest file or a Hub id")
    parser.add_argument("--source_config", metavar="NAME", help="configuration of a Hub dataset")
    parser.add_argument("--split", metavar="SPLIT", help="what to evaluate on; several are joined by '+' [all rows]")
    parser.add_argument("--judge", metavar="MODEL", help="a recognizer that listens: its WER and CER")
    parser.add_argument("-o", "--output", metavar="DIR", help="where evaluation/ is written [MODEL; here for a Hub id]")
    add_generator_arguments(parser)


def main(args: argparse.Namespace) -> None:
    """Speaks, measures, writes both files, prints the table."""
    from sft_speech.corpora import load_corpus
    from sft_speech.tasks.speech.synthesizer import Synthesizer

    corpus = load_corpus(args.source, args.split, name=split_name(args), config=args.source_config)
    synthesizer = Synthesizer(args.model, args.vocoder, **generator_settings(args))
    measure(args, synthesizer, corpus, lambda row, voice: (synthesizer([row["text"]], voice)[0], None))


def add_voices(generator: SpeechGenerator, corpus: Any) -> None:
    """Gives the generator voices of speakers that its model doesn't know, out of their recordings in the corpus.

    Where it isn't known what makes the model's embeddings, they are spoken in the mean of its voices.
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
    logger.info("taken from their recordings, since the model doesn't know them: %s", ", ".join(sorted(new)[:10]))
    generator.checkpoint.speakers = Speakers({**known, **new}, known.size, known.encoder)


def split_name(args: argparse.Namespace) -> str:
    """What the evaluation's files are called."""
    source = Path(args.source)
    return args.split or (source.stem if source.is_file() else source.name)


def measure(args: argparse.Namespace, generator: SpeechGenerator, corpus: Any, say: Callable[..., Any]) -> None:
    """Synthesize and measure a corpus (:func:`~sft_speech.tasks.speech.evaluate.evaluate_speech`); write the result."""
    from tqdm import tqdm

    from sft_speech.tasks.asr.transcriber import Transcriber
    from sft_speech.tasks.speech.evaluate import evaluate_speech, save, summary, table

    if args.judge and not any(corpus["text"]):
        raise UserError(f"--judge {args.judge}", "the corpus has no transcripts to judge by", "leave it out")
    judge = None
    if args.judge:
        judge = RecognizerJudge(Transcriber(args.judge, args.device, allow_pickle=args.allow_pickle))
    add_voices(generator, corpus)
    with tqdm(total=len(corpus), unit=" utterances", disable=None, leave=False) as bar:
        lines = evaluate_speech(generator, corpus, say, judge, bar.update)
    figures = summary(lines, judge) | {"source": source_name(args.source)}
    output = Path(args.output) if args.output else Path(args.model) if Path(args.model).is_dir() else Path()
    written = save(lines, figures, output / "evaluation", split_name(args))
    print(table(figures, split_name(args)))
    print(f"\n{written.with_suffix('.jsonl')}\n{written}")
