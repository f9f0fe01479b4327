"""Normalization of transcripts to what a vocabulary can spell.

A CTC model can only write the characters of its vocabulary, so that "It's 5 %" becomes ``IT'S FIVE PERCENT`` for one
checkpoint and ``it's five percent`` for another. What cannot be spelt is removed and counted, and so are letters that
lose their marks: the caller sees which characters the vocabulary lacks, and how often they occur.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Literal, NamedTuple

from sft_speech.text.codes import base_of
from sft_speech.text.languages import language_of
from sft_speech.text.numbers import CURRENCIES, speaks, spell_numbers

Case = Literal["upper", "lower", "keep"]

# Unicode classifies these as punctuation, yet they are pronounced: removing one loses a word.
SPOKEN = frozenset("%&@#‰§")
# Letters that Unicode decomposition does not reduce to the plain alphabet.
RELATED = {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"}
APOSTROPHE_SIGNS = "'ʼ’ʻ‘ʹ′`´"  # of several in a vocabulary, the first one is written
APOSTROPHES = str.maketrans(dict.fromkeys(APOSTROPHE_SIGNS[1:], "'"))
APOSTROPHE_LETTERS = frozenset("ʼʻ")
OTHER_APOSTROPHES = {code: "'" for code in APOSTROPHES if chr(code) not in APOSTROPHE_LETTERS}
PART_OF_WORD = re.compile(r"[ʼʻ]|(?<=\w)'(?=\w)")
TURNED_COMMA = re.compile("(?<=[oOgG])['’‘`´]|‘")  # Uzbek has two letters: oʻ and gʻ, ʼ elsewhere
# NFKC makes plain letters of these, which some languages and all phonetic alphabets distinguish: ʰ, ʷ, ⁿ
MODIFIER_LETTERS = "ʰ-ʸˠ-ˤᴬ-ᵪᵸᶛ-ᶿⁱⁿ"
SILENT_LETTERS = "ـߺ"  # they make words longer for the eye, not for the ear
QUOTED = re.compile(r"‘([^‘’]*)’(?!\w)")
# Straight quotes, where they cannot be apostrophes: 'one_word', and 'several words,' closed behind punctuation.
QUOTED_WORD = re.compile(r"(?<![\w'])'(\w[\w']*\w)'(?![\w'])")
QUOTED_PHRASE = re.compile(r"(?<![\w'])'(\w(?:[^'\n]|(?<=\w)'(?=\w))*[.,!?;:])'(?![\w'])")
PLAIN_FRACTION = re.compile(r"(?<![\d/])(?:1/2|[12]/3|[13]/4)(?![\d/])")  # 9/11 and 24/7 are not fractions
FRACTIONS = {"1/2": "½", "1/3": "⅓", "2/3": "⅔", "1/4": "¼", "3/4": "¾"}
VULGAR = re.compile(r"(?<=\d)\s?([¼-¾⅐-⅞])")
EDGE_APOSTROPHE = re.compile(r"(?<!\w)'|'(?!\w)")  # without one, no apostrophe can be a quotation mark
LOOSE_APOSTROPHE = re.compile(r"''+|(?<!\w)'(?!\w)")
# "end.Next" are two words, "U.S." is one; "3.5" is never 35
SENTENCE_END = re.compile(r"(?<=\w\w)\.(?=\w)|(?<=\d)\.(?=\d)|\.\.+")


NONE: Counter[str] = Counter()  # most transcripts have no such characters


class Normalized(NamedTuple):
    """A transcript as the vocabulary spells it.

    Args:
        text: the transcript.
        missing: characters removed because the vocabulary lacks them.
        folded: letters written without their marks or as others, because the vocabulary lacks them: é as e, ß as ss.
        marks: signs of transcription that were removed, see :mod:`sft_speech.text.markup`.
        unknown_marks: words in brackets that no known convention explains.
    """

    text: str
    missing: Counter[str] = NONE
    folded: Counter[str] = NONE
    marks: Counter[str] = NONE
    unknown_marks: Counter[str] = NONE


class TranscriptNormalizer:
    """Write transcripts in the characters of one vocabulary.

    Unicode is composed (NFKC) unless the vocabulary has other forms, case follows the vocabulary, numbers, sums of
    money and symbols are spelt out (unless the vocabulary has digits), apostrophes are written with the vocabulary's
    sign, other punctuation (and quotation marks of the same shape) is silently dropped because nobody pronounces it,
    and a letter whose accent the vocabulary lacks loses the accent, which is counted. Any other character that the
    vocabulary lacks is removed and counted. The result has single spaces and none at the ends; normalizing it again
    changes nothing.

    Args:
        alphabet: the characters of the vocabulary, space and word delimiter aside; None while it is still to be built
            from the transcripts: letters, marks and unspelt digits of any script are then kept.
        case: case that letters are converted to; "keep" leaves letters that the alphabet has unchanged.
        language: code of the language, for numbers and symbols; None: not known. Digits are left as they are if it is
            not known, or num2words lacks it.
    """

    def __init__(self, alphabet: set[str] | None, case: Case, language: str | None = "en") -> None:
        self.alphabet = None if alphabet is None else frozenset(alphabet) - {" "}
        self.case = case
        self.language = language
        self._english = base_of(language or "") == "en"
        self.spells_numbers = not (alphabet is not None and set("0123456789") <= alphabet) and speaks(language)
        self.symbols = {
            ord(symbol): f" {word} "
            for symbol, word in language_of(language).symbols.items()
            if alphabet is None or symbol not in alphabet
        }
        self._apostrophes = [sign for sign in APOSTROPHE_SIGNS if alphabet is None or sign in alphabet]
        self._both_letters = alphabet is not None and set(alphabet) >= APOSTROPHE_LETTERS
        # Characters of the vocabulary that Unicode would compose or decompose: letters with a nukta, ʰ, ﬁ
        kept = {c for c in alphabet or () if unicodedata.normalize("NFKC", c) != c} - set(APOSTROPHE_SIGNS)
        self._kept_forms = re.compile(f"([{MODIFIER_LETTERS}{''.join(map(re.escape, sorted(kept)))}])")
        composed = {c: unicodedata.normalize("NFC", c) for c in sorted(kept)}
        self._own_forms = {form: c for c, form in composed.items() if form != c and form not in (alphabet or ())}
        self._dotless_i = language_of(language).dotless_i
        self._drops_points = alphabet is None or "." not in alphabet
        self._drops_quotes = alphabet is None or not alphabet & set(".,!?;:")
        self._replacements = _Replacements(self)
        self._simple = self._simple_characters()
        self._plain = frozenset(c for c in self._simple if self.replacement(c) == c)

    @classmethod
    def for_vocabulary(cls, tokens: Iterable[str], language: str | None = "en") -> TranscriptNormalizer:
        """Return the normalizer for a vocabulary's characters, in their case.

        Args:
            tokens: the vocabulary; special tokens (``<pad>``, ``[UNK]``), the word delimiter ``|`` and the word mark
                ``▁`` are not part of the alphabet.
            language: see the class.
        """
        spelt = [token for token in tokens if not (len(token) > 1 and re.fullmatch(r"<.*>|\[.*\]", token))]
        alphabet = set().union(*spelt) - {"|", " ", "▁"}
        return cls(alphabet, infer_case(alphabet), language)

    def in_language(self, language: str | None) -> TranscriptNormalizer:
        """Return the same normalizer for another language."""
        return TranscriptNormalizer(None if self.alphabet is None else set(self.alphabet), self.case, language)

    def __call__(self, text: str) -> Normalized:
        """Normalize one transcript."""
        if not self._simple.issuperset(text) or not unicodedata.is_normalized("NFKC", text):
            return self._normalize(text)
        # Fast path for most transcripts: 300,000 of them take a few seconds.
        text = self._cased(text)
        quoted = "'" in text and EDGE_APOSTROPHE.search(text) is not None
        if quoted and self._drops_quotes:
            text = QUOTED_PHRASE.sub(r"\1", text)
        # The lower case of İ is two characters, and marks after it may have to go before its dot.
        if not (self._plain.issuperset(text) and unicodedata.is_normalized("NFC", text)):
            text = self._written(SENTENCE_END.sub(" ", text) if self._drops_points else text)
            quoted = "'" in text
        if quoted:
            text = without_quotes(text)
        return Normalized(" ".join(self._with_own_apostrophes(text).split()))

    def form(self, text: str) -> str:
        """Return a text of the vocabulary's characters, such as a hypothesis, in the one form that references have."""
        if text.isascii() and self._apostrophes[:1] in ([], ["'"]):
            return text
        text = self._with_own_apostrophes(self._with_plain_apostrophes(self._composed(text)))
        return "".join(c if self.alphabet is None or c in self.alphabet else self._in_parts(c) or c for c in text)

    def _composed(self, text: str) -> str:
        """Return a text in NFKC, except for the forms of the vocabulary."""
        parts = self._kept_forms.split(text)
        parts[::2] = [unicodedata.normalize("NFKC", part) for part in parts[::2]]
        return self._with_own_forms(unicodedata.normalize("NFC", "".join(parts)) if len(parts) > 1 else parts[0])

    def _with_own_forms(self, text: str) -> str:
        for form, own in self._own_forms.items():
            text = text.replace(form, own)
        return text

    def _with_plain_apostrophes(self, text: str) -> str:
        if not self._both_letters:
            return text.translate(APOSTROPHES)
        return without_quotes(TURNED_COMMA.sub("ʻ", text).translate(OTHER_APOSTROPHES)).replace("'", "ʼ")

    def _with_own_apostrophes(self, text: str) -> str:
        return text.replace("'", self._apostrophes[0]) if self._apostrophes else text

    def _normalize(self, text: str) -> Normalized:
        if self.spells_numbers and self._english:
            text = PLAIN_FRACTION.sub(lambda match: FRACTIONS[match[0]], text)
        text = VULGAR.sub(r" and \1" if self._english else r" \1", text)
        text = self._composed(QUOTED.sub(r"\1", text))
        lost = [] if self._apostrophes else PART_OF_WORD.findall(text.translate(OTHER_APOSTROPHES))
        text = self._with_plain_apostrophes(text)
        if self._drops_quotes:
            text = QUOTED_PHRASE.sub(r"\1", text)
        if self.spells_numbers:
            text = spell_numbers(text, self.language or "")
        if self.symbols and not self.symbols.keys().isdisjoint(map(ord, text)):
            text = text.translate(self.symbols)
        text = self._cased(text)
        if self._drops_points:
            text = SENTENCE_END.sub(" ", text)
        spelt = self._with_own_apostrophes(without_quotes(self._written(text)))
        missing = _counted(text, self._replacements.missing)
        folded = _counted(text, self._replacements.folded)
        folded.update(lost)
        return Normalized(" ".join(spelt.split()), missing, folded)

    def _written(self, text: str) -> str:
        written = text.translate(self._replacements)
        # An accent may now follow its letter.
        return unicodedata.normalize("NFC", written) if self.alphabet is None else self._with_own_forms(written)

    def _cased(self, text: str) -> str:
        if self._dotless_i:
            pairs = {"lower": str.maketrans("Iİ", "ıi"), "upper": str.maketrans("i", "İ"), "keep": {}}
            text = unicodedata.normalize("NFC", text.translate(pairs[self.case]))
        if self.case == "upper" and self.alphabet is not None:
            text = text.replace("ß", "ẞ")  # whose capitals are its own, or else SS
        return text.lower() if self.case == "lower" else text.upper() if self.case == "upper" else text

    def _simple_characters(self) -> frozenset[str]:
        """Return the characters that need no context: letters, and punctuation that nobody pronounces."""
        candidates = set(map(chr, range(0x1000))) if self.alphabet is None else set(self.alphabet)
        candidates |= {other for c in candidates for other in (c.lower(), c.upper()) if len(other) == 1}
        if self.spells_numbers:
            candidates -= {c for c in candidates if c.isdigit()} | set(CURRENCIES)
        candidates |= set("'-.,;:!?()\" ")
        candidates -= set(map(chr, self.symbols)) | set(map(chr, APOSTROPHES))
        candidates -= {form[-1] for form in self._own_forms}
        if self._both_letters or not self._apostrophes:
            candidates -= {"'"}
        return frozenset(c for c in candidates if self._loses_nothing(c))

    def _loses_nothing(self, character: str) -> bool:
        """Return whether a character is in the vocabulary or isn't pronounced: either way, nothing is lost."""
        return all(self.replacement(c) is not None and not self.loses_marks(c) for c in self._cased(character))

    def replacement(self, character: str) -> str | None:
        """Return what a character (in the vocabulary's case) is written as, or None if the vocabulary lacks it; "" or
        " " for one that isn't pronounced.
        """
        if self.alphabet is None:
            kept = unicodedata.category(character)[:1] in "LM" or character.isdigit() or character == "'"
            return character if kept and character not in SILENT_LETTERS else unspoken(character)
        if character in self.alphabet or (character == "'" and self._apostrophes):
            return character
        if (in_parts := self._in_parts(character)) is not None:
            return in_parts
        related = RELATED.get(character.lower(), "")
        for spelling in (*spellings(character), related, unicodedata.normalize("NFKC", character)):
            if (cased := self._in_alphabet(spelling)) is not None:
                return cased
        return unspoken(character)

    def _in_parts(self, character: str) -> str | None:
        """Return a character with all its marks, as far as the vocabulary has them only as characters of their own."""
        marks = len(unicodedata.normalize("NFD", character))
        complete = (one for one in spellings(character) if len(unicodedata.normalize("NFD", one)) == marks)
        return next(filter(None, map(self._in_alphabet, complete)), None)

    def _in_alphabet(self, spelling: str) -> str | None:
        """Return a spelling in a case in which the vocabulary has it."""
        assert self.alphabet is not None
        for cased in (self._cased(spelling), spelling.lower(), spelling.upper()):
            # ß in capitals is SS
            if cased and len(cased) == len(spelling) and self.alphabet.issuperset(cased):
                return cased
        return None

    def loses_marks(self, character: str) -> bool:
        """Return whether a letter is written without its marks or as another, or a mark is left out."""
        written = self.replacement(character)
        if (
            written in (None, character)
            or character in SILENT_LETTERS
            or unicodedata.category(character)[0] not in "LM"
        ):
            return False
        return unicodedata.normalize("NFC", str(written)).lower() != character.lower()


def spellings(character: str) -> Iterator[str]:
    """Yield a letter with its marks apart from it, and then with fewer and fewer of them."""
    base, *marks = list(unicodedata.normalize("NFD", character))
    if not all(map(unicodedata.combining, marks)):
        yield base + "".join(marks)  # a syllable of Hangul
        return
    for number in range(len(marks), -1, -1):
        for kept in combinations(marks, number):
            yield base + "".join(kept)
            for joined in range(1, number + 1):
                for composed in combinations(kept, joined):
                    apart = "".join(mark for mark in kept if mark not in composed)
                    yield unicodedata.normalize("NFC", base + "".join(composed)) + apart


class _Replacements(dict[int, str]):
    """A table for str.translate that computes each entry on first use."""

    def __init__(self, normalizer: TranscriptNormalizer) -> None:
        self.normalizer = normalizer
        self.missing: set[str] = set()
        self.folded: set[str] = set()

    def __missing__(self, code: int) -> str:
        written = self.normalizer.replacement(chr(code))
        if written is None:
            self.missing.add(chr(code))
        elif self.normalizer.loses_marks(chr(code)):
            self.folded.add(chr(code))
        self[code] = written or ""
        return self[code]


def _counted(text: str, characters: set[str]) -> Counter[str]:
    """Return how often these characters occur in a text."""
    if characters.isdisjoint(text):
        return Counter()
    return Counter(character for character in text if character in characters)


def unspoken(character: str) -> str | None:
    """Return what replaces a character that cannot be spelt: "" or " " if it isn't pronounced, else None."""
    category = unicodedata.category(character)
    if character in SPOKEN:
        return None
    if character.isspace() or category == "Pd":
        return " "
    if category[0] == "P":
        return "" if character in ".'’" else " "
    if category in {"Cc", "Cf", "Sk"} or "\u0300" <= character <= "\u036f" or character in SILENT_LETTERS:
        return ""
    return None


def without_quotes(text: str) -> str:
    """Return a text without the apostrophes that aren't part of a word."""
    return QUOTED_WORD.sub(r"\1", LOOSE_APOSTROPHE.sub(" ", text))


def infer_case(alphabet: Iterable[str]) -> Case:
    """Return the case of an alphabet; a stray letter in the other case doesn't make it mixed."""
    characters = list(alphabet)
    upper, lower = sum(c.isupper() for c in characters), sum(c.islower() for c in characters)
    if upper + lower == 0:
        return "keep"
    share = upper / (upper + lower)
    return "upper" if share > 0.75 else "lower" if share < 0.25 else "keep"
