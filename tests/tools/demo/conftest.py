"""Arguments of the page, and recordings that it takes or refuses."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
import soundfile

from sft_speech.tools.demo import demo

RATE = 16_000


@pytest.fixture(scope="session")
def options():
    """`options(*flags)`: parsed arguments of `sft-speech demo`, without the model."""

    def parse(*flags: str) -> argparse.Namespace:
        parser = argparse.ArgumentParser()
        demo.add_arguments(parser)
        return parser.parse_args(["model", "--device", "cpu", *flags])

    return parse


@pytest.fixture(scope="session")
def recordings(tmp_path_factory):
    """A folder: `hum.wav` of a second, `silent.wav`, `empty.wav` without a byte, and `notes.wav`, which is a text."""
    folder = tmp_path_factory.mktemp("recordings")
    time = np.arange(RATE) / RATE
    hum = 0.1 * np.sin(2 * np.pi * 200 * time) * np.abs(np.sin(9 * time))
    soundfile.write(folder / "hum.wav", hum, RATE)
    soundfile.write(folder / "silent.wav", np.zeros(RATE), RATE)
    (folder / "empty.wav").touch()
    (folder / "notes.wav").write_text("These are notes, and no audio.")
    return folder
