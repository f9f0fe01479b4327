from __future__ import annotations

import argparse

import pytest

from sft_speech.errors import UserError
from sft_speech.tasks.asr.ctc.decoding import Decoding, add_decoding_arguments, decoding_of, read_decoding


@pytest.fixture
def lm(tmp_path, monkeypatch):
    """An (empty) lm.arpa and words.txt in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("lm.arpa", "words.txt"):
        (tmp_path / name).touch()
    return "lm.arpa"


def parsed(*words: str) -> Decoding | None:
    parser = argparse.ArgumentParser()
    add_decoding_arguments(parser)
    return decoding_of(parser.parse_args(words))


def test_greedy_is_the_default():
    assert parsed() is None
    assert read_decoding(None) is None


def test_the_command_line_overrides_the_file(lm, tmp_path):
    (tmp_path / "d.yaml").write_text("lm: lm.arpa\nlm_weight: 3.23\nword_score: -0.26\nbeam_size: 1500\n")
    assert parsed("--decoding", "d.yaml") == Decoding(lm, None, 3.23, -0.26, 1500) == read_decoding("d.yaml")
    given = parsed("--decoding", "d.yaml", "--word_score", "-1", "--beam_size", "5", "--lexicon", "words.txt")
    assert given == Decoding(lm, "words.txt", 3.23, -1.0, 5)
    assert parsed("--lm", lm, "--lexicon", "none") == Decoding(lm, "none")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--lm_weight", "1"], "has no language model"),
        (["--lm", "other.arpa"], "other.arpa: there is no such file"),
        (["--lm", "lm.arpa", "--lexicon", "other.txt"], "other.txt: there is no such file"),
        (["--lm", "lm.arpa", "--lm_weight", "-1"], "out of range"),
        (["--lm", "lm.arpa", "--beam_size", "0"], "out of range"),
        (["--lm", "lm.arpa", "--beam_size", "many"], "must be a number"),
        (["--decoding", "none.yaml"], "--decoding none.yaml: it cannot be read"),
    ],
)
def test_what_cannot_work_is_refused(lm, words, why):
    with pytest.raises(UserError) as error:
        parsed(*words)
    assert why in str(error.value)


def test_an_unknown_key_of_the_file(lm, tmp_path):
    (tmp_path / "d.yaml").write_text("lm: lm.arpa\nlmweight: 3\n")
    with pytest.raises(UserError, match="did you mean lm_weight"):
        read_decoding("d.yaml")
