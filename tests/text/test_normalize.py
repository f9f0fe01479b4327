from __future__ import annotations

import pickle
import time
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sft_speech.text.normalize import Normalized, TranscriptNormalizer, infer_case

LETTERS = "abcdefghijklmnopqrstuvwxyz"
UPPER = TranscriptNormalizer.for_vocabulary(["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS.upper(), "'"])
LOWER = TranscriptNormalizer.for_vocabulary(["[PAD]", "[UNK]", "|", *LETTERS, "'"])
OPEN = TranscriptNormalizer(None, "lower")


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("Hello, World!", "hello world"),
        ("  spaces\tand\nlines  ", "spaces and lines"),
        ("it’s don`t 'tis the boys'", "it's don't 'tis the boys'"),
        ("‘quoted’ and “quoted” - dash", "quoted and quoted dash"),
        ("rock'n'roll ''x'' ' '", "rock'n'roll x"),
        ("well-known a/b yes,no end.Next wait...what", "well known a b yes no end next wait what"),
        ("U.S.A. e.g. p.m.", "usa eg pm"),
        ("café naïve straße Œuvre", "cafe naive strasse oeuvre"),
        ("cafe\u0301 ﬁne", "cafe fine"),
        ("5%", "five percent"),
        ("AT&T 2+2=4 20°C #5", "at and t two plus two equals four twenty degrees c number five"),
        ("$3.50 $1 £2 €5 million", "three dollars fifty cents one dollar two pounds five million euro"),
        ("5 €", "five euro"),
        ("1,234,567", "one million two hundred and thirty four thousand five hundred and sixty seven"),
        ("3.14 -5 10-20", "three point one four minus five ten twenty"),
        ("1984 1905 2005 1980s", "nineteen eighty four nineteen oh five two thousand and five nineteen eighties"),
        ("1st 22nd 3RD", "first twenty second third"),
        ("10:30 10:00 9:05", "ten thirty ten o'clock nine oh five"),
        ("½ 2½ ¾", "one half two and one half three quarters"),
        ("007 B2B mp3 １２", "zero zero seven b two b mp three twelve"),
        ("12345678901234", "one two three four five six seven eight nine zero one two three four"),
        ("the '90s, his 80s, 1950's", "the nineties his eighties nineteen fifties"),
        ("-$5 $3.5M £100k", "minus five dollars three point five million dollars one hundred thousand pounds"),
        ("5:00 p.m. 12:00 PM 7:00", "five pm twelve pm seven o'clock"),
        (
            "1,000th 1/2 1 1/2 24/7 1/2/2020",
            "one thousandth one half one and one half twenty four seven one two twenty twenty",
        ),
        ("'yes' 'don't' 'tis 'Come on, Joe,' she said", "yes don't 'tis come on joe she said"),
        ("", ""),
        (" ... ", ""),
    ],
)
def test_english(given_text, expected):
    assert LOWER(given_text)[:2] == (expected, Counter())
    assert UPPER(given_text)[:2] == (expected.upper(), Counter())


def test_what_the_vocabulary_lacks_is_counted_and_never_passed_on():
    text, missing, *_ = UPPER("日本日 hello 😀 <noise>")
    assert text == "HELLO NOISE"
    assert missing == Counter({"日": 2, "本": 1, "😀": 1, "<": 1, ">": 1})


def test_a_symbol_that_somebody_says_is_not_lost_in_silence():
    portuguese = TranscriptNormalizer(set(LETTERS), "lower", "pt")
    assert portuguese("3,5 % de 1.000")[:2] == ("tres virgula cinco de mil", Counter({"%": 1}))


def test_numbers_in_other_languages():
    assert TranscriptNormalizer(None, "lower", "fr")("3,5 km le 5 mai").text == "trois virgule cinq km le cinq mai"
    french = TranscriptNormalizer(None, "lower", "fr")
    assert (
        french("10\u00a0000\u00a0€, 1\u202f234,5").text == "dix mille euros mille deux cent trente quatre virgule cinq"
    )
    assert french("06 12 34 0171 123 456 le 1er, le 2e").text.endswith(
        "cent vingt trois quatre cent cinquante six le premier le deuxième"
    )
    german = TranscriptNormalizer(None, "lower", "de")
    assert german("1984: 3,5 %").text == "neunzehnhundertvierundachtzig drei komma fünf prozent"
    assert german("1.000 oder 2024").text == "eintausend oder zweitausendvierundzwanzig"
    assert TranscriptNormalizer(None, "lower", "it")("3,5 e 3").text == "tre virgola cinque e tre"
    assert TranscriptNormalizer(None, "lower", "es")("21 casas").text == "veintiuno casas"
    assert TranscriptNormalizer(None, "lower", "xx")("21 x").text == "21 x"  # num2words doesn't speak it


def test_a_script_without_spaces_gets_none():
    assert TranscriptNormalizer(None, "lower", "ja")("3人").text == "三人"


def test_digits_that_stay_keep_their_places():
    assert TranscriptNormalizer(None, "lower", "hi")("3.5 13.5").text == "3 5 13 5"


def test_turkish_letters():
    assert TranscriptNormalizer(None, "lower", "tr")("IŞIK İstanbul").text == "ışık istanbul"
    assert TranscriptNormalizer(set("IİŞK"), "upper", "tr")("işık").text == "İŞIK"


def test_without_alphabet_every_script_is_kept():
    assert OPEN("Ça va, «Ёлка»! नमस्ते 日本語 don't")[:2] == ("ça va ёлка नमस्ते 日本語 don't", Counter())
    assert OPEN("a 😀 b").missing == Counter({"😀": 1})


def test_a_vocabulary_with_digits_keeps_them():
    digits = TranscriptNormalizer.for_vocabulary([*LETTERS, *"0123456789"])
    assert digits("Room 101, 5%").text == "room 101 5 percent"


def test_a_vocabulary_with_punctuation_and_accents_keeps_them():
    rich = TranscriptNormalizer.for_vocabulary([*LETTERS, *"é-.,’"])
    assert rich("Café – well-known, don't. è").text == "café well-known, don’t. e"


def test_a_vocabulary_of_single_accents_gets_them_singly():
    split = TranscriptNormalizer.for_vocabulary([*LETTERS, "\u0301"])
    assert split("caf\u00e9").text == "cafe\u0301"


def test_tokens_of_several_characters():
    pieces = TranscriptNormalizer.for_vocabulary(["<pad>", "▁the", "▁", "ing", "s", "h", "e"])
    assert pieces.alphabet == set("theings")
    assert pieces("The THING sings x")[:2] == ("the thing sings", Counter("x"))


@pytest.mark.parametrize(
    ("alphabet", "case"),
    [("ABC'", "upper"), ("abc'", "lower"), ("ABCabc", "keep"), ("日本", "keep"), ("ABCDEFGß", "upper"), ("", "keep")],
)
def test_case_is_inferred(alphabet, case):
    assert infer_case(alphabet) == case


def test_mixed_case_is_kept():
    mixed = TranscriptNormalizer.for_vocabulary([*LETTERS, *LETTERS[:5].upper()])
    assert mixed.case == "lower"  # a few capitals don't make it mixed
    mixed = TranscriptNormalizer.for_vocabulary([*LETTERS, *LETTERS[:20].upper()])
    assert mixed("Bob saw Zoe").text == "Bob saw zoe"


def test_pickled_for_workers():
    normalizer = pickle.loads(pickle.dumps(UPPER))
    assert normalizer("don’t 5") == UPPER("don’t 5")


texts = st.text() | st.text("aA1$%.,'’`- é½😀iİßʰʻʼ‘ếक़\u0958\u0301ـー", max_size=12)
OWN_FORMS = [
    TranscriptNormalizer({*LETTERS, "ʻ", "ʼ"}, "lower", "uz"),
    TranscriptNormalizer({*LETTERS, "’", "\u0301", "ê"}, "lower", "fr"),
    TranscriptNormalizer({*"क़ल", "\u0958", "ʰ"}, "keep", "hi"),
    TranscriptNormalizer({*LETTERS.upper(), "ß"}, "upper", "de"),
]


@pytest.mark.parametrize("normalizer", [UPPER, LOWER, OPEN, TranscriptNormalizer(None, "lower", "tr"), *OWN_FORMS])
@given(text=texts)
def test_only_the_alphabet_is_left_and_twice_is_once(normalizer, text):
    once = normalizer(text).text
    assert normalizer(once) == (once,) + 4 * (Counter(),)
    assert once == " ".join(once.split())
    if normalizer.alphabet is not None:
        assert set(once) <= normalizer.alphabet | {" "}


@pytest.mark.parametrize("normalizer", [UPPER, LOWER, OPEN, TranscriptNormalizer(None, "lower", "tr"), *OWN_FORMS])
@given(text=texts)
@example(text="İ\u0323")
def test_the_fast_path_gives_what_the_slow_one_gives(normalizer, text):
    assert normalizer(text) == normalizer._normalize(text)


@pytest.mark.parametrize("normalizer", [UPPER, LOWER, *OWN_FORMS])
@given(text=texts)
def test_references_have_the_form_of_hypotheses(normalizer, text):
    reference = normalizer(text).text
    assert normalizer.form(reference) == reference


def folded(normalizer: TranscriptNormalizer, text: str) -> tuple[str, dict[str, int]]:
    found = normalizer(text)
    assert not found.missing
    return found.text, dict(found.folded)


def test_letters_that_lose_their_marks_are_counted():
    assert folded(UPPER, "schöne Grüße aus Köln") == ("SCHONE GRUSSE AUS KOLN", {"Ö": 2, "Ü": 1, "ẞ": 1})
    assert folded(LOWER, "où est l'élève") == ("ou est l'eleve", {"ù": 1, "é": 1, "è": 1})
    assert folded(LOWER, "x\u030c") == ("x", {"\u030c": 1})
    assert folded(LOWER, "pʰa") == ("pha", {"ʰ": 1})
    assert folded(TranscriptNormalizer({*LETTERS, "ê"}, "lower", "vi"), "tiếng") == ("tiêng", {"ế": 1})
    assert folded(TranscriptNormalizer({*LETTERS}, "lower"), "it's ʻokina 'x'") == ("its okina x", {"'": 1, "ʻ": 1})
    assert folded(TranscriptNormalizer({*LETTERS.upper(), *"ÄÖÜß"}, "upper", "de"), "Grüße") == ("GRÜßE", {})
    assert folded(TranscriptNormalizer({*LETTERS, "\u0301", "ê"}, "lower", "vi"), "ếé") == ("ê\u0301e\u0301", {})


@pytest.mark.parametrize(
    ("alphabet", "text", "expected"),
    [
        ("ʻ", "o'zbek o’zbek oʻzbek o‘zbek ‘soʻz’", "oʻzbek oʻzbek oʻzbek oʻzbek soʻz"),
        ("ʻʼ", "o'zbek o’zbek g‘alaba maʼno ma'no 'soʻz'", "oʻzbek oʻzbek gʻalaba maʼno maʼno soʻz"),
        ("’", "l'ami l’ami 'mot' dit", "l’ami l’ami mot dit"),
        ("'’", "l'ami l’ami", "l'ami l'ami"),
    ],
)
def test_apostrophes_are_written_as_the_vocabulary_writes_them(alphabet, text, expected):
    normalizer = TranscriptNormalizer({*LETTERS, *alphabet}, "lower", "xx")
    assert normalizer(text) == Normalized(expected)
    assert normalizer.form(expected.replace(alphabet[0], "ʼ") if len(alphabet) == 1 else expected) == expected


@pytest.mark.parametrize("given_text", ["\u0958लम", "\u0915\u093cलम"])
def test_letters_that_unicode_decomposes(given_text):
    """U+0958 is excluded from composition: even NFC writes it as two characters."""
    one, two = "\u0958लम", "\u0915\u093cलम"
    for alphabet, expected in ((one, one), (two, two), (one + two, one)):
        normalizer = TranscriptNormalizer(set(alphabet), "keep", "hi")
        assert normalizer(given_text) == Normalized(expected)
        assert normalizer.form(given_text) == expected
    assert TranscriptNormalizer(None, "lower", "hi")(given_text).text == two


def test_modifier_letters():
    assert OPEN("コーヒー 人々 เด็กๆ pʰa m²").text == "コーヒー 人々 เด็กๆ pʰa m two"
    assert TranscriptNormalizer(set("pʰaːt"), "lower", "xx")("pʰaːt 1").text == "pʰaːt"
    assert TranscriptNormalizer(set("コヒ"), "keep", "ja")("コーヒー") == Normalized("コヒ", Counter("ーー"))
    assert TranscriptNormalizer(set("เด็ก"), "keep", "th")("เด็กๆ").missing == Counter("ๆ")
    assert OPEN("كـتاب").text == "كتاب"  # a stretched letter sounds as any other


def test_300_000_plain_transcripts_take_seconds():
    transcripts = ["the quick brown fox doesn't jump over the lazy dog " * 2] * 10_000
    start = time.process_time()
    for transcript in transcripts:
        UPPER(transcript)
    assert 30 * (time.process_time() - start) < 20  # about 3 s
