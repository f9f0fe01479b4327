"""Find how much a language model should count, on speech with transcripts that is neither trained on nor tested on.

The model hears the corpus once. Then pairs of lm_weight (alpha) and word_score (beta) are tried: a coarse grid, then
the neighbors of the best pair, at half the distance each time. Equal pairs are told apart by their character errors,
then by the smaller weight. Nothing is random: the same command finds the same pair.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sft_speech.corpora.arguments import add_corpus_arguments, rows_of_arguments
from sft_speech.errors import UserError
from sft_speech.files import check_output
from sft_speech.metrics.words import Errors, character_errors, sum_errors, word_errors
from sft_speech.options.parser import add_output_argument
from sft_speech.options.settings import add_pickle_argument
from sft_speech.tasks.asr.ctc.decoding import Decoding, add_decoding_arguments, decoding_of
from sft_speech.tasks.asr.evaluate import progress_bar, reported

if TYPE_CHECKING:
    from sft_speech.tasks.asr.ctc.beam import Search
    from sft_speech.tasks.asr.ctc.recognize import Recognition
    from sft_speech.tasks.asr.ctc.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

LM_WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
WORD_SCORES = (-3.0, -1.5, 0.0, 1.5, 3.0)
STEPS = (0.5, 0.2, 0.1)  # of both, around the best pair so far

Pair = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Rates:
    """Errors of one way to search, over a whole corpus."""

    words: Errors
    characters: Errors

    @classmethod
    def count(cls, references: list[str], hypotheses: list[str]) -> Rates:
        """Counts them, utterance by utterance."""
        words, characters = word_errors(references, hypotheses), character_errors(references, hypotheses)
        return cls(sum_errors(words), sum_errors(characters))

    def __str__(self) -> str:
        return f"{100 * self.words.rate:6.2f} {100 * self.characters.rate:6.2f}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``sft-speech tune-lm``."""
    parser.add_argument("model", metavar="MODEL", help="directory of a fine-tuned model, or its id on the Hub")
    add_corpus_arguments(parser)
    add_decoding_arguments(parser, tuned=True)
    add_output_argument(parser, "[decoding.yaml]", metavar="FILE", folder=False, default="decoding.yaml")
    parser.add_argument("--max_batch_seconds", type=float, metavar="S", help="padded audio per batch [by device]")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... [a GPU if there is one]")
    add_pickle_argument(parser)


def main(args: argparse.Namespace) -> None:
    """Hears the corpus, tries pairs, prints each with its WER and CER, writes the best to what ``--decoding`` takes."""
    decoding, output = decoding_of(args), Path(args.output)
    assert decoding is not None  # --lm is required
    check_output("-o", args.output)
    from sft_speech.tasks.asr.ctc.beam import Search
    from sft_speech.tasks.asr.transcriber import Transcriber

    rows, split, report = rows_of_arguments(args)
    transcriber = Transcriber(
        args.model, args.device, max_batch_seconds=args.max_batch_seconds, allow_pickle=args.allow_pickle
    )
    vocabulary = transcriber.checkpoint.vocabulary
    search = Search(vocabulary, decoding)
    references, heard = hear(transcriber, reported(transcriber.checkpoint, rows, split, report))
    if not sum(len(reference.split()) for reference in references):
        raise UserError(f"{args.source} {split}", "no utterance of it could be heard", "see the messages above")
    greedy = Rates.count(references, [one.text for one in heard])
    print(f"lm_weight word_score    WER    CER\n{'greedy':20} {greedy}", flush=True)

    def rates(pair: Pair) -> Rates:
        tried = dataclasses.replace(decoding, lm_weight=pair[0], word_score=pair[1])
        found = Rates.count(references, searched(search, tried, heard, vocabulary))
        print(f"{pair[0]:9.2f} {pair[1]:10.2f} {found}", flush=True)
        return found

    best, found = tune(rates, (0.0,) if search.lexicon is None else WORD_SCORES)
    if found.words.total >= greedy.words.total:
        logger.warning("no pair is better than greedy: is the language model of the same kind of speech?")
    told = f"WER {100 * found.words.rate:.2f} % on {args.source} {split}, greedy {100 * greedy.words.rate:.2f} %"
    write(output, dataclasses.replace(decoding, lm_weight=best[0], word_score=best[1]), told)
    print(f"\nlm_weight {best[0]:g}, word_score {best[1]:g}: {told}\n{output}")


def hear(transcriber: Any, corpus: Any) -> tuple[list[str], list[Recognition]]:
    """References and greedy recognitions with their log-probabilities; what can't be read is left out."""
    from sft_speech.audio.read import AudioError
    from sft_speech.tasks.asr.ctc.recognize import Clip, recognize

    checkpoint = transcriber.checkpoint
    clips = (Clip(row["audio"], row["seconds"], row["start"]) for row in corpus)
    references, recognitions = [], []
    with progress_bar(corpus["seconds"]) as bar:
        heard = recognize(
            checkpoint,
            clips,
            max_batch_seconds=transcriber.max_batch_seconds,
            device=transcriber.device,
            progress=bar.update,
            scores=True,
        )
        for id, text, one in zip(corpus["id"], corpus["text"], heard, strict=True):
            if isinstance(one, AudioError) or one.problem:
                logger.warning("%s is left out: %s", id, one if isinstance(one, AudioError) else one.problem)
                continue
            references.append(checkpoint.normalizer(text).text)
            recognitions.append(one)
    return references, recognitions


def searched(search: Search, decoding: Decoding, heard: Iterable[Recognition], vocabulary: Vocabulary) -> list[str]:
    """The transcripts that a search finds."""
    from sft_speech.audio.read import AudioError
    from sft_speech.tasks.asr.ctc.beam import BeamDecoder

    search.reweigh(decoding)
    with BeamDecoder(search) as decoder:
        found: Iterator[Recognition | AudioError] = decoder.follow(heard, vocabulary.decode)
        return [one.text for one in found if not isinstance(one, AudioError)]


def tune(rates: Callable[[Pair], Rates], word_scores: tuple[float, ...] = WORD_SCORES) -> tuple[Pair, Rates]:
    """The pair (lm_weight, word_score) with the fewest errors.

    Args:
        rates: of a pair; it is asked once for each.
        word_scores: of the coarse grid; where there is only one, it stays.
    """
    known: dict[Pair, Rates] = {}

    def cost(pair: Pair) -> tuple[int, int, float, float]:
        if pair not in known:
            known[pair] = rates(pair)
        return known[pair].words.total, known[pair].characters.total, pair[0], abs(pair[1])

    best = min(((weight, score) for weight in LM_WEIGHTS for score in word_scores), key=cost)
    for step in STEPS:
        while True:
            sideways = (0.0,) if len(word_scores) == 1 else (-step, 0.0, step)
            around = [
                (round(best[0] + up, 2), round(best[1] + aside, 2))
                for up in (-step, 0.0, step)
                for aside in sideways
                if best[0] + up >= 0
            ]
            better = min(around, key=cost)
            if better == best:
                break
            best = better
    return best, known[best]


def write(path: Path, decoding: Decoding, told: str) -> None:
    """The file that ``--decoding`` takes; it names the language model so that it is found from any folder."""
    values = dataclasses.asdict(decoding)
    for key in ("lm", "lexicon"):
        if values[key] and Path(values[key]).is_file():
            values[key] = str(Path(values[key]).resolve())
    path.write_text(f"# {told}\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
