"""One clip: what its header says, what is read of it, and every way in which it can be bad."""

from __future__ import annotations

import base64
import io
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_speech.audio.read import AudioError, Header, probe, read
from sft_speech.audio.units import samples_of

REASONS = ("not audio", "unreadable", "truncated", "empty", "not finite")
FORMATS = [
    ("WAV", "PCM_16"),
    ("WAV", "FLOAT"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
    ("AIFF", "PCM_16"),
    ("AU", "PCM_16"),
]


def noise(samples: int, channels: int = 1) -> np.ndarray:
    values = np.random.default_rng(0).uniform(-0.3, 0.3, (samples, channels))
    return values.astype(np.float32).squeeze()


def encode(tmp_path: Path, format: str, subtype: str, samples: np.ndarray, rate: int = 16_000) -> bytes:
    path = tmp_path / "clip"
    soundfile.write(path, samples, rate, format=format, subtype=subtype)
    return path.read_bytes()


def reason_of(action, *args) -> str:
    with pytest.raises(AudioError) as caught:
        action(*args)
    return caught.value.reason


@pytest.fixture
def without_torchcodec(monkeypatch):
    for name in ("torchcodec", "torchcodec.decoders"):
        monkeypatch.setitem(sys.modules, name, None)


# ---- good files ----


@pytest.mark.parametrize(("format", "subtype"), FORMATS)
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (48_000, 2), (8000, 1)])
def test_every_format_has_the_length_that_its_header_tells(tmp_path, format, subtype, rate, channels):
    encoded = encode(tmp_path, format, subtype, noise(rate * 3 + 7, channels), rate)
    header = probe(encoded)
    assert header.channels == channels
    assert header.seconds == pytest.approx(3, abs=0.002)
    assert not header.silent
    waveform = read(encoded, 16_000)
    assert waveform.dtype == np.float32
    assert waveform.shape == (samples_of(header.seconds, 16_000),)


def test_path_bytes_and_row_are_the_same_clip(tmp_path):
    encoded = encode(tmp_path, "FLAC", "PCM_16", noise(16_000))
    path = tmp_path / "clip"
    for audio in (path, str(path), encoded, {"path": str(path), "bytes": None}, {"path": "gone", "bytes": encoded}):
        assert probe(audio) == Header(16_000, 16_000, 1)
        np.testing.assert_array_equal(read(audio, 16_000), read(path, 16_000))


def test_samples_are_kept_as_they_are(tmp_path):
    samples = noise(1000)
    np.testing.assert_array_equal(read(encode(tmp_path, "WAV", "FLOAT", samples), 16_000), samples)


def test_eight_channels_are_averaged(tmp_path):
    samples = noise(1000, 8)
    waveform = read(encode(tmp_path, "WAV", "FLOAT", samples), 16_000)
    np.testing.assert_allclose(waveform, samples.mean(axis=1), atol=1e-6)


def test_a_tone_keeps_its_pitch_and_level_at_another_rate(tmp_path):
    time = np.arange(96_000) / 96_000
    tone = 0.5 * np.sin(2 * np.pi * 440 * time).astype(np.float32)
    waveform = read(encode(tmp_path, "WAV", "FLOAT", tone, 96_000), 16_000)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    np.testing.assert_allclose(waveform[200:-200], expected[200:-200], atol=1e-3)


def test_a_segment_is_that_part_of_the_file(tmp_path):
    samples = noise(48_000)
    encoded = encode(tmp_path, "FLAC", "PCM_16", samples)
    np.testing.assert_array_equal(read(encoded, 16_000, 1.0, 0.5), read(encoded, 16_000)[16_000:24_000])
    np.testing.assert_array_equal(read(encoded, 16_000, 2.5), read(encoded, 16_000)[40_000:])
    assert len(read(encoded, 8000, 0.25, 1 / 3)) == samples_of(1 / 3, 8000)


@settings(deadline=None)
@given(start=st.floats(0, 1.9), length=st.floats(0.001, 2), rate=st.sampled_from([8000, 16_000, 22_050, 44_100]))
def test_a_segment_has_the_length_asked_for(two_seconds, start, length, rate):
    length = min(length, 2.0 - start)
    if samples_of(length, 22_050) == 0:
        return
    assert len(read(two_seconds, rate, start, length)) == samples_of(length, rate)


@pytest.fixture(scope="module")
def two_seconds(tmp_path_factory):
    return encode(tmp_path_factory.mktemp("audio"), "WAV", "PCM_16", noise(44_100), 22_050)


@pytest.mark.parametrize("action", [probe, lambda audio: read(audio, 16_000)])
def test_a_flac_written_to_a_pipe_is_not_for_libsndfile(tmp_path, without_torchcodec, action):
    encoded = bytearray(encode(tmp_path, "FLAC", "PCM_16", noise(30_000)))
    encoded[21] &= 0xF0  # the 36 bits of STREAMINFO that give the number of samples; 0 is "unknown"
    encoded[22:26] = bytes(4)
    with pytest.raises(AudioError, match=r"written to a pipe.*sft_speech\[codecs\]"):
        action(bytes(encoded))


def test_a_wav_written_to_a_pipe_is_not_truncated(tmp_path):
    encoded = bytearray(encode(tmp_path, "WAV", "PCM_16", noise(30_000)))
    place = encoded.index(b"data") + 4
    encoded[place : place + 4] = struct.pack("<I", 0xFFFFFFFF)
    assert probe(bytes(encoded)).samples == 30_000


def test_a_wav_whose_writer_counted_its_header_is_not_truncated(tmp_path):
    encoded = bytearray(encode(tmp_path, "WAV", "PCM_16", noise(30_000)))
    place = encoded.index(b"data") + 4
    encoded[place : place + 4] = struct.pack("<I", len(encoded))
    assert probe(bytes(encoded)).samples == 30_000


# ---- bad files ----


def test_missing_file(tmp_path):
    assert reason_of(probe, tmp_path / "gone.wav") == "missing file"
    assert reason_of(read, tmp_path / "gone.wav", 16_000) == "missing file"
    assert reason_of(probe, {"path": None, "bytes": None}) == "missing file"


def test_folder_in_place_of_a_file(tmp_path):
    assert reason_of(probe, tmp_path) == "unreadable"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    encode(tmp_path, "WAV", "PCM_16", noise(100))
    (tmp_path / "clip").chmod(0)
    assert reason_of(probe, tmp_path / "clip") == "unreadable"


@pytest.mark.parametrize("action", [probe, lambda audio: read(audio, 16_000)])
def test_zero_bytes_and_zero_samples_are_empty(tmp_path, action):
    (tmp_path / "empty.flac").touch()
    assert reason_of(action, tmp_path / "empty.flac") == "empty"
    assert reason_of(action, b"") == "empty"
    assert reason_of(action, encode(tmp_path, "WAV", "PCM_16", noise(0))) == "empty"


@pytest.mark.parametrize("action", [probe, lambda audio: read(audio, 16_000)])
def test_text_named_flac_is_not_audio(tmp_path, action):
    (tmp_path / "a.flac").write_text("this is no audio at all, but a line of text\n" * 100)
    assert reason_of(action, tmp_path / "a.flac") == "not audio"


@pytest.mark.parametrize(("format", "subtype"), FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_truncated_is_found_by_probe_and_by_read(tmp_path, format, subtype, share):
    encoded = encode(tmp_path, format, subtype, noise(16_000 * 8))
    cut = encoded[: int(len(encoded) * share)]
    assert reason_of(probe, cut) == "truncated"
    assert reason_of(read, cut, 16_000) == "truncated"
    (tmp_path / "cut").write_bytes(cut)
    assert reason_of(probe, tmp_path / "cut") == "truncated"


@pytest.mark.parametrize("format", ["WAV", "FLAC"])
def test_truncated_is_found_in_a_short_clip(tmp_path, format):
    encoded = encode(tmp_path, format, "PCM_16", noise(3000, 1))
    assert reason_of(probe, encoded[: len(encoded) // 2]) == "truncated"


def test_damage_in_the_middle_is_found_at_read_time(tmp_path):
    encoded = bytearray(encode(tmp_path, "FLAC", "PCM_16", noise(16_000 * 8)))
    middle = len(encoded) // 2
    encoded[middle : middle + 4000] = bytes(4000)
    assert probe(bytes(encoded)).seconds == 8
    assert reason_of(read, bytes(encoded), 16_000) == "truncated"


def test_a_damaged_header_is_unreadable(tmp_path):
    encoded = encode(tmp_path, "FLAC", "PCM_16", noise(16_000))
    assert reason_of(probe, encoded[:4] + bytes(len(encoded) - 4)) in ("unreadable", "empty")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 15_000, 31_999])
def test_nan_is_found_at_read_time(tmp_path, value, place):
    samples = noise(32_000)
    samples[place] = value
    encoded = encode(tmp_path, "WAV", "FLOAT", samples)
    assert reason_of(read, encoded, 16_000) == "not finite"
    assert reason_of(read, encoded, 8000) == "not finite"
    if place == 31_999:
        assert reason_of(probe, encoded) == "not finite"


@pytest.mark.parametrize("format", ["WAV", "FLAC"])
def test_silence_is_found_by_probe(tmp_path, format):
    assert probe(encode(tmp_path, format, "PCM_16", np.zeros(500_000, np.float32))).silent
    almost = np.zeros(500_000, np.float32)
    almost[400_000] = 0.01
    assert not probe(encode(tmp_path, format, "PCM_16", almost)).silent


def test_a_segment_past_the_end_is_empty_or_truncated(tmp_path):
    encoded = encode(tmp_path, "WAV", "PCM_16", noise(16_000))
    assert reason_of(read, encoded, 16_000, 1.5, 1.0) == "empty"
    assert reason_of(read, encoded, 16_000, 0.5, 2.0) == "truncated"


def test_a_clip_of_100_samples_is_read(tmp_path):
    encoded = encode(tmp_path, "WAV", "PCM_16", noise(100))
    assert probe(encoded) == Header(100, 16_000, 1)
    assert len(read(encoded, 16_000)) == 100


def test_two_hours_are_probed_without_being_decoded(tmp_path):
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", 8000, 1, "PCM_U8") as file:
        for _ in range(120):
            file.write(noise(8000 * 60))
    assert probe(path).seconds == 7200
    assert len(read(path, 8000, 7199.0, 1.0)) == 8000


def test_an_mp3_whose_length_libsndfile_guesses_too_short_is_counted(tmp_path):
    loud, quiet = noise(16_000 * 10), noise(16_000 * 10) * 1e-3
    encoded = encode(tmp_path, "MP3", "MPEG_LAYER_III", np.concatenate([quiet, loud]))
    second = encoded.index(encoded[:2], 4)
    assert b"Xing" in encoded[:second]
    assert soundfile.SoundFile(io.BytesIO(encoded[second:])).frames < 16_000 * 19
    assert probe(encoded[second:]).seconds == pytest.approx(20, abs=0.1)
    waveform = read(encoded[second:], 16_000)
    assert len(waveform) == pytest.approx(16_000 * 20, abs=1600)
    assert np.abs(waveform[:150_000]).max() < 0.01 < 0.2 < np.abs(waveform[-100_000:-3000]).max()


def test_error_crosses_processes():
    error = pickle.loads(pickle.dumps(AudioError("truncated", "cut at 3 s")))
    assert (error.reason, str(error)) == ("truncated", "cut at 3 s")


def reason_or_none(action, *args) -> str | None:
    try:
        action(*args)
    except AudioError as error:
        return error.reason
    return None


@given(st.binary(max_size=300))
def test_noise_is_no_audio(content):
    assert reason_or_none(probe, content) in ("unreadable", "empty", "truncated", "not audio")


# soundfile says so where libsndfile seeks to before the beginning of broken bytes
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@settings(deadline=None)
@given(cut=st.integers(0, 40_000), damage=st.integers(0, 40_000), patch=st.binary(min_size=1, max_size=40))
def test_any_damage_gives_samples_or_an_audio_error(clips, cut, damage, patch):
    for encoded in clips:
        broken = encoded[:damage] + patch + encoded[damage + len(patch) : cut + len(patch)]
        assert reason_or_none(probe, broken) in (None, *REASONS)
        assert reason_or_none(read, broken, 16_000) in (None, *REASONS)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audio")
    return [encode(folder, format, subtype, noise(16_000)) for format, subtype in FORMATS]


# ---- formats for torchcodec ----


@pytest.fixture
def m4a(tmp_path):
    pytest.importorskip("torchcodec")
    ffmpeg = shutil.which("ffmpeg") or pytest.skip("no ffmpeg here to write an M4A")
    encode(tmp_path, "WAV", "PCM_16", noise(32_000))
    command = [ffmpeg, "-y", "-loglevel", "error", "-i", str(tmp_path / "clip"), str(tmp_path / "clip.m4a")]
    subprocess.run(command, check=True)
    return tmp_path / "clip.m4a"


def test_m4a_is_read_by_torchcodec(m4a):
    for audio in (m4a, m4a.read_bytes()):
        assert probe(audio).seconds == pytest.approx(2, abs=0.1)
        assert len(read(audio, 16_000)) == pytest.approx(32_000, abs=1600)
        assert len(read(audio, 8000, 0.5, 1.0)) == 8000


def test_m4a_without_torchcodec_says_what_to_install(tmp_path, without_torchcodec):
    (tmp_path / "clip.m4a").write_bytes(b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom" + bytes(200))
    with pytest.raises(AudioError, match=r"MP4.*pip install 'sft_speech\[codecs\]'"):
        probe(tmp_path / "clip.m4a")


@pytest.mark.parametrize("samples", [2**36 - 1, 2**32])
def test_no_memory_is_taken_for_what_a_flac_promises(samples):
    encoded = io.BytesIO()
    soundfile.write(encoded, np.full(1600, 0.1), 16_000, format="FLAC")
    flac = bytearray(encoded.getvalue())
    flac[21] |= samples >> 32  # the lower half of byte 21 and bytes 22 to 25: samples, RFC 9639
    flac[22:26] = (samples % 2**32).to_bytes(4, "big")
    for use in (probe, lambda clip: read(clip, 16_000), lambda clip: read(clip, 16_000, 0.0, 1e7)):
        with pytest.raises(AudioError) as told:
            use(bytes(flac))
        assert told.value.reason in ("truncated", "unreadable")


@pytest.mark.parametrize("rate", [1, 150])
def test_a_rate_that_nobody_records_at(rate):
    encoded = io.BytesIO()
    soundfile.write(encoded, np.full(1600, 0.1), 16_000, format="WAV")
    wav = encoded.getvalue()
    with pytest.raises(AudioError, match=f"a rate of {rate} Hz"):
        read(wav[:24] + rate.to_bytes(4, "little") + wav[28:], 16_000)


# Found by atheris: an MP3 whose last packet libsndfile can seek to, and not decode.
LAST_PACKET = """
eNr7/7njCAMMRGTmpQMpfiBmZWBg52AwQAcfDBLRABsQr8ICbmMB/7EAoF02Po6+rsZ6DIQA9U38D/I93wWmR18dGBh+Orv2esb6
i3U+WkU9QHsbALe644Q=
"""


def test_an_mp3_with_a_last_packet_that_is_none():
    encoded = zlib.decompress(base64.b64decode(LAST_PACKET))
    assert len(read(encoded, 16_000)) == samples_of(probe(encoded).seconds, 16_000) == 764
