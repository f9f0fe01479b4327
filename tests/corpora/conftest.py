"""Audio files and corpora for the tests of corpora."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE = 16_000


@pytest.fixture
def data() -> Path:
    """Real speech: a folder with LibriSpeech, LJSpeech-mini and digits."""
    if "SFT_SPEECH_DATA" not in os.environ:
        pytest.skip("SFT_SPEECH_DATA is not set: no real speech here")
    return Path(os.environ["SFT_SPEECH_DATA"])


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test reads or leaves anything in the user's cache."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def noise(seconds: float, rate: int = RATE, channels: int = 1, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).uniform(-0.3, 0.3, (round(seconds * rate), channels))
    return samples.astype(np.float32).squeeze()


@pytest.fixture
def write(tmp_path):
    """Writes an audio file below the test's folder; the samples are noise where none are given."""

    def write(name, seconds=1.0, rate=RATE, channels=1, samples=None, **kwargs) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise(seconds, rate, channels) if samples is None else samples, rate, **kwargs)
        return path

    return write


@pytest.fixture
def librispeech(tmp_path, write):
    """Two subsets, two speakers each, three utterances each of 1, 2 and 3 s."""
    root = tmp_path / "LibriSpeech"
    for subset in ("dev-clean", "train-clean-100"):
        for speaker in ("19", "26") if subset.startswith("train") else ("84", "174"):
            folder = root / subset / speaker / "5"
            for number in range(3):
                write(folder / f"{speaker}-5-{number:04d}.flac", 1.0 + number)
            lines = [f"{speaker}-5-{number:04d} SPEAKER {speaker} SAYS {number}\n" for number in range(3)]
            (folder / f"{speaker}-5.trans.txt").write_text("".join(lines))
    return root
