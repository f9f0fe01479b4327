"""Find the weights of a language model, on transcribed speech used neither for training nor for testing.

The corpus is recognized once. Then pairs of lm_weight (alpha) and word_score (beta) are tried: a coarse grid, then the
neighbors of the best pair, at smaller distances each time. If pairs have the same word errors, fewer character errors
decide, then the smaller weight. Nothing is random: the same command finds the same pair.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from sft_speech.corpora.arguments import add_corpus_arguments, rows_of_arguments
from sft_speech.errors import UserError
from sft_speech.files import check_output
from sft_speech.metrics.words import Errors, character_errors, sum_errors, word_errors
from sft_speech.options.parser import add_output_argument
from sft_speech.options.settings import add_pickle_argument
from sft_speech.tasks.asr.ctc.decoding import Decoding, add_decoding_arguments, decoding_of
from sft_speech.tasks.asr.evaluate import progress_bar, reported
from sft_speech.tasks.asr.languages import add_language_arguments
from sft_speech.text.scoring import words_of

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

    from sft_speech.tasks.asr.ctc.beam import Search
    from sft_speech.tasks.asr.ctc.checkpoint import Checkpoint
    from sft_speech.tasks.asr.ctc.recognition import Recognition

logger = logging.getLogger(__name__)

LM_WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
WORD_SCORES = (-3.0, -1.5, 0.0, 1.5, 3.0)
STEPS = (0.5, 0.2, 0.1)  # of both weights, around the best pair so far

Pair = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Rates:
    """Errors of one search over a whole corpus."""

    words: Errors
    characters: Errors

    @classmethod
    def count(cls, references: list[str], hypotheses: list[str], spaced: bool = True) -> Rates:
        """Count the errors of every utterance; without spaces between words, each letter is a word."""
        characters = character_errors(references, hypotheses)
        given, found = ([words_of(text, spaced) for text in texts] for texts in (references, hypotheses))
        return cls(sum_errors(word_errors(given, found)), sum_errors(characters))

    @property
    def cost(self) -> tuple[int, int]:
        """What is minimized: word errors, then character errors."""
        return self.words.total, self.characters.total

    def __str__(self) -> str:
        return f"{100 * self.words.rate:6.2f} {100 * self.characters.rate:6.2f}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft-speech tune-lm``."""
    parser.add_argument("model", metavar="MODEL", help="directory of a fine-tuned model, or its id on the Hub")
    add_corpus_arguments(parser)
    add_language_arguments(parser)
    add_decoding_arguments(parser, tuned=True)
    add_output_argument(parser, "[decoding.yaml]", metavar="FILE", folder=False, default="decoding.yaml")
    parser.add_argument("--max_batch_seconds", type=float, metavar="S", help="padded audio per batch [by device]")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... [a GPU if there is one]")
    add_pickle_argument(parser)


def main(args: argparse.Namespace) -> None:
    """Recognize the corpus, try pairs, print their WER and CER, write the best pair to a file for ``--decoding``."""
    decoding, output = decoding_of(args), Path(args.output)
    assert decoding is not None  # --lm is required
    check_output("-o", args.output)
    from sft_speech.models.load import chosen_device
    from sft_speech.tasks.asr.ctc.beam import Search
    from sft_speech.tasks.asr.ctc.checkpoint import load_checkpoint
    from sft_speech.tasks.asr.recognizer import check_trained, is_spaced

    rows, split, report = rows_of_arguments(args)
    device, options = chosen_device(args.device), {"language": args.language, "target_lang": args.target_lang}
    checkpoint = load_checkpoint(args.model, allow_pickle=args.allow_pickle, **options)
    check_trained(checkpoint, args.model)
    search = Search(checkpoint.vocabulary, decoding)
    corpus = reported(checkpoint, rows, split, report)
    references, greedy = recognize_rows(checkpoint, corpus, device, args.max_batch_seconds)
    if not any(references):
        raise UserError(
            f"{args.source} {split}", "none of its utterances could be recognized", "see the messages above"
        )
    spaced = is_spaced(checkpoint, references)
    without = Rates.count(references, [one.text for one in greedy], spaced)
    print(f"lm_weight word_score    WER    CER   * fewest errors so far\n{'greedy':20} {without}", flush=True)
    fewest = without.cost

    def rates(pair: Pair) -> Rates:
        nonlocal fewest
        tried = dataclasses.replace(decoding, lm_weight=pair[0], word_score=pair[1])
        found = Rates.count(references, searched(search, tried, greedy), spaced)
        mark = " *" if found.cost < fewest else ""
        fewest = min(fewest, found.cost)
        print(f"{pair[0]:9.2f} {pair[1]:10.2f} {found}{mark}", flush=True)
        return found

    best, found = tune(rates, (0.0,) if search.lexicon is None else WORD_SCORES)
    if found.words.total >= without.words.total:
        logger.warning("no pair is better than greedy: does the language model fit this kind of speech?")
    name = "WER" if spaced else "WER of letters"
    summary = f"{name} {100 * found.words.rate:.2f} % on {args.source} {split}, greedy {100 * without.words.rate:.2f} %"
    write(output, dataclasses.replace(decoding, lm_weight=best[0], word_score=best[1]), summary)
    print(f"\nlm_weight {best[0]:g}, word_score {best[1]:g}: {summary}\n{output}")


def recognize_rows(
    checkpoint: Checkpoint, corpus: Dataset, device: torch.device, max_batch_seconds: float | None
) -> tuple[list[str], list[Recognition]]:
    """Return references and greedy recognitions with log-probabilities; rows that cannot be read are left out."""
    from sft_speech.audio.read import AudioError
    from sft_speech.tasks.asr.recognizer import Clip

    clips = (Clip(row["audio"], row["seconds"], row["start"], channel=row.get("channel")) for row in corpus)
    references, recognitions = [], []
    with progress_bar(corpus["seconds"]) as bar:
        found = checkpoint.recognize(
            clips, max_batch_seconds=max_batch_seconds, device=device, progress=bar.update, scores=True
        )
        for id, text, one in zip(corpus["id"], corpus["text"], found, strict=True):
            if isinstance(one, AudioError) or one.problem:
                logger.warning("%s is left out: %s", id, one if isinstance(one, AudioError) else one.problem)
                continue
            references.append(checkpoint.normalizer(text).text)
            recognitions.append(one)
    return references, recognitions


def searched(search: Search, decoding: Decoding, greedy: Iterable[Recognition]) -> list[str]:
    """Return the hypotheses that a search finds."""
    from sft_speech.audio.read import AudioError
    from sft_speech.tasks.asr.ctc.beam import BeamDecoder

    search.reweigh(decoding)
    with BeamDecoder(search) as decoder:
        return [one.text for one in decoder.follow(greedy) if not isinstance(one, AudioError)]


def tune(rates: Callable[[Pair], Rates], word_scores: tuple[float, ...] = WORD_SCORES) -> tuple[Pair, Rates]:
    """Return the pair (lm_weight, word_score) with the fewest errors, and its errors.

    Args:
        rates: returns the errors of a pair; it is called once for each.
        word_scores: of the coarse grid; if there is only one, it stays.
    """
    known: dict[Pair, Rates] = {}

    def cost(pair: Pair) -> tuple[int, int, float, float]:
        if pair not in known:
            known[pair] = rates(pair)
        return *known[pair].cost, pair[0], abs(pair[1])

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


def write(path: Path, decoding: Decoding, summary: str) -> None:
    """Write the file that ``--decoding`` reads, with absolute paths."""
    values = dataclasses.asdict(decoding)
    for key in ("lm", "lexicon"):
        if values[key] and Path(values[key]).is_file():
            values[key] = str(Path(values[key]).resolve())
    path.write_text(f"# {summary}\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
