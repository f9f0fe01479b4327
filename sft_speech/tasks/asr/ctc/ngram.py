"""The words of an n-gram language model, and their spellings in the vocabulary of a checkpoint.

Mismatches between the two are found here, before anything is recognized: another case, another alphabet, words instead
of characters or characters instead of words.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import logging
import mmap
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from sft_speech.errors import UserError
from sft_speech.tasks.asr.ctc.vocabulary import Vocabulary
from sft_speech.text.normalize import infer_case

logger = logging.getLogger(__name__)

KENLM = b"mmap lm http://kheafield.com/code"
SPECIAL = {"<s>", "</s>", "<unk>", "<UNK>"}
SPACES = ("|", "<space>", "▁", "_")  # names of the space in language models of characters
MOST_UNFIT = 0.1  # share of words that cannot be spelled or that the language model lacks; more must be a mistake
MOST_GROWTH = 100  # of a file in decompression; about 4 for ARPA files
ALWAYS_FINE = 1 << 24  # decompressed bytes, whatever the compressed size
LONGEST_LINE = 1 << 16  # bytes

Lexicon = dict[str, list[list[int]]]  # word: its spellings in labels


def words_of(path: str) -> list[str]:
    """Return the words of an ARPA file (.gz too) or a KenLM binary, without sentence marks and the unknown word.

    Raises:
        UserError: it is neither of them, or has no words.
    """
    try:
        found = _binary_words(path) if is_binary(path) else _arpa_words(path)
    except (ValueError, IndexError, EOFError, OSError) as error:  # not text, no second column, a cut archive
        raise UserError(path, f"it is not an ARPA file ({error})", "make it with KenLM's lmplz") from error
    words = [word for word in found if word not in SPECIAL]
    if not words:
        raise UserError(path, "it has no words", "build it again with KenLM's lmplz and build_binary")
    return words


def is_binary(path: str) -> bool:
    """Return whether a file is a KenLM binary."""
    return _begins(path, KENLM)


def _begins(path: str, mark: bytes) -> bool:
    with open(path, "rb") as file:
        return file.read(len(mark)) == mark


@contextlib.contextmanager
def _lines(path: str) -> Iterator[Iterator[bytes]]:
    """Open an ARPA file (.gz too), for its lines."""
    with gzip.open(path) if _begins(path, b"\x1f\x8b") else open(path, "rb") as file:
        yield _bounded(file, max(ALWAYS_FINE, MOST_GROWTH * os.path.getsize(path)))


def with_bigrams(path: str, folder: Path) -> str:
    """Return the path of a language model that KenLM reads.

    It refuses an ARPA file of 1-grams only: of that, a copy in a folder has an empty section of 2-grams.
    """
    if is_binary(path):
        return path
    with _lines(path) as lines:
        header = list(itertools.takewhile(lambda line: line.strip() != b"\\1-grams:", lines))
        if any(re.match(rb"ngram\s+[2-9]", line) for line in header):
            return path
        copy = folder / "arpa"
        with open(copy, "wb") as file:
            file.writelines([*(line for line in header if line.strip()), b"ngram 2=0\n\n\\1-grams:\n"])
            section = itertools.takewhile(lambda line: line.strip() != b"\\end\\", lines)
            file.writelines(section)
            file.write(b"\n\\2-grams:\n\n\\end\\\n")
        return str(copy)


def _arpa_words(path: str) -> list[str]:
    """Return the second column of the section of 1-grams."""
    with _lines(path) as lines:
        first = next((line.strip() for line in lines if line.strip()), b"")
        if first != b"\\data\\":
            begins = first[:30].decode("utf-8", "replace")
            why = f"it is neither an ARPA file nor a KenLM binary: it begins with {begins!r}"
            raise UserError(path, why, "make one with KenLM's lmplz")
        for line in lines:
            if line.strip() == b"\\1-grams:":
                break
        section = itertools.takewhile(lambda line: not line.startswith(b"\\"), lines)
        # Bytes are split only at ASCII spaces, as KenLM does.
        return [line.split()[1].decode("utf-8") for line in section if line.strip()]


def _bounded(file: BinaryIO | gzip.GzipFile, most: int) -> Iterator[bytes]:
    """Yield lines of at most ``most`` bytes in all.

    Raises:
        ValueError: the file is larger, as a decompression bomb is.
    """
    read = 0
    while line := file.readline(LONGEST_LINE):
        read += len(line)
        if len(line) == LONGEST_LINE:
            raise ValueError(f"a line of more than {LONGEST_LINE} bytes")
        if read > most:
            raise ValueError(f"more than {MOST_GROWTH} times the size of its archive")
        yield line


def _binary_words(path: str) -> list[str]:
    """Return the strings at the end of a file, each ended by a zero byte, the unknown word first (KenLM, lm/vocab.cc).

    Raises:
        UserError: some are not words.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        begin = data.rfind(b"<unk>\0")
        strings = data[begin:-1] if begin >= 0 else b""
    if re.search(rb"\s|\0\0", strings):  # KenLM writes no such words, and the search would split them
        why = "it is damaged: some of its words are empty or hold spaces"
        raise UserError(path, why, "build it again with KenLM's build_binary")
    return strings.decode("utf-8").split("\0") if strings else []


def units(path: str, words: Iterable[str], vocabulary: Vocabulary) -> dict[int, str] | None:
    """Return the name of each label in a language model of characters; None for a language model of words.

    Raises:
        UserError: it has two cases of a character and the vocabulary one, or it lacks the space or half of the
            vocabulary.
    """
    if any(len(word) > 1 and word not in SPACES and word not in vocabulary.ids for word in words):
        return None
    names: dict[int, str] = {}
    foreign = []
    for word in words:
        label = _label(word, vocabulary)
        if label is None:
            foreign.append(word)
        elif label in names:
            why = f"{names[label]!r} and {word!r} are one character for the model"
            raise UserError(path, why, "build it from texts in one case")
        else:
            names[label] = word
    lacking = [token for token, label in vocabulary.ids.items() if label not in names]
    shown = " ".join(repr(token) for token in lacking[:10])
    if " " in lacking or len(lacking) > len(vocabulary.ids) / 2:
        why = f"it lacks {len(lacking)} of the model's {len(vocabulary.ids)} characters: {shown}"
        raise UserError(path, why, "build it from texts in the model's characters, with | for the space")
    if lacking or foreign:
        logger.warning("%s lacks %s; the model lacks its %s", path, shown or "nothing", " ".join(foreign) or "nothing")
    return names


def _label(token: str, vocabulary: Vocabulary) -> int | None:
    """Return the label of a token, regardless of case; None if it has none."""
    for name in (token, token.lower(), token.upper()):
        if name in vocabulary.ids:
            return vocabulary.ids[name]
    return vocabulary.ids.get(" ") if token in SPACES else None


def lexicon_of(path: str, words: list[str], vocabulary: Vocabulary, file: str | None) -> Lexicon:
    """Return the spellings of the words of a language model, or of those among them that a file lists.

    Args:
        path, words: of the language model.
        file: a word per line, with the tokens that spell it unless the transcripts' normalizer is to spell it.

    Raises:
        UserError: more than MOST_UNFIT of the words cannot be spelled in the vocabulary, or are not in the language
            model; or the vocabulary has two cases and the words one.
    """
    given: dict[str, list[list[str]]] = {word: [] for word in words} if file is None else _read_lexicon(file)
    source = file or path
    _check_case(source, given, vocabulary)
    known, closing = set(words), [vocabulary.ids[" "]] if " " in vocabulary.ids else []
    lexicon: Lexicon = {}
    missing: Counter[str] = Counter()
    unspelled, unknown = [], []
    for entry, tokens in given.items():
        word = next((name for name in (entry, entry.upper(), entry.lower()) if name in known), None)
        if word is None:
            unknown.append(entry)
            continue
        lacking, spellings = _spellings(entry, tokens, vocabulary)
        if lacking:
            missing += lacking
            unspelled.append(entry)
        for labels in spellings:
            lexicon.setdefault(word, []).append(labels if labels[-1:] == closing else labels + closing)
    characters = ", ".join(f"{character!r} {count} times" for character, count in missing.most_common(8))
    _unfit(source, unspelled, len(given), f"cannot be spelled in the model's characters; missing are {characters}")
    _unfit(source, unknown, len(given), f"aren't words of {path}")
    if not lexicon:
        raise UserError(source, "none of its words can be spelled in the model's characters", "check its language")
    return lexicon


def _unfit(source: str, words: list[str], total: int, why: str) -> None:
    """Report words that are left out; raise if there are too many."""
    if not words:
        return
    message = f"{len(words)} of {total} words (such as {', '.join(words[:3])}) {why}"
    if len(words) > MOST_UNFIT * total:
        raise UserError(source, message, "give a language model of texts normalized as the transcripts are")
    logger.info("%s: %s", source, message)


def _check_case(source: str, words: Iterable[str], vocabulary: Vocabulary) -> None:
    alphabet = vocabulary.normalizer.alphabet or frozenset()
    both = any(c.isupper() for c in alphabet) and any(c.islower() for c in alphabet)
    case = infer_case(set().union(*words))
    if both and vocabulary.normalizer.case == "keep" and case != "keep":
        why = f"its words are in {case} case, the model writes both"
        raise UserError(source, why, "give a language model of texts with capitals where the transcripts have them")


def _spellings(word: str, given: list[list[str]], vocabulary: Vocabulary) -> tuple[Counter[str], list[list[int]]]:
    """Return the characters of a word that the vocabulary lacks, and its spellings in labels.

    The spellings are the given ones, or else the normalizer's. A word that is normalized to nothing has neither.
    """
    if not given:
        normalized = vocabulary.normalizer(word)
        spelled = vocabulary.encode(normalized.text)
        if vocabulary.unknown in spelled:  # no subwords make it up
            return Counter([word]), []
        return normalized.missing, [spelled] if spelled and not normalized.missing else []
    lacking: Counter[str] = Counter()
    spellings = []
    for tokens in given:
        labels = [_label(token, vocabulary) for token in tokens]
        lacking.update(token for token, label in zip(tokens, labels, strict=True) if label is None)
        if None not in labels:
            spellings.append([label for label in labels if label is not None])
    return lacking, spellings


def _read_lexicon(file: str) -> dict[str, list[list[str]]]:
    """Return words with their spellings (lists of tokens); [] if the normalizer is to spell the word."""
    try:
        lines = [line.split() for line in Path(file).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--lexicon {file}", f"it cannot be read ({error})", "give a text file in UTF-8") from error
    lexicon: dict[str, list[list[str]]] = {}
    for word, *tokens in filter(None, lines):
        if word not in SPECIAL:
            lexicon.setdefault(word, []).extend([tokens] if tokens else [])
    return lexicon
