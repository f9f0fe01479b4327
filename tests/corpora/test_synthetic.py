from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sft_speech.corpora import espeak, load_corpus, synthetic
from sft_speech.errors import UserError

MINUTES = 0.5


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.make_corpus(tmp_path_factory.mktemp("synthetic") / "corpus", seed=3, minutes=MINUTES)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def transcripts(folder: Path, split: str) -> dict[str, str]:
    lines = [line for path in folder.glob(f"{split}/*/*/*.trans.txt") for line in path.read_text().splitlines()]
    return dict(line.split(" ", 1) for line in lines)


def test_the_same_seed_gives_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    espeak.speak("what this process said before must not matter", espeak.Voice(variant="zac"))
    again = synthetic.make_corpus(tmp_path / "again", seed=3, minutes=MINUTES)
    assert contents(again) == contents(corpus)


def test_another_seed_gives_another_cast() -> None:
    assert synthetic.cast(0, 18) == synthetic.cast(0, 18)
    first, second = synthetic.cast(0, 18), synthetic.cast(1, 18)
    assert [s.sentences for s in first] != [s.sentences for s in second]
    assert [s.voice for s in first] != [s.voice for s in second]


@pytest.mark.parametrize("split", synthetic.TIMBRES)
def test_layout_is_that_of_librispeech(corpus: Path, split: str) -> None:
    files = {path.stem: path for path in corpus.glob(f"{split}/*/*/*.flac")}
    texts = transcripts(corpus, split)
    assert files.keys() == texts.keys()
    assert len(files) >= 2 * len(synthetic.TIMBRES[split])
    for name, path in files.items():
        speaker, chapter, number = name.split("-")
        assert path.parts[-4:] == (split, speaker, chapter, f"{speaker}-{chapter}-{number}.flac")
        assert texts[name] == texts[name].upper()
        waveform, rate = soundfile.read(path)
        assert (waveform.ndim, rate) == (1, 16_000)
        assert 0.1 < np.abs(waveform).max() < 1


def test_speakers_are_listed_with_their_minutes(corpus: Path) -> None:
    rows = [line.split("|") for line in (corpus / "SPEAKERS.TXT").read_text().splitlines() if line[0] != ";"]
    assert [int(row[0]) for row in rows] == list(range(1, 21))
    for row in rows:
        number, sex, split, minutes, name = (cell.strip() for cell in row)
        assert sex == synthetic.TIMBRES[split][name.split("+")[1]]
        spoken = sum(soundfile.info(path).duration for path in (corpus / split / number).rglob("*.flac"))
        assert float(minutes) == pytest.approx(spoken / 60, abs=0.006)
    train = sum(float(row[3]) for row in rows if row[2].strip() == "train-demo")
    assert train == pytest.approx(
        MINUTES, abs=14 * 6 / 60
    )  # a speaker stops after the utterance that reaches their share


def test_splits_share_no_voice_and_no_sentence() -> None:
    for part in (
        [set(synthetic.sentences_of(split)) for split in synthetic.TIMBRES],
        [{s.voice.variant for s in synthetic.cast(0, 18) if s.split == split} for split in synthetic.TIMBRES],
        [set(timbres) for timbres in synthetic.TIMBRES.values()],
    ):
        assert all(part)
        assert sum(map(len, part)) == len(set.union(*part))
    said = {
        s.split: {sentence for o in synthetic.cast(0, 18) if o.split == s.split for sentence in o.sentences}
        for s in synthetic.cast(0, 18)
    }
    assert said == {split: set(synthetic.sentences_of(split)) for split in synthetic.TIMBRES}


def test_voices_are_there_and_sentences_are_plain_letters() -> None:
    assert set(synthetic.HELD_OUT) <= set(espeak.variants())
    assert set(synthetic.ACCENTS) <= set(espeak.ACCENTS)
    sentences = [sentence for split in synthetic.TIMBRES for sentence in synthetic.sentences_of(split)]
    assert len(sentences) >= 400
    assert set("".join(sentences)) == set("abcdefghijklmnopqrstuvwxyz' ")


def test_a_corpus_that_is_there_is_left_alone(corpus: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    assert synthetic.make_corpus(corpus, seed=3, minutes=MINUTES) == corpus
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before


@pytest.mark.parametrize("seed", [3, 4])
def test_a_folder_with_something_else_is_refused(tmp_path: Path, seed: int, corpus: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="something other"):
        synthetic.make_corpus(tmp_path, seed=seed)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}
    with pytest.raises(UserError, match="something other"):
        synthetic.make_corpus(corpus, seed=3, minutes=MINUTES + seed)


@pytest.mark.parametrize("minutes", [0, -1, 1000, float("nan")])
def test_minutes_out_of_range(tmp_path: Path, minutes: float) -> None:
    with pytest.raises(UserError, match="minutes"):
        synthetic.make_corpus(tmp_path / "corpus", minutes=minutes)


def test_without_espeak_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    espeak._library.cache_clear()
    try:
        with pytest.raises(UserError, match="espeakng-loader"):
            synthetic.make_corpus(tmp_path / "corpus")
    finally:
        espeak._library.cache_clear()
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_corpus_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(synthetic, "ProcessPoolExecutor", fail)
    with pytest.raises(OSError, match="No space"):
        synthetic.make_corpus(tmp_path / "corpus", minutes=MINUTES)
    assert list(tmp_path.iterdir()) == []


def test_a_reader_reads_in_the_layout_of_ljspeech(tmp_path: Path) -> None:
    folder = synthetic.make_corpus(tmp_path / "reader", minutes=0.5, reader="steph")
    rows = load_corpus(folder)
    assert 30 <= sum(rows["seconds"]) < 40
    assert len(set(rows["text"])) == len(rows)
    assert all(text.endswith(".") for text in rows["text"])
    assert synthetic.make_corpus(folder, minutes=0.5, reader="steph") == folder
    with pytest.raises(UserError, match="something other"):
        synthetic.make_corpus(folder, minutes=0.5)
    with pytest.raises(UserError, match="steph"):
        synthetic.make_corpus(tmp_path / "other", reader="nobody")


def test_a_telephone_line_keeps_its_band_only() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * synthetic.RATE).astype(np.float32)
    line = synthetic.telephone(noise, np.random.default_rng(1))
    assert line.shape == noise.shape
    assert line.dtype == np.float32
    power = np.abs(np.fft.rfft(line)) ** 2
    hertz = np.fft.rfftfreq(len(line), 1 / synthetic.RATE)

    def decibels(low: float, high: float) -> float:
        return 10 * np.log10(power[(hertz >= low) & (hertz < high)].mean())

    assert decibels(0, 100) < decibels(500, 3000) - 20
    assert decibels(4200, 8000) < decibels(500, 3000) - 20
    assert np.array_equal(line, synthetic.telephone(noise, np.random.default_rng(1)))
    assert not np.array_equal(line, synthetic.telephone(noise, np.random.default_rng(2)))
