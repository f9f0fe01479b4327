"""Channels: the one that is asked for, their mean, and channels that cancel each other or differ."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from sft_speech.audio.channels import cancel, differ, name_of, number_of, one_channel
from sft_speech.audio.read import AudioError, read, read_row

TONE = np.sin(2 * np.pi * 440 * np.arange(8000) / 16_000).astype(np.float32) * 0.5
NOISE = np.random.default_rng(1).normal(0, 0.1, (8000, 8)).astype(np.float32)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *(("0", 0), ("1", 1), ("1.0", 1), ("[1]", 1), ("7", 7), (" Left ", 0), ("RIGHT", 1), ("A", 0), ("b", 1)),
        *(("", None), ("mix", None), ("mono", None), ("average", None), ("nan", None)),
    ],
)
def test_names_and_numbers_of_channels(value, number):
    assert number_of(value) == number


@pytest.mark.parametrize("value", ["CNN", "-1", "0.5", "UC123", "[0, 1]", "inf", "1e9"])
def test_what_is_no_channel(value):
    with pytest.raises((ValueError, OverflowError)):
        number_of(value)


def test_channels_have_names():
    assert [name_of(number) for number in range(4)] == ["left", "right", "2", "3"]


def test_one_of_the_channels_is_taken(tmp_path):
    path = tmp_path / "call.wav"
    soundfile.write(path, np.stack([TONE, NOISE[:, 0]], axis=1), 16_000, subtype="FLOAT")
    assert read(path, 16_000, channel=0).tolist() == TONE.tolist()
    assert read(path, 16_000, channel=1).tolist() == NOISE[:, 0].tolist()
    row = {"audio": {"path": str(path), "bytes": None}, "start": 0.25, "seconds": 0.125, "channel": 1}
    assert read_row(row, 16_000).tolist() == NOISE[4000:6000, 0].tolist()
    assert read_row(row | {"channel": None}, 16_000) == pytest.approx((TONE + NOISE[:, 0])[4000:6000] / 2)
    with pytest.raises(AudioError, match=r"^channel 2 of a recording of 2 channels$") as raised:
        read(path, 16_000, channel=2)
    assert raised.value.reason == "no such channel"


def test_a_recording_of_one_channel_has_a_left_one_only():
    assert one_channel(TONE[:, None], 0).tolist() == TONE.tolist()
    with pytest.raises(AudioError, match=r"^channel right of a recording of one channel$"):
        one_channel(TONE[:, None], 1)


@pytest.mark.parametrize("gain", [-1.0, -0.9, -0.6])
def test_inverted_channels_do_not_become_silence(gain):
    samples = np.stack([gain * TONE, TONE], axis=1)
    assert cancel(samples)
    assert np.abs(one_channel(samples)).tolist() == np.abs(TONE).tolist()


def test_channels_that_do_not_cancel_are_averaged():
    for samples in (NOISE, NOISE[:, :2], np.stack([TONE, 0 * TONE], axis=1), np.stack([TONE, TONE], axis=1)):
        assert not cancel(samples)
        assert one_channel(samples) == pytest.approx(samples.mean(axis=1))
    assert one_channel(np.zeros((4, 2), np.float32)).tolist() == [0, 0, 0, 0]


def test_channels_of_two_speakers_differ():
    assert differ(NOISE[:, :2])
    assert differ(np.stack([TONE, NOISE[:, 0], TONE], axis=1))
    assert differ(NOISE[:, :2] + 0.2 * NOISE[:, 1::-1])  # one is heard in the other's microphone


def test_channels_of_one_voice_do_not_differ():
    assert not differ(np.stack([TONE, 0.5 * TONE + 0.1 * NOISE[:, 0]], axis=1))
    assert not differ(np.stack([TONE, -TONE], axis=1))
    assert not differ(np.stack([TONE, 0.001 * NOISE[:, 0]], axis=1))  # hiss
    assert not differ(np.stack([TONE, 0 * TONE], axis=1))
    assert not differ(np.zeros((4, 2), np.float32))
    assert not differ(TONE[:, None])
