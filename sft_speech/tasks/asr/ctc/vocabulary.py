"""The tokens that a CTC model can output: kept from its checkpoint, or the characters of transcripts."""

from __future__ import annotations

import copy
import json
import logging
import re
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerFast, Wav2Vec2CTCTokenizer

from sft_speech.errors import UserError
from sft_speech.text.normalize import TranscriptNormalizer

logger = logging.getLogger(__name__)

BLANK, UNKNOWN, DELIMITER = "<pad>", "<unk>", "|"
# Names of tokens that are never text, whether or not a tokenizer lists them as special: conversions of fairseq
# checkpoints often do not.
SPECIAL_NAMES = frozenset(
    "<s> </s> <unk> <pad> <blank> <blk> <eps> <mask> <sos> <eos> <bos> <sos/eos> [pad] [unk] [cls] [sep] [mask]".split()
)
PART_OF_CHARACTER = "\ufffd"  # text of a token of bytes that are not a whole character
RARE = 5  # characters with fewer occurrences in the transcripts cause a warning


class Vocabulary(ABC):
    """A tokenizer of transformers, with fast and exact encoding.

    Args:
        ids: the labels of its tokens, special ones aside; the word delimiter, if it has one, as " ".
        alphabet: tokens or characters that its text consists of.
        blank: label of the blank.
        language: language of the transcripts, for their numbers; None: not known.

    Attributes:
        tokenizer: as it is saved with the model.
        normalizer: writes transcripts in the characters of the vocabulary.
        unknown: label of what the vocabulary lacks; None if it has none.
    """

    tokenizer: Wav2Vec2CTCTokenizer | PreTrainedTokenizerFast
    unknown: int | None

    def __init__(self, ids: dict[str, int], alphabet: Iterable[str], blank: int, language: str | None) -> None:
        self.ids, self.blank = ids, blank
        self.normalizer = TranscriptNormalizer.for_vocabulary(alphabet, language)

    def in_language(self, language: str | None) -> Self:
        """Return the same vocabulary for transcripts in another language."""
        other = copy.copy(self)
        other.normalizer = self.normalizer.in_language(language)
        return other

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the labels of a transcript; a character that the vocabulary lacks becomes the unknown token."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of labels; repeated labels are double letters."""

    @abstractmethod
    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Return the text of each label in a sequence; a space begins a word."""

    @abstractmethod
    def fits(self, outputs: int) -> bool:
        """Return whether a head with this many outputs covers the vocabulary."""


class Characters(Vocabulary):
    """A vocabulary of characters, and perhaps some longer tokens.

    Args:
        tokenizer: tokenizer of a CTC model. If its vocabulary lacks its word delimiter but has a space, it is corrected
            in place.
        language: language of the transcripts, for their numbers; None: not known.
    """

    tokenizer: Wav2Vec2CTCTokenizer

    def __init__(self, tokenizer: Wav2Vec2CTCTokenizer, language: str | None = None) -> None:
        self.tokenizer = tokenizer
        use_space(tokenizer)
        special = special_tokens(tokenizer)
        self._special = frozenset(index for token, index in tokenizer.get_vocab().items() if token in special)
        tokens = {token: index for token, index in tokenizer.encoder.items() if token not in special}
        if tokenizer.do_lower_case:  # upper case inside, lower case outside
            tokens = {token.lower(): index for token, index in tokens.items()}
        self.delimiter = tokenizer.encoder.get(tokenizer.word_delimiter_token)
        self._special -= {self.delimiter}
        ids = tokens if self.delimiter is None else {**tokens, " ": self.delimiter}
        blank = tokenizer.pad_token_id
        super().__init__(ids, tokens, -1 if blank is None else int(blank), language)
        self.unknown = tokenizer.encoder.get(str(tokenizer.unk_token), self.blank)
        # Longest first, as in a tokenizer of words; the transformers tokenizer loses the spaces around long tokens.
        long = sorted((token for token in self.ids if len(token) > 1), key=lambda token: (-len(token), token))
        self._long = re.compile("|".join([*map(re.escape, long), "."])) if long else None
        self._letters: dict[int, str] = {}

    def encode(self, text: str) -> list[int]:
        """Return the labels of a transcript; a character that the vocabulary lacks becomes the unknown token.

        Spaces become word delimiters, or nothing if the vocabulary has none.
        """
        pieces = self._long.findall(text) if self._long else text
        try:
            return [self.ids[piece] for piece in pieces]
        except KeyError:
            known = (self.ids.get(piece, None if piece == " " else self.unknown) for piece in pieces)
            return [index for index in known if index is not None]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of labels, as transformers writes it, without special tokens; repeats are double letters."""
        labels = [int(index) for index in ids if int(index) not in self._special]
        return str(self.tokenizer.decode(labels, group_tokens=False))

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Return the character of each label in a sequence, "" for special tokens; a space for a delimiter."""
        return [" " if index == self.delimiter else self._letter(int(index)) for index in ids]

    def _letter(self, index: int) -> str:
        """Return the text of one label. Cached, because decoding takes 20 µs."""
        if index not in self._letters:
            self._letters[index] = self.decode([index])
        return self._letters[index]

    def fits(self, outputs: int) -> bool:
        """Return whether a head with this many outputs covers the vocabulary.

        Start and end tokens that transformers adds silently may be beyond it: no transcript has them.
        """
        return 0 <= self.blank < outputs and max(self.tokenizer.encoder.values(), default=outputs) < outputs


class Subwords(Vocabulary):
    """A checkpoint's own vocabulary of subwords (BPE, unigrams).

    Args:
        tokenizer: a fast tokenizer. Its special tokens are not text.
        blank: label of the blank, which the checkpoint's configuration names.
        language: language of the transcripts, for their numbers; None: not known.
    """

    tokenizer: PreTrainedTokenizerFast

    def __init__(self, tokenizer: PreTrainedTokenizerFast, blank: int, language: str | None = None) -> None:
        self.tokenizer = tokenizer
        tokens = tokenizer.get_vocab()
        self._special = {blank, *tokenizer.all_special_ids, *(tokens[name] for name in tokens if is_special(name))}
        ids = {token: index for token, index in tokens.items() if index not in self._special}
        written = set().union(*map(self.decode, ([index] for index in ids.values())))
        super().__init__(ids, written - {PART_OF_CHARACTER}, blank, language)
        self.unknown = tokenizer.unk_token_id

    def encode(self, text: str) -> list[int]:
        """Return the labels of a transcript; a character that the vocabulary lacks becomes the unknown token."""
        return list(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of labels, without special tokens; repeated labels are repeated subwords."""
        labels = [int(index) for index in ids if int(index) not in self._special]
        return str(self.tokenizer.backend_tokenizer.decode(labels, skip_special_tokens=True))

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Return the text of each label in a sequence; of the bytes of one character, the last has its text."""
        stream, tokenizer = DecodeStream(skip_special_tokens=True), self.tokenizer.backend_tokenizer
        return ["" if int(i) in self._special else stream.step(tokenizer, int(i)) or "" for i in ids]

    def fits(self, outputs: int) -> bool:
        """Return whether a head with this many outputs covers the vocabulary; most special tokens may be beyond it."""
        return max(self.blank, *self.ids.values(), -1 if self.unknown is None else self.unknown) < outputs


def special_tokens(tokenizer: Wav2Vec2CTCTokenizer) -> set[str]:
    """Return the tokens that are not text: blank, unknown, start and end, and the word delimiter."""
    names = {tokenizer.pad_token, tokenizer.unk_token, tokenizer.bos_token, tokenizer.eos_token}
    names |= {tokenizer.word_delimiter_token, *filter(is_special, tokenizer.get_vocab())}
    return {str(name) for name in names if name is not None}


def is_special(token: str) -> bool:
    """Return whether a token is never text by its name."""
    return token.lower() in SPECIAL_NAMES


def use_space(tokenizer: Wav2Vec2CTCTokenizer) -> None:
    """Make the space the word delimiter if the vocabulary lacks its own."""
    if tokenizer.word_delimiter_token not in tokenizer.encoder and " " in tokenizer.encoder:
        tokenizer._word_delimiter_token = " "
        tokenizer.init_kwargs["word_delimiter_token"] = " "


def build_tokenizer(transcripts: Iterable[str], language: str | None = None) -> Wav2Vec2CTCTokenizer:
    """Return a tokenizer of the characters of normalized transcripts: lower case, sorted.

    Its entries are numbered 0 (blank), 1 (unknown), 2 (word delimiter), 3 ... without gaps. It has no start and end
    tokens, which transformers would add silently, so that a head has exactly ``len(tokenizer)`` outputs.

    Raises:
        UserError: the transcripts hold no character.
    """
    normalize = TranscriptNormalizer(None, "lower", language)
    characters: Counter[str] = Counter()
    count = 0
    for count, transcript in enumerate(transcripts, start=1):  # noqa: B007 (the number is for the message)
        characters.update(normalize(transcript).text)
    for separator in (" ", DELIMITER):
        del characters[separator]
    if not characters:
        raise UserError(
            f"{count} transcripts", "they hold no letter to build a vocabulary from", "check the text column"
        )
    tokens = [BLANK, UNKNOWN, DELIMITER, *sorted(characters)]
    rare = " ".join(
        f"{character} ({characters[character]})" for character in tokens[3:] if characters[character] < RARE
    )
    if rare:
        logger.warning("too rare in the transcripts to be learned, perhaps typing errors: %s", rare)
    logger.info("vocabulary of %d entries built from %d transcripts: %s", len(tokens), count, " ".join(tokens[2:]))
    return tokenizer_of(tokens)


def tokenizer_of(tokens: list[str]) -> Wav2Vec2CTCTokenizer:
    """Return a tokenizer with exactly these entries, in order; the first three are blank, unknown, word delimiter."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vocab.json")
        path.write_text(json.dumps({token: index for index, token in enumerate(tokens)}), encoding="utf-8")
        return Wav2Vec2CTCTokenizer(
            str(path),
            pad_token=tokens[0],
            unk_token=tokens[1],
            word_delimiter_token=tokens[2],
            bos_token=None,
            eos_token=None,
        )
