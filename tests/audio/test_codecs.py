"""What libsndfile cannot read, through torchcodec: a stand-in for it, and itself where it is installed."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import soundfile

from sft_speech.audio.read import AudioError, probe, read

RATE = 16_000
M4A = b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isommoov" + bytes(200)
WEBM = b"\x1aE\xdf\xa3" + bytes(60)
AMR = b"#!AMR\n" + bytes(60)


class Decoder:
    """An ``AudioDecoder`` of 130 s of a ramp in two channels, which begins at 1.4 s on the clock of the file."""

    seconds = 130.0
    header: float | None = 130.0
    asked: ClassVar[list[tuple[float, float | None]]] = []
    fails: Exception | None = None

    def __init__(self, source: str | bytes) -> None:
        if self.fails:
            raise self.fails
        begin = 1.4
        self.metadata = SimpleNamespace(
            duration_seconds=self.header, sample_rate=RATE, num_channels=2, begin_stream_seconds=begin
        )

    def get_samples_played_in_range(self, start: float, stop: float | None) -> SimpleNamespace:
        import torch

        self.asked.append((start, stop))
        first = max(0, round((start - 1.4) * RATE))
        last = (
            round(self.seconds * RATE) if stop is None else min(round((stop - 1.4) * RATE), round(self.seconds * RATE))
        )
        if first >= last:
            raise RuntimeError("No audio frames were decoded. This is probably because start_seconds is too high")
        return SimpleNamespace(
            data=torch.arange(first, last).div(RATE * 200).repeat(2, 1),
            sample_rate=RATE,
            pts_seconds=first / RATE + 1.4,
        )


@pytest.fixture
def decoder(monkeypatch):
    """Torchcodec's class, replaced by one to which tests give lengths."""
    made = type("Made", (Decoder,), {"asked": []})
    module = ModuleType("torchcodec.decoders")
    module.AudioDecoder = made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)
    return made


def test_a_header_that_knows_the_length_is_not_decoded(decoder):
    header = probe(M4A)
    assert (header.seconds, header.rate, header.channels, header.kind) == (130.0, RATE, 2, "")
    assert decoder.asked == []


@pytest.mark.parametrize(("encoded", "header"), [(WEBM, None), (AMR, 99.0), (M4A, None), (b"\xff\xf1" + M4A, 3.0)])
def test_a_length_that_the_header_does_not_know_is_decoded_in_blocks(decoder, encoded, header):
    decoder.header = header
    assert probe(encoded).seconds == 130.0
    assert [start for start, _ in decoder.asked if start] == pytest.approx([1.4, 61.4, 121.4, 181.4])


def test_a_segment_is_counted_from_the_first_sample(decoder):
    waveform = read(M4A, RATE, 2.0, 0.5)
    np.testing.assert_allclose(waveform, np.arange(32_000, 40_000) / (RATE * 200), rtol=1e-5)
    assert len(read(M4A, RATE)) == 130 * RATE


def test_a_file_that_ends_before_its_header_says_is_truncated(decoder):
    decoder.seconds = 60.0
    for segment in ((None, None), (50.0, 20.0)):
        with pytest.raises(AudioError, match=r"60.00 of 130.00 s|10.00 of 20.00 s could be read") as caught:
            read(M4A, RATE, *segment)
        assert caught.value.reason == "truncated"
    with pytest.raises(AudioError, match="it holds nothing at 70"):
        read(M4A, RATE, 70.0, 1.0)


@pytest.mark.parametrize(
    ("encoded", "error", "reason", "detail"),
    [
        (M4A, RuntimeError("Invalid data"), "unreadable", "MP4 (M4A, MOV); FFmpeg cannot read it either"),
        (
            M4A.replace(b"moov", b"mdat"),
            RuntimeError("Invalid data"),
            "truncated",
            "its index (moov)",
        ),
        (M4A, ValueError("The best audio stream is unknown"), "not audio", "a video without sound"),
    ],
)
def test_what_ffmpeg_cannot_read(decoder, encoded, error, reason, detail):
    decoder.fails = error
    with pytest.raises(AudioError) as caught:
        probe(encoded)
    assert (caught.value.reason, detail in str(caught.value)) == (reason, True)


def test_torchcodec_without_ffmpeg_says_what_to_install(monkeypatch):
    class Broken(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise RuntimeError("Could not load libtorchcodec")

    monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", Broken("torchcodec.decoders"))
    with pytest.raises(AudioError, match=r"finds no shared libraries of FFmpeg: apt \(or brew\) install"):
        probe(M4A)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("a.m4a", []),
        ("a.m4b", ["-f", "ipod"]),
        ("a.mov", []),
        ("a.webm", ["-c:a", "libopus", "-live", "1"]),  # as browsers record: no length
        ("a.mp4", ["-movflags", "frag_keyframe+empty_moov"]),
        ("a.wma", []),
        ("a.aac", []),
        ("a.ts", ["-c:a", "aac"]),  # begins at 1.4 s
        ("a.oga", ["-c:a", "flac", "-f", "ogg"]),
    ],
)
def test_formats_through_ffmpeg_itself(tmp_path, name, arguments):
    pytest.importorskip("torchcodec.decoders", exc_type=(ImportError, RuntimeError))
    ffmpeg = shutil.which("ffmpeg") or pytest.skip("no ffmpeg to write them")
    time = np.arange(3 * RATE) / RATE
    encoded = io.BytesIO()
    soundfile.write(encoded, 0.3 * np.sin(2 * np.pi * 60 * time * time), RATE, format="WAV")
    command = [ffmpeg, "-y", "-loglevel", "error", "-i", "-", *arguments, str(tmp_path / name)]
    subprocess.run(command, input=encoded.getvalue(), check=True)
    assert probe(tmp_path / name).seconds == pytest.approx(3, abs=0.1)
    whole = read(tmp_path / name, RATE)
    assert len(whole) == pytest.approx(3 * RATE, abs=1600)
    segment = read(tmp_path / name, RATE, 2.0, 0.5)
    assert np.corrcoef(segment, whole[2 * RATE :][: len(segment)])[0, 1] > 0.5
