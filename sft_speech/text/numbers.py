"""Numbers and sums of money, in words."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal
from functools import lru_cache

from sft_speech.text.languages import language_of

CURRENCIES = {"$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY", "₹": "INR"}
SCALES = {"k": "thousand", "m": "million", "mn": "million", "b": "billion", "bn": "billion"}
CLOSING = frozenset(".,;:!?)")  # punctuation without a space before it

AMOUNT = {  # by whether decimals come after a point
    True: r"\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?",
    False: r"\d{1,3}(?:\.\d{3})+(?!\d)(?:,\d+)?|\d+(?:,\d+)?",
}


@lru_cache
def number_pattern(language: str) -> re.Pattern[str]:
    """Return the pattern of numbers in a language, the most specific forms first."""
    english, conventions = language.split("_")[0] == "en", language_of(language)
    amount = AMOUNT[conventions.decimal_point]
    if conventions.spaced_thousands:  # but not a telephone number
        amount = rf"(?<!\d )[1-9]\d{{0,2}}(?: \d{{3}})+(?! ?\d)(?:,\d+)?|{amount}"
    money = "".join(map(re.escape, CURRENCIES))
    minus = r"(?:(?<![\w-])(?P<{}>[-−]))?"
    scale = r"(?:\s(?P<scale>thousand|million|billion|trillion)\b|(?P<letter>[kmb]|mn|bn)\b)?"
    forms = [
        rf"{minus.format('price_minus')}(?P<sign>[{money}])\s?(?P<price>{amount}){scale}",
        rf"(?P<price_before>{amount})\s?(?P<sign_after>[{money}])",
        r"(?P<part>\d+)⁄(?P<whole>\d+)",
    ]
    if english:
        forms += [
            r"(?<!\d)(?P<hour>\d{1,2}):(?P<minute>[0-5]\d)(?!\d)(?P<half>(?=\s?[ap]\.?m\b))?",
            r"(?<![\w.,'])'?(?P<decade>1[1-9]\d0|20\d0|[2-9]0)'?s\b",
        ]
    if conventions.ordinal:
        forms += [rf"(?P<ordinal>\d{{1,3}}(?:,\d{{3}})+|\d+)(?:{conventions.ordinal})\b"]
    return re.compile("|".join([*forms, rf"{minus.format('minus')}(?P<number>{amount})"]), re.IGNORECASE)


def spell_numbers(text: str, language: str) -> str:
    """Spell out the numbers and sums of money in a text.

    Args:
        text: composed Unicode.
        language: one that num2words supports.
    """
    if not any(map(str.isdigit, text)):
        return text
    around = " " if language_of(language).spaced_words else ""

    def spelt_out(match: re.Match[str]) -> str:
        suffix = "" if text[match.end() : match.end() + 1] in CLOSING else around
        return around + unicodedata.normalize("NFKC", _spell(match, language)).strip() + suffix

    return number_pattern(language).sub(spelt_out, text)


def _spell(match: re.Match[str], language: str) -> str:
    found = match.groupdict()
    minus = spell("-1", language).rsplit(" ", 1)[0] if found["minus"] or found["price_minus"] else ""
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
    """Spell a number as written in a text: with separators or leading zeros, or a year."""
    if re.fullmatch(language_of(language).year, amount):
        return spell(amount, language, "year")
    digits = re.sub(r"\D", "", amount)
    # A telephone number or 007: read digit by digit.
    if amount == digits and len(digits) > 1 and (digits[0] == "0" or len(digits) > 12):
        return " ".join(spell(digit, language) for digit in digits)
    return spell(plain_amount(amount, language), language)


def plain_amount(amount: str, language: str) -> str:
    """Return an amount as plain digits with at most a decimal point."""
    group, decimal = (",", ".") if language_of(language).decimal_point else (".", ",")
    amount = amount.replace(" ", "")
    if re.search(rf"\d{re.escape(group)}\d", amount):
        amount = amount.replace(group, "")
    return amount.replace(decimal, ".")


def spell_price(amount: str, sign: str, scale: str, language: str) -> str:
    """Spell a sum of money: "$2.50", "$3 million"."""
    from num2words import num2words

    plain = plain_amount(amount, language)
    code = CURRENCIES[sign]

    def in_words(value: str) -> list[str]:
        words = num2words(value, to="currency", currency=code, lang=converter(language), separator="|")
        return [part.strip() for part in words.replace(" sterling", "").split("|")]

    try:
        if scale:
            unit = in_words("2.00")[0].removeprefix(spell("2", language)).strip()
            return f"{spell(plain, language)} {scale} {unit}"
        units, *cents = in_words(f"{Decimal(plain):.2f}")
    except Exception:  # num2words raises all kinds of errors for forms that a language lacks
        return f"{spell(plain, language)} {sign}"  # the sign is then counted as missing
    return units if Decimal(plain) % 1 == 0 else " ".join([units, *cents])


def spell_fraction(part: str, whole: str, language: str) -> str:
    """Spell a fraction: "3⁄4"."""
    if not language.startswith("en") or int(whole) < 2:
        return f"{spell(part, language)} {spell(whole, language)}"
    name = {2: "half", 4: "quarter"}.get(int(whole)) or spell(whole, language, "ordinal")
    one = int(part) == 1
    return f"{spell(part, language)} {name if one else 'halves' if name == 'half' else name + 's'}"


@lru_cache(maxsize=1 << 16)
def spell(number: str, language: str, form: str = "cardinal") -> str:
    """Spell one number; cached, because corpora repeat their numbers.

    Args:
        number: digits, with a point for decimals.
        language: one that num2words supports.
        form: "cardinal", "ordinal" or "year".
    """
    from num2words import num2words

    try:
        value: int | float | str = int(number) if "." not in number else number
        if "." in number and language_of(language).float_decimals:
            value = float(number)
        return str(num2words(value, lang=converter(language), to=form))
    except Exception:  # too large, or a form that num2words lacks in this language
        return " ".join(str(num2words(int(digit), lang=converter(language))) for digit in number if digit.isdigit())


@lru_cache
def converter(language: str | None) -> str | None:
    """Return num2words' own code for a language; None if it lacks the language.

    num2words itself would take the first two letters: Chechen (``ce``) for ``ceb``, Finnish for ``fil``.
    """
    from num2words import CONVERTER_CLASSES

    code = (language or "").replace("-", "_")
    base = code.partition("_")[0]
    return next((one for one in (code, {"kk": "kz"}.get(base, base)) if one in CONVERTER_CLASSES), None)


def speaks(language: str | None) -> bool:
    """Return whether num2words knows a language."""
    return converter(language) is not None
