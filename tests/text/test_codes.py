from __future__ import annotations

import pytest
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from sft_speech.errors import UserError
from sft_speech.text.codes import choose, known_code, language_code, name_of, nearest
from sft_speech.text.languages import LANGUAGES as CONVENTIONS
from sft_speech.text.languages import language_of
from sft_speech.text.numbers import converter, spell_numbers
from sft_speech.text.scoring import is_english


@pytest.mark.parametrize(
    ("given", "code"),
    {
        "en-US": "en", "english": "en", "EN": "en", "eng": "en", "eng_Latn": "en", " en ": "en", "<|en|>": "en",
        "ces": "cs", "cze": "cs", "Czech": "cs", "tgl": "tl", "fil": "tl", "Tagalog": "tl",
        "German": "de", "Deutsch": "de", "ger": "de", "de_DE": "de", "de_DE.UTF-8": "de", "de-AT": "de",
        "zh-Hans": "zh", "zh_TW": "zh", "cmn": "zh", "cmn-script_simplified": "zh", "Mandarin": "zh", "yue": "yue",
        "zh-yue": "yue", "Cantonese": "yue", "nb": "no", "nob": "no", "no": "no", "Norwegian Bokmål": "no", "nn": "nn",
        "iw": "he", "in": "id", "jw": "jv", "mo": "ro", "sr-Latn": "sr", "uzb-script_latin": "uz", "swh": "sw",
        "arb": "ar", "pes": "fa", "kz": "kk", "Greek": "el", "Haitian Creole": "ht", "日本語": "ja",
        # numbers are read in another way there
        "pt-br": "pt_BR", "fr_CH": "fr_CH", "en-IN": "en_IN", "es-MX": "es_MX",
    }.items(),
)  # fmt: skip
def test_a_language_has_one_code_however_it_is_given(given, code):
    assert known_code(given) == code
    assert known_code(code) == code


@pytest.mark.parametrize(
    ("given", "do"),
    {
        "Germn": "did you mean de \\(German\\)\\?", "english-us": "did you mean en \\(English\\)\\?",
        "jp": "did you mean ja \\(Japanese\\)\\?", "cz": "did you mean cs \\(Czech\\)\\?", "cn": "did you mean zh",
        "xx": "give its code, such as de", "false": "give its code", "on": "give its code", "": "give its code",
        "mul": "give its code", "en en": "give its code", "e": "give its code",
        "42": "give its code", "a" * 1000: "give its code", "\0": "give its code", "-": "give its code",
    }.items(),
)  # fmt: skip
def test_what_is_no_language_is_refused_with_the_nearest(given, do):
    assert known_code(given) is None
    with pytest.raises(UserError, match=f"there is no such language.\n-> {do}"):
        language_code(given)


def test_whisper_knows_all_of_its_languages_by_our_codes():
    names = TO_LANGUAGE_CODE | {code: code for code in LANGUAGES}
    assert {name: choose(name, LANGUAGES) for name in names} == {name: [code] for name, code in names.items()}
    ours = {code: str(known_code(code)) for code in LANGUAGES}
    assert {code: choose(own, LANGUAGES) for code, own in ours.items()} == {code: [code] for code in LANGUAGES}
    assert {code: own for code, own in ours.items() if code != own} == {"jw": "jv"}


def test_the_conventions_are_under_our_codes():
    assert [code for code in CONVENTIONS if known_code(code) != code] == []
    assert language_of("es_MX").decimal_point
    assert not language_of("es_ES").decimal_point
    assert not language_of(known_code("cmn")).spaced_words
    assert is_english(known_code("English"))


def test_codes_of_a_model():
    many = ["eng", "deu", "fra", "uzb-script_latin", "uzb-script_cyrillic", "cmn-script_simplified"]
    chosen = {"de": ["deu"], "German": ["deu"], "fra": ["fra"], "zh": ["cmn-script_simplified"], "uz": many[3:5]}
    chosen |= {"uzb-script_latin": ["uzb-script_latin"], "el": [], "nonsense": []}
    assert {given: choose(given, many) for given in chosen} == chosen
    assert nearest("dut", ["eng", "fra", "deu", "nld"])[0] == "nld"  # Dutch
    assert nearest("Dutch", ["eng", "fra", "deu", "nld"])[0] == "nld"
    assert [name_of(code) for code in ("no", "pt_BR", "tl", "??")] == ["Norwegian", "Portuguese", "Tagalog", ""]


def test_numbers_are_in_the_language_or_left():
    codes = {"de": "de", "pt_BR": "pt_BR", "pt_PT": "pt", "en-US": "en", "kk": "kz", "tet": "tet"}
    # By their first two letters these would be Finnish, Chechen, Tajik, Korean and Chechen.
    codes |= dict.fromkeys(["fil", "ces", "tgl", "kok", "ceb", "", None])
    assert {code: converter(code) for code in codes} == codes
    assert spell_numbers("3.5 y 1,000", "es_MX").split() == "tres punto cinco y mil".split()
    assert spell_numbers("25", "kk").strip() == "жиырма бес"
    assert spell_numbers("25", "no").strip() == "tjuefem"
