"""Make an n-gram language model of texts, spelled as a recognizer writes them, for ``--lm`` of tune-lm and transcribe.

Each line of a text is a sentence. Of a corpus, the transcripts are taken. The text is normalized for the vocabulary of
the model: its case, its letters, numbers spelled out. A vocabulary without a space gives a model of characters. If the
text does not fit into memory (about 200 bytes per word), use KenLM's lmplz.
"""

from __future__ import annotations

import argparse
import gzip
import logging
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft_speech.errors import UserError
from sft_speech.files import check_output, open_whole
from sft_speech.options.parser import add_output_argument
from sft_speech.tasks.asr.languages import add_language_arguments
from sft_speech.text.counted import counted
from sft_speech.text.languages import language_of
from sft_speech.text.markup import WithoutMarks

if TYPE_CHECKING:
    from sft_speech.tasks.asr.ctc.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

ORDERS = range(1, 7)  # KenLM in torchaudio reads no longer n-grams


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft-speech build-lm``."""
    parser.add_argument(
        "texts",
        metavar="TEXT",
        nargs="+",
        help="a text file in UTF-8 (.gz too) with a sentence per line, or a corpus: a folder or a manifest",
    )
    parser.add_argument("--model", required=True, help="directory of the recognizer (CTC), or its id on the Hub")
    add_output_argument(parser, "the ARPA file to write", metavar="FILE.arpa", folder=False, required=True)
    parser.add_argument("--order", type=int, default=3, choices=ORDERS, help="words in the longest n-grams [3]")
    parser.add_argument("--split", metavar="SPLIT", help="of a corpus; join several with '+' [all rows]")
    parser.add_argument("--text_column", metavar="NAME", help="of a corpus, if it is not recognized by its name")
    add_language_arguments(parser)


def main(args: argparse.Namespace) -> None:
    """Read the texts, estimate the language model, write it."""
    check_output("-o", args.output)
    from sft_speech.tasks.asr.ctc.kneser_ney import estimate, write_arpa

    corpora = [path for path in args.texts if is_corpus(path)]
    if (args.split or args.text_column) and not corpora:
        given = "--split" if args.split else "--text_column"
        raise UserError(given, "plain text files have neither splits nor columns", f"leave {given} out")
    vocabulary = vocabulary_of_model(args.model, args.target_lang, args.language)
    lines = (line for path in args.texts for line in texts_of(path, args.split, args.text_column))
    sentences = Sentences(lines, vocabulary)
    words, grams = estimate(sentences, args.order, (sentences.names or {}).values())
    if not sentences.taken:
        raise UserError(" ".join(args.texts), f"no sentence is left of it{sentences.left_out()}", sentences.do)
    with open_whole(Path(args.output)) as file:
        write_arpa(file, words, grams)
    lengths = ", ".join(f"{len(one.word):,} {length}-grams" for length, one in enumerate(grams, start=1))
    print(f"{args.output}: {lengths}, of {counted(sentences.taken, 'sentence')}{sentences.left_out()}")


def is_corpus(path: str) -> bool:
    """Return whether a corpus is read, and not a text: a folder, a manifest, or an id on the Hub."""
    from sft_speech.corpora.tables import SUFFIXES

    return Path(path).suffix.lower() in SUFFIXES or not Path(path).is_file()


def texts_of(path: str, split: str | None, column: str | None) -> Iterable[str]:
    """Return the lines of a text file, or the transcripts of a corpus.

    Raises:
        UserError: it cannot be read.
    """
    if not is_corpus(path):
        return lines_of(path)
    from sft_speech.corpora import load_corpus

    texts: Iterable[str] = load_corpus(path, split, columns={"text": column} if column else None)["text"]
    return texts


def lines_of(path: str) -> Iterator[str]:
    """Yield the lines of a text file.

    Raises:
        UserError: it is not text in UTF-8, or a damaged archive.
    """
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rt", encoding="utf-8-sig") if packed else open(path, encoding="utf-8-sig") as lines:
            yield from lines
    except (UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            path, f"it is not text in UTF-8 ({error})", "give a text file with a sentence per line"
        ) from error


def vocabulary_of_model(name: str, target_lang: str | None, language: str | None) -> Vocabulary:
    """Return the vocabulary of a CTC model, without its weights.

    Raises:
        UserError: it is no CTC model, or has no vocabulary.
    """
    from sft_speech.tasks.asr.ctc.checkpoint import Checkpoint, own_vocabulary, read_config_of, written_language

    where: dict[str, Any] = {"revision": "main", "trust_remote_code": False}
    config = read_config_of(Checkpoint, name, where)
    vocabulary, _ = own_vocabulary(Checkpoint, name, where, config, target_lang, language)
    if vocabulary is None:
        raise UserError(name, "it has no vocabulary yet", "fine-tune it first: sft-speech finetune-asr")
    return vocabulary if language else vocabulary.in_language(written_language(name, config, vocabulary, None))


def has_words(vocabulary: Vocabulary) -> bool:
    """Return whether a recognizer writes words between spaces."""
    from sft_speech.tasks.asr.ctc.vocabulary import Characters

    unspaced = isinstance(vocabulary, Characters) and " " not in vocabulary.ids
    return not unspaced and language_of(vocabulary.normalizer.language).spaced_words


def names_of(vocabulary: Vocabulary) -> dict[int, str]:
    """Return the name of each label in a language model of characters."""
    from sft_speech.tasks.asr.ctc.ngram import SPACES

    return {label: SPACES[0] if token == " " else token for token, label in vocabulary.ids.items()}


class Sentences:
    """The sentences of texts in the units of a language model: words, or the tokens of a vocabulary without a space.

    Those with a character that the vocabulary lacks are left out, because the recognizer can't write them.

    Args:
        lines: a sentence each.
        vocabulary: of the recognizer.

    Attributes:
        taken: number of sentences so far.
        missing: characters that the vocabulary lacks.
    """

    def __init__(self, lines: Iterable[str], vocabulary: Vocabulary) -> None:
        self.lines, self.vocabulary = lines, vocabulary
        self.names = None if has_words(vocabulary) else names_of(vocabulary)
        self.normalize = WithoutMarks(vocabulary.normalizer, vocabulary.normalizer.language)
        self.taken = self.foreign = 0
        self.missing: Counter[str] = Counter()

    def __iter__(self) -> Iterator[list[str]]:
        for line in self.lines:
            normalized = self.normalize(line)
            if normalized.missing:
                self.foreign += 1
                self.missing += normalized.missing
            elif normalized.text:
                self.taken += 1
                yield self.units(normalized.text)

    def units(self, text: str) -> list[str]:
        """Return the words or tokens of a normalized text."""
        if self.names is None:
            return text.split()
        return [self.names[label] for label in self.vocabulary.encode(text) if label in self.names]

    def left_out(self) -> str:
        """Return what was left out, as the end of a message; "" if nothing was."""
        if not self.foreign:
            return ""
        most = ", ".join(f"{character!r} {count} times" for character, count in self.missing.most_common(8))
        return f"; {self.foreign:,} left out, with characters that the model lacks: {most}"

    @property
    def do(self) -> str:
        """What to do if nothing is left."""
        digits = any(character.isdigit() for character in self.missing) and not self.vocabulary.normalizer.language
        return "give its language, such as --language de" if digits else "check its language and the model's"
