from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from sft_speech.audio.read import AudioError
from sft_speech.inference import clips
from sft_speech.inference.clips import Recording
from sft_speech.inference.windows import Window, cut_windows, quietest

RATE = 1000


def talk(seconds: float, *pauses: tuple[float, float]) -> np.ndarray:
    waveform = np.random.default_rng(0).normal(size=round(seconds * RATE)).astype(np.float32)
    for start, stop in pauses:
        waveform[round(start * RATE) : round(stop * RATE)] *= 0.01
    return waveform


def windows(waveform: np.ndarray, longest_seconds: float = 10.0) -> list[tuple[float, float]]:
    found = list(cut_windows(Recording(waveform, len(waveform) / RATE), RATE, longest_seconds))
    return [(window.start / RATE, window.stop / RATE) for window in found]


def test_a_short_recording_is_one_window() -> None:
    assert windows(talk(10.0)) == [(0.0, 10.0)]


def test_windows_meet_in_the_middle_of_pauses() -> None:
    found = windows(talk(25.0, (3.0, 4.0), (7.0, 7.4), (8.0, 8.6), (16.0, 17.0), (20.0, 20.4)))
    assert np.allclose(found, [(0.0, 8.3), (8.3, 16.5), (16.5, 25.0)], atol=0.1)
    assert all(one[1] == following[0] for one, following in pairwise(found))


def test_a_pause_beats_a_gap_between_sounds() -> None:
    waveform = talk(10.0, (6.0, 6.5))
    waveform[8000:8030] = 0  # 30 ms of silence
    assert quietest(waveform, RATE, 5000, 9500) == pytest.approx(6250, abs=150)


def test_windows_cover_everything_and_none_is_too_long() -> None:
    waveform = talk(47.3)
    found = windows(waveform, 5.0)
    assert (found[0][0], found[-1][1]) == (0.0, 47.3)
    assert all(one[1] == following[0] for one, following in pairwise(found))
    assert all(1.0 <= stop - start <= 5.0 for start, stop in found)


def test_silence_is_cut_in_the_middle() -> None:
    assert quietest(np.zeros(10_000, np.float32), RATE, 5000, 10_000) == pytest.approx(7500, abs=20)


def test_a_long_recording_is_read_a_window_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    waveform, asked = talk(30.0), []

    def read(audio, rate, start, seconds, channel):
        asked.append(seconds)
        return waveform[round(start * RATE) : round((start + seconds) * RATE)]

    monkeypatch.setattr(clips, "read", read)
    assert len(list(cut_windows(Recording("a.wav", 30.0), RATE, 10.0))) == 4
    assert set(asked) == {10.0}


def test_a_recording_that_cannot_be_read_further_ends_with_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    waveform = talk(10.0, (7.0, 7.5))

    def read(audio, rate, start, seconds, channel):
        if start > 0:
            raise AudioError("damaged", "no more")
        return waveform

    monkeypatch.setattr(clips, "read", read)
    first, rest = cut_windows(Recording("a.wav", 30.0), RATE, 10.0)
    assert first.stop == pytest.approx(7250, abs=150)
    assert rest == Window(first.stop, 30_000)


def test_a_recording_shorter_than_its_header_says_ends_there(monkeypatch: pytest.MonkeyPatch) -> None:
    waveform = talk(4.0)
    monkeypatch.setattr(clips, "read", lambda audio, rate, start, seconds, channel: waveform)
    assert list(cut_windows(Recording("a.wav", 30.0), RATE, 10.0)) == [Window(0, 4000)]
