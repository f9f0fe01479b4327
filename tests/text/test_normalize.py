from __future__ import annotations

import pickle
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_speech.text.normalize import TranscriptNormalizer, infer_case

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
    assert LOWER(given_text) == (expected, Counter())
    assert UPPER(given_text) == (expected.upper(), Counter())


def test_what_the_vocabulary_lacks_is_counted_and_never_passed_on():
    text, missing = UPPER("日本日 hello 😀 <noise>")
    assert text == "HELLO NOISE"
    assert missing == Counter({"日": 2, "本": 1, "😀": 1, "<": 1, ">": 1})


def test_a_symbol_that_somebody_says_is_not_lost_in_silence():
    portuguese = TranscriptNormalizer(set(LETTERS), "lower", "pt")
    assert portuguese("3,5 % de 1.000") == ("tres virgula cinco de mil", Counter({"%": 1}))


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
    assert OPEN("Ça va, «Ёлка»! नमस्ते 日本語 don't") == ("ça va ёлка नमस्ते 日本語 don't", Counter())
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
    assert pieces("The THING sings x") == ("the thing sings", Counter("x"))


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


texts = st.text() | st.text("aA1$%.,'’`- é½😀iİß", max_size=12)


@pytest.mark.parametrize("normalizer", [UPPER, LOWER, OPEN, TranscriptNormalizer(None, "lower", "tr")])
@given(text=texts)
def test_only_the_alphabet_is_left_and_twice_is_once(normalizer, text):
    once, _ = normalizer(text)
    assert normalizer(once) == (once, Counter())
    assert once == " ".join(once.split())
    if normalizer.alphabet is not None:
        assert set(once) <= normalizer.alphabet | {" "}


@pytest.mark.parametrize("normalizer", [UPPER, LOWER, OPEN, TranscriptNormalizer(None, "lower", "tr")])
@given(text=texts)
def test_the_fast_path_gives_what_the_slow_one_gives(normalizer, text):
    assert normalizer(text) == normalizer._normalize(text)


def test_300_000_plain_transcripts_take_seconds():
    transcripts = ["the quick brown fox doesn't jump over the lazy dog " * 2] * 10_000
    start = time.process_time()
    for transcript in transcripts:
        UPPER(transcript)
    assert 30 * (time.process_time() - start) < 20  # about 3 s
