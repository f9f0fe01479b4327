"""Transcripts written the way one vocabulary can spell them.

A CTC model can only say the characters of its vocabulary, so that "It's 5 %" has to become ``IT'S FIVE PERCENT`` for
one checkpoint and ``it's five percent`` for another. What can't be spelt is taken out and counted, never passed on in
silence: the caller sees which characters a vocabulary lacks, and how often.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from functools import lru_cache
from typing import Literal, NamedTuple

Case = Literal["upper", "lower", "keep"]

CURRENCIES = {"$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY", "₹": "INR"}
SYMBOLS = {
    "en": {
        "&": "and", "%": "percent", "+": "plus", "=": "equals", "@": "at", "°": "degrees", "#": "number",
        "×": "times", "÷": "divided by",
    },
    "de": {"&": "und", "%": "Prozent", "+": "plus", "=": "gleich", "@": "at", "°": "Grad", "×": "mal"},
    "es": {"&": "y", "%": "por ciento", "+": "más", "=": "igual a", "@": "arroba", "×": "por"},
    "fr": {"&": "et", "%": "pour cent", "+": "plus", "=": "égale", "@": "arobase", "×": "fois"},
}  # fmt: skip
# Unicode calls these punctuation, yet somebody says them: losing one is a loss.
SPOKEN = frozenset("%&@#‰§")
CLOSING = frozenset(".,;:!?)")  # what stands close to the word before it
# Letters that no decomposition brings back to the plain alphabet.
RELATED = {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i", "'": "’"}
APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼʻʹ′`´", "'"))
QUOTED = re.compile(r"‘([^‘’]*)’(?!\w)")
# Straight quotes, where they can't be apostrophes: 'one_word', and 'several words,' closed behind punctuation.
QUOTED_WORD = re.compile(r"(?<![\w'])'(\w[\w']*\w)'(?![\w'])")
QUOTED_PHRASE = re.compile(r"(?<![\w'])'(\w(?:[^'\n]|(?<=\w)'(?=\w))*[.,!?;:])'(?![\w'])")
PLAIN_FRACTION = re.compile(r"(?<![\d/])(?:1/2|[12]/3|[13]/4)(?![\d/])")  # 9/11 and 24/7 are none
FRACTIONS = {"1/2": "½", "1/3": "⅓", "2/3": "⅔", "1/4": "¼", "3/4": "¾"}
VULGAR = re.compile(r"(?<=\d)\s?([¼-¾⅐-⅞])")
EDGE_APOSTROPHE = re.compile(r"(?<!\w)'|'(?!\w)")  # without one, no apostrophe is a quotation mark
LOOSE_APOSTROPHE = re.compile(r"''+|(?<!\w)'(?!\w)")
# "end.Next" are two words, "U.S." is one; "3.5" is never 35
SENTENCE_END = re.compile(r"(?<=\w\w)\.(?=\w)|(?<=\d)\.(?=\d)|\.\.+")
# Languages that write 3.5 where the others write 3,5.
POINT = frozenset(["en", "zh", "ja", "ko", "th", "he", "hi", "bn", "te", "kn", "ta", "ml", "mr", "gu", "ur"])
# Languages that write no space between words.
UNSPACED = frozenset(["ja", "th", "zh"])
# Languages that write 10 000.
SPACED = frozenset(["cs", "es", "fi", "fr", "no", "pl", "ru", "sk", "sv", "uk"])
# What turns a number into an ordinal, and years that are said in hundreds.
ORDINAL = {"en": "st|nd|rd|th", "fr": "er|e|è?me"}
YEAR = {"en": r"1[1-9]\d\d|20[1-9]\d", "de": r"1[1-9]\d\d", "da": r"1[1-9]\d\d"}
# Languages in which num2words loses the decimals of a string (num2words("3,5", "it") is "tre"), or refuses it.
FLOATS = frozenset(["ce", "cy", "fa", "id", "it", "vi"])
SCALES = {"k": "thousand", "m": "million", "mn": "million", "b": "billion", "bn": "billion"}


class Normalized(NamedTuple):
    """A transcript as the vocabulary spells it, and the characters taken out because it can't."""

    text: str
    missing: Counter[str]


class TranscriptNormalizer:
    """Write transcripts in the characters of one vocabulary.

    Unicode is composed (NFKC), case follows the vocabulary, numbers, sums of money and symbols are spelt out (unless
    the vocabulary has digits), apostrophes are kept, other punctuation (quotation marks of the same shape too) is
    dropped in silence because nobody says it, and a letter with an accent that the vocabulary lacks loses it. Any other
    character that the vocabulary lacks is removed and counted. The result has single spaces and none at the ends;
    normalizing it again changes nothing.

    Args:
        alphabet: the characters of the vocabulary, space and word delimiter aside; `None` while it is still to be built
            from the transcripts: letters, marks and unspelt digits of any script are then kept.
        case: what letters are turned into; "keep" leaves those that the alphabet has.
        language: for numbers and symbols, as num2words names it. One that num2words lacks leaves digits as they are.
    """

    def __init__(self, alphabet: set[str] | None, case: Case, language: str = "en") -> None:
        self.alphabet = None if alphabet is None else frozenset(alphabet) - {" "}
        self.case = case
        self.language = language
        self.spells_numbers = not (alphabet is not None and set("0123456789") <= alphabet) and speaks(language)
        self.symbols = {
            ord(symbol): f" {word} "
            for symbol, word in SYMBOLS.get(language.split("_")[0], {}).items()
            if alphabet is None or symbol not in alphabet
        }
        self._drops_points = alphabet is None or "." not in alphabet
        self._drops_quotes = alphabet is None or not alphabet & set(".,!?;:")
        self._replacements = _Replacements(self)
        self._simple = self._simple_characters()
        self._plain = frozenset(c for c in self._simple if self.replacement(c) == c)

    @classmethod
    def for_vocabulary(cls, tokens: Iterable[str], language: str = "en") -> TranscriptNormalizer:
        """The normalizer of a vocabulary: its characters, and the case they are in.

        Args:
            tokens: the vocabulary; special tokens (``<pad>``, ``[UNK]``), the word delimiter ``|`` and the word mark
                ``▁`` are no characters of the alphabet.
            language: see the class.
        """
        spelt = [token for token in tokens if not (len(token) > 1 and re.fullmatch(r"<.*>|\[.*\]", token))]
        alphabet = set().union(*spelt) - {"|", " ", "▁"}
        return cls(alphabet, infer_case(alphabet), language)

    def __call__(self, text: str) -> Normalized:
        """Normalize one transcript."""
        if not self._simple.issuperset(text) or not unicodedata.is_normalized("NFKC", text):
            return self._normalize(text)
        # Most of a corpus is no more than this; 300,000 transcripts are to take a few seconds.
        text = self._cased(text)
        quoted = "'" in text and EDGE_APOSTROPHE.search(text) is not None
        if quoted and self._drops_quotes:
            text = QUOTED_PHRASE.sub(r"\1", text)
        if not self._plain.issuperset(text):
            text = self._written(SENTENCE_END.sub(" ", text) if self._drops_points else text)
            quoted = "'" in text
        if quoted:
            text = without_quotes(text)
        return Normalized(" ".join(text.split()), Counter())

    def _normalize(self, text: str) -> Normalized:
        if self.spells_numbers and self.language.startswith("en"):
            text = PLAIN_FRACTION.sub(lambda match: FRACTIONS[match[0]], text)
        text = VULGAR.sub(r" and \1" if self.language.startswith("en") else r" \1", text)
        text = unicodedata.normalize("NFKC", QUOTED.sub(r"\1", text)).translate(APOSTROPHES)
        if self._drops_quotes:
            text = QUOTED_PHRASE.sub(r"\1", text)
        if self.spells_numbers:
            text = spell_numbers(text, self.language)
        if self.symbols and not self.symbols.keys().isdisjoint(map(ord, text)):
            text = text.translate(self.symbols)
        text = self._cased(text)
        if self._drops_points:
            text = SENTENCE_END.sub(" ", text)
        spelt = without_quotes(self._written(text))
        lacking = self._replacements.missing
        missing = Counter(character for character in text if character in lacking)
        return Normalized(" ".join(spelt.split()), missing)

    def _written(self, text: str) -> str:
        written = text.translate(self._replacements)
        # An accent may have come to stand behind its letter.
        return unicodedata.normalize("NFC", written) if self.alphabet is None else written

    def _cased(self, text: str) -> str:
        if self.language in {"tr", "az"}:  # two letters i: I and ı, İ and i
            pairs = {"lower": str.maketrans("Iİ", "ıi"), "upper": str.maketrans("i", "İ"), "keep": {}}
            text = unicodedata.normalize("NFC", text.translate(pairs[self.case]))
        return text.lower() if self.case == "lower" else text.upper() if self.case == "upper" else text

    def _simple_characters(self) -> frozenset[str]:
        """Those that one look at them alone decides: letters, and the punctuation that nobody says."""
        candidates = set(map(chr, range(0x1000))) if self.alphabet is None else set(self.alphabet)
        candidates |= {other for c in candidates for other in (c.lower(), c.upper()) if len(other) == 1}
        if self.spells_numbers:
            candidates -= {c for c in candidates if c.isdigit()} | set(CURRENCIES)
        candidates |= set("'-.,;:!?()\" ")
        candidates -= set(map(chr, self.symbols)) | set(map(chr, APOSTROPHES))
        return frozenset(c for c in candidates if self._says(c))

    def _says(self, character: str) -> bool:
        """Whether a character is in the vocabulary, or not said: either way, no loss."""
        return all(self.replacement(each) is not None for each in self._cased(character))

    def replacement(self, character: str) -> str | None:
        """What one character (in the vocabulary's case) is written as; `None` if it is lacking.

        "" or " " for one that isn't said.
        """
        if self.alphabet is None:
            kept = unicodedata.category(character)[:1] in "LM" or character.isdigit() or character == "'"
            return character if kept else unsaid(character)
        if character in self.alphabet:
            return character
        related = RELATED.get(character.lower(), "")
        decomposed = unicodedata.normalize("NFD", character)
        bare = "".join(c for c in decomposed if not unicodedata.combining(c))
        for spelling in (decomposed, bare, related):
            for cased in (self._cased(spelling), spelling.lower(), spelling.upper()):
                same = len(cased) == len(spelling)  # ß in capitals is SS
                if cased and same and self.alphabet.issuperset(cased):
                    return cased
        return unsaid(character)


class _Replacements(dict[int, str]):
    """A table for str.translate that learns each character when it is first met."""

    def __init__(self, normalizer: TranscriptNormalizer) -> None:
        self.normalizer = normalizer
        self.missing: set[str] = set()

    def __missing__(self, code: int) -> str:
        written = self.normalizer.replacement(chr(code))
        if written is None:
            self.missing.add(chr(code))
        self[code] = written or ""
        return self[code]


def unsaid(character: str) -> str | None:
    """What a character that isn't spelt leaves behind: "" or " " if nobody says it, `None` if it is a loss."""
    category = unicodedata.category(character)
    if character in SPOKEN:
        return None
    if character.isspace() or category == "Pd":
        return " "
    if category[0] == "P":
        return "" if character in ".'’" else " "
    if category in {"Cc", "Cf", "Sk", "Lm"} or "\u0300" <= character <= "\u036f":
        return ""
    return None


def without_quotes(text: str) -> str:
    """A text without the apostrophes that aren't part of a word."""
    return QUOTED_WORD.sub(r"\1", LOOSE_APOSTROPHE.sub(" ", text))


def infer_case(alphabet: Iterable[str]) -> Case:
    """The case of an alphabet; a stray letter in the other one doesn't make it mixed."""
    characters = list(alphabet)
    upper, lower = sum(c.isupper() for c in characters), sum(c.islower() for c in characters)
    if upper + lower == 0:
        return "keep"
    share = upper / (upper + lower)
    return "upper" if share > 0.75 else "lower" if share < 0.25 else "keep"


AMOUNT = {
    True: r"\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?",
    False: r"\d{1,3}(?:\.\d{3})+(?!\d)(?:,\d+)?|\d+(?:,\d+)?",
}


@lru_cache
def number_pattern(language: str) -> re.Pattern[str]:
    """What is read as a number in a language, most particular first."""
    short = language.split("_")[0]
    amount = AMOUNT[short in POINT]
    if short in SPACED:  # but no telephone number
        amount = rf"(?<!\d )[1-9]\d{{0,2}}(?: \d{{3}})+(?! ?\d)(?:,\d+)?|{amount}"
    money = "".join(map(re.escape, CURRENCIES))
    minus = r"(?:(?<![\w-])(?P<{}>[-−]))?"
    scale = r"(?:\s(?P<scale>thousand|million|billion|trillion)\b|(?P<letter>[kmb]|mn|bn)\b)?"
    forms = [
        rf"{minus.format('owed')}(?P<sign>[{money}])\s?(?P<price>{amount}){scale}",
        rf"(?P<price_before>{amount})\s?(?P<sign_after>[{money}])",
        r"(?P<part>\d+)⁄(?P<whole>\d+)",
    ]
    if short == "en":
        forms += [
            r"(?<!\d)(?P<hour>\d{1,2}):(?P<minute>[0-5]\d)(?!\d)(?P<half>(?=\s?[ap]\.?m\b))?",
            r"(?<![\w.,'])'?(?P<decade>1[1-9]\d0|20\d0|[2-9]0)'?s\b",
        ]
    if short in ORDINAL:
        forms += [rf"(?P<ordinal>\d{{1,3}}(?:,\d{{3}})+|\d+)(?:{ORDINAL[short]})\b"]
    return re.compile("|".join([*forms, rf"{minus.format('minus')}(?P<number>{amount})"]), re.IGNORECASE)


def spell_numbers(text: str, language: str) -> str:
    """Write the numbers and sums of money of a text in words.

    Args:
        text: composed Unicode.
        language: one that num2words speaks.
    """
    if not any(map(str.isdigit, text)):
        return text
    around = "" if language.split("_")[0] in UNSPACED else " "

    def spelt_out(match: re.Match[str]) -> str:
        behind = "" if text[match.end() : match.end() + 1] in CLOSING else around
        return around + _spell(match, language).strip() + behind

    spelt = number_pattern(language).sub(spelt_out, text)
    return unicodedata.normalize("NFKC", spelt)


def _spell(match: re.Match[str], language: str) -> str:
    found = match.groupdict()
    minus = spell("-1", language).rsplit(" ", 1)[0] if found["minus"] or found["owed"] else ""
    price = found["price"] or found["price_before"]
    if price:
        scale = found["scale"] or SCALES.get((found["letter"] or "").lower(), "")
        return f"{minus} {spell_price(price, found['sign'] or found['sign_after'], scale, language)}"
    if found["part"]:
        return spell_fraction(found["part"], found["whole"], language)
    if found.get("hour"):
        minute = found["minute"]
        if minute == "00":  # five o'clock, but five p.m.
            return spell(found["hour"], language) + (" o'clock" if found["half"] is None else "")
        oh = "oh" if minute < "10" else ""
        return " ".join([spell(found["hour"], language), oh, spell(minute, language)])
    if found.get("decade"):
        decade = spell(found["decade"], language, "year")
        return f"{decade[:-1]}ies" if decade.endswith("y") else f"{decade}s"
    if found.get("ordinal"):
        return spell(found["ordinal"].replace(",", ""), language, "ordinal")
    return f"{minus} {spell_amount(found['number'], language)}"


def spell_amount(amount: str, language: str) -> str:
    """Write a number as it stands in a text: separators, leading zeros and years seen to."""
    if re.fullmatch(YEAR.get(language.split("_")[0], "(?!)"), amount):
        return spell(amount, language, "year")
    digits = re.sub(r"\D", "", amount)
    # A telephone number or an agent's: read digit by digit.
    if amount == digits and len(digits) > 1 and (digits[0] == "0" or len(digits) > 12):
        return " ".join(spell(digit, language) for digit in digits)
    return spell(plain_amount(amount, language), language)


def plain_amount(amount: str, language: str) -> str:
    """Digits with a decimal point only."""
    group, decimal = (",", ".") if language.split("_")[0] in POINT else (".", ",")
    amount = amount.replace(" ", "")
    if re.search(rf"\d{re.escape(group)}\d", amount):
        amount = amount.replace(group, "")
    return amount.replace(decimal, ".")


def spell_price(amount: str, sign: str, scale: str, language: str) -> str:
    """Write a sum of money: "$2.50", "$3 million"."""
    from num2words import num2words

    plain = plain_amount(amount, language)
    code = CURRENCIES[sign]

    def in_words(value: str) -> list[str]:
        words = num2words(value, to="currency", currency=code, lang=language, separator="|")
        return [part.strip() for part in words.replace(" sterling", "").split("|")]

    try:
        if scale:
            unit = in_words("2.00")[0].removeprefix(spell("2", language)).strip()
            return f"{spell(plain, language)} {scale} {unit}"
        units, *cents = in_words(f"{Decimal(plain):.2f}")
    except Exception:  # what num2words can't say in some language it refuses in many ways
        return f"{spell(plain, language)} {sign}"  # the sign is then counted as missing
    return units if Decimal(plain) % 1 == 0 else " ".join([units, *cents])


def spell_fraction(part: str, whole: str, language: str) -> str:
    """Write a fraction: "3⁄4"."""
    if not language.startswith("en") or int(whole) < 2:
        return f"{spell(part, language)} {spell(whole, language)}"
    name = {2: "half", 4: "quarter"}.get(int(whole)) or spell(whole, language, "ordinal")
    one = int(part) == 1
    return f"{spell(part, language)} {name if one else 'halves' if name == 'half' else name + 's'}"


@lru_cache(maxsize=1 << 16)
def spell(number: str, language: str, form: str = "cardinal") -> str:
    """One number in words, remembered, because corpora repeat theirs.

    Args:
        number: digits, with a point for decimals.
        language: one that num2words speaks.
        form: "cardinal", "ordinal" or "year".
    """
    from num2words import num2words

    try:
        value: int | float | str = int(number) if "." not in number else number
        if "." in number and language[:2] in FLOATS:
            value = float(number)
        return str(num2words(value, lang=language, to=form))
    except Exception:  # too large, or a form that a language of num2words lacks: it refuses in many ways
        return " ".join(str(num2words(int(digit), lang=language)) for digit in number if digit.isdigit())


@lru_cache
def speaks(language: str) -> bool:
    """Whether num2words knows a language."""
    from num2words import CONVERTER_CLASSES

    return language in CONVERTER_CLASSES or language[:2] in CONVERTER_CLASSES
