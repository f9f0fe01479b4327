from __future__ import annotations

import argparse
import math

import numpy as np
import pytest
import soundfile

from sft_speech.cli import main
from sft_speech.metrics.words import Errors
from sft_speech.tasks.asr.ctc import tune_lm
from sft_speech.tasks.asr.ctc.decoding import Decoding, add_decoding_arguments, decoding_of
from sft_speech.tasks.asr.ctc.tune_lm import Rates, tune

RATE = 16_000


def bowl(best: tuple[float, float], width: float, asked: list):
    """Errors that grow by steps with the distance from a pair."""

    def rates(pair):
        assert pair not in asked
        asked.append(pair)
        steps = math.floor(math.dist(pair, best) / width)
        return Rates(Errors(hits=90 - steps, substitutions=10 + steps), Errors(hits=1000))

    return rates


@pytest.mark.parametrize("best", [(1.7, -0.8), (0.0, 0.0), (5.3, 4.1), (0.3, -4.0)])
@pytest.mark.parametrize("width", [0.1, 0.3])
def test_the_best_pair_is_found_within_and_beyond_the_grid(best, width):
    asked: list = []
    found, rates = tune(bowl(best, width, asked))
    assert rates.words.total == 10
    assert math.dist(found, best) < width
    assert len(asked) < 110


def test_of_equal_pairs_character_errors_decide_then_the_smaller_weight():
    def rates(pair):
        return Rates(Errors(substitutions=5), Errors(substitutions=9 if pair[1] > 1 else 3))

    assert tune(rates)[0] == (0.0, 0.0)


def test_a_single_word_score_stays():
    asked: list = []
    found, _ = tune(bowl((1.2, 0.0), 0.01, asked), (0.0,))
    assert found == (1.2, 0.0)
    assert {pair[1] for pair in asked} == {0.0}


@pytest.fixture
def corpus(tmp_path):
    lines = ["audio,text"]
    for number, seconds in enumerate((0.6, 1.4, 0.9)):
        rng = np.random.default_rng(number)
        soundfile.write(tmp_path / f"{number}.wav", rng.normal(size=round(seconds * RATE)) * 0.1, RATE)
        lines.append(f"{tmp_path / f'{number}.wav'},one two")
    (tmp_path / "corpus.csv").write_text("\n".join(lines) + "\n")
    return str(tmp_path / "corpus.csv")


def test_the_command_writes_what_decoding_takes(tiny_directory, corpus, tmp_path, monkeypatch, capsys):
    """With a language model of single words, which KenLM alone refuses."""
    pytest.importorskip("torchaudio.models.decoder")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tune_lm, "LM_WEIGHTS", (0.0, 1.0))  # an argument of no command: few pairs are quick
    monkeypatch.setattr(tune_lm, "STEPS", (0.5,))
    unigrams = ["-99\t<s>\t0", "-1\t</s>", "-2\t<unk>\t0", "-0.5\tone\t0", "-0.7\ttwo\t0"]
    lm = tmp_path / "lm.arpa"
    lm.write_text("\n".join(["\\data\\", "ngram 1=5", "", "\\1-grams:", *unigrams, "", "\\end\\", ""]))
    model = str(tiny_directory("wav2vec2-layer"))
    command = ["tune-lm", model, "--source", corpus, "--lm", "lm.arpa", "--beam_size", "20", "--device", "cpu"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["lm_weight", "word_score", "WER", "CER"]
    assert lines[1].split()[0] == "greedy"
    tried = {(float(one[0]), float(one[1])): float(one[2]) for one in map(str.split, lines[2:-3])}
    assert len(tried) >= 10

    parser = argparse.ArgumentParser()
    add_decoding_arguments(parser)
    written = decoding_of(parser.parse_args(["--decoding", "decoding.yaml"]))
    assert written == Decoding(str(lm), None, written.lm_weight, written.word_score, 20)
    best = tried[written.lm_weight, written.word_score]
    assert best == min(tried.values())
    marked = [float(line.split()[2]) for line in lines[2:-3] if line.endswith("*")]
    assert marked == sorted(marked, reverse=True)
    assert marked[-1] == best
    # What was tuned is what is evaluated.
    assert main(["evaluate", model, "--source", corpus, "--decoding", "decoding.yaml", "-o", "."]) == 0
    assert f"WER {best:6.2f} %" in capsys.readouterr().out


@pytest.mark.parametrize("output", ["missing/decoding.yaml", "."])
def test_an_unwritable_output_is_an_error_before_any_work(
    tiny_directory, corpus, tmp_path, monkeypatch, capsys, output
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lm.arpa").touch()
    command = ["tune-lm", str(tiny_directory("wav2vec2-layer")), "--source", corpus, "--lm", "lm.arpa", "-o", output]
    assert main(command) == 2
    assert "a file in a folder that exists" in capsys.readouterr().err
