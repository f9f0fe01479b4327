from __future__ import annotations

import gzip
from importlib.resources import files

import numpy as np
import pytest
import soundfile

from sft_speech.cli import main
from sft_speech.tasks.asr.ctc.build_lm import Sentences
from sft_speech.tasks.asr.ctc.ngram import words_of
from sft_speech.tasks.asr.ctc.vocabulary import Characters, tokenizer_of

MODEL = str(files("sft_speech") / "assets/wav2vec2-small")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("It's 21 o'clock, Anna!\n\n  \nПривет\nanna <SIL> again\n", encoding="utf-8")
    with gzip.open(tmp_path / "b.txt.gz", "wt", encoding="utf-8") as file:
        file.write("In a zip.\n")
    soundfile.write("a.wav", np.random.default_rng(0).normal(0, 0.1, 1600), 16000)
    (tmp_path / "c.csv").write_text("audio,sentence,text\na.wav,In a Table,nothing\n")
    return tmp_path


def test_words_are_spelled_as_the_recognizer_writes_them(folder, capsys):
    texts = ["a.txt", "b.txt.gz", "c.csv", "--text_column", "sentence"]
    assert main(["build-lm", *texts, "--model", MODEL, "-o", "lm.arpa", "--order", "2"]) == 0
    assert set(words_of("lm.arpa")) == {*"IT'S TWENTY ONE O'CLOCK ANNA AGAIN IN A ZIP TABLE".split()}
    out = capsys.readouterr().out
    assert out.startswith("lm.arpa: 13 1-grams, 15 2-grams, of 4 sentences; 1 left out, with characters that the model")
    assert "'П' 1 times" in out


@pytest.mark.parametrize(
    ("arguments", "why", "do"),
    [
        (["russian.txt"], "no sentence is left of it; 1 left out", "check its language"),
        (["bytes.txt"], "bytes.txt: it is not text in UTF-8", "give a text file"),
        (["a.txt", "--split", "train"], "plain text files have neither splits", "leave --split out"),
        (["missing.txt"], "missing.txt: no such file or folder", ""),
        (["a.txt", "-o", "no/lm.arpa"], "a file in a folder that exists", ""),
    ],
)
def test_what_cannot_be_used(folder, capsys, arguments, why, do):
    (folder / "russian.txt").write_text("Привет\n", encoding="utf-8")
    (folder / "bytes.txt").write_bytes(b"\xff\xfe")
    assert main(["build-lm", "--model", MODEL, "-o", "lm.arpa", *arguments]) == 2
    error = capsys.readouterr().err
    assert why in error
    assert do in error
    assert not (folder / "lm.arpa").exists()


def test_a_vocabulary_without_a_space_gives_characters():
    vocabulary = Characters(tokenizer_of(["<pad>", "<unk>", "|", *"今日は"]), "ja")
    assert [*Sentences(["今日は", "今 日"], vocabulary)] == [["今", "日", "は"], ["今", "|", "日"]]
    english = Characters(tokenizer_of(["<pad>", "<unk>", "|", *"abc"]), "en")
    assert [*Sentences(["A cab."], english)] == [["a", "cab"]]


@pytest.mark.parametrize("order", [1, 3])
def test_kenlm_gives_its_probabilities(folder, order):
    """At the beginning of a sentence; also in a model of single words, which KenLM alone refuses."""
    pytest.importorskip("torchaudio.models.decoder")
    pytest.importorskip("flashlight.lib.text")
    from sft_speech.tasks.asr.ctc.beam import Search
    from sft_speech.tasks.asr.ctc.checkpoint import load_checkpoint
    from sft_speech.tasks.asr.ctc.decoding import Decoding

    (folder / "three.txt").write_text("one two\none two\none six\n")
    assert main(["build-lm", "three.txt", "--model", MODEL, "-o", "lm.arpa", "--order", str(order)]) == 0
    search = Search(load_checkpoint(MODEL).vocabulary, Decoding("lm.arpa"))
    search.reweigh(Decoding("lm.arpa", lm_weight=1.0))  # as tune-lm does
    words = [*(search.lexicon or {})]
    scores = {word: search._lm.score(search._lm.start(False), words.index(word))[1] for word in words}
    # By hand: of order 1, counts ONE 3, </s> 3, TWO 2, SIX 1 less 1.5, 1.5, 1, 0.5, of 9, and 4.5/9 shared by 5 words.
    alone = {"ONE": 1.5 / 9 + 0.1, "TWO": 1 / 9 + 0.1, "SIX": 0.5 / 9 + 0.1}
    expected = alone if order == 1 else {"ONE": 0.6, "TWO": 0.5 * 0.2}
    assert {word: scores[word] for word in expected} == {
        word: pytest.approx(np.log10(p), rel=1e-4) for word, p in expected.items()
    }
