"""Recordings that libsndfile cannot seek in, and those that it reads only in part."""

from __future__ import annotations

import contextlib
import io
import struct

import numpy as np
import pytest
import soundfile

from sft_speech.audio import sndfile
from sft_speech.audio.read import AudioError, probe, read
from sft_speech.audio.sndfile import Sound

RATE = 8000
SECONDS = 3
TIME = np.arange(SECONDS * RATE) / RATE
TONE = (0.3 * np.sin(2 * np.pi * (300 + 40 * TIME) * TIME)).astype(np.float32)
SEEKLESS = [("WAV", "GSM610"), ("AIFF", "GSM610"), ("W64", "GSM610"), ("WAV", "G721_32"), ("AU", "G723_24")]
SEEKLESS += [("AU", "G723_40"), ("WAV", "NMS_ADPCM_16")]
BLOCKS = [("WAV", "IMA_ADPCM"), ("WAV", "MS_ADPCM"), ("AIFF", "IMA_ADPCM"), ("W64", "IMA_ADPCM"), ("RF64", "ULAW")]
BLOCKS += [("MP3", None), ("CAF", "ALAC_16"), ("NIST", "PCM_16"), ("VOC", "PCM_16"), ("OGG", "OPUS"), ("OGG", "VORBIS")]


def encode(format: str, subtype: str | None = None, samples: np.ndarray = TONE, rate: int = RATE) -> bytes:
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, rate, format=format, subtype=subtype)
    return encoded.getvalue()


def as_path(tmp_path, encoded: bytes, name: str = "clip.wav") -> str:
    (tmp_path / name).write_bytes(encoded)
    return str(tmp_path / name)


@pytest.mark.parametrize(("format", "subtype"), [*SEEKLESS, *BLOCKS])
def test_segments_are_parts_of_the_whole_whether_libsndfile_seeks_or_not(tmp_path, format, subtype):
    encoded = encode(format, subtype)
    assert soundfile.SoundFile(io.BytesIO(encoded)).seekable() is ((format, subtype) not in SEEKLESS)
    for audio in (encoded, as_path(tmp_path, encoded)):
        header = probe(audio)
        assert header.seconds == pytest.approx(SECONDS, abs=0.07)
        assert (header.silent, header.note) == (False, "")
        whole = read(audio, RATE)
        assert len(whole) == header.samples
        assert np.corrcoef(whole[: len(TONE)], TONE[: len(whole)])[0, 1] > 0.95
        for first in (0, 8000, 20_001, 12_345):
            np.testing.assert_allclose(read(audio, RATE, first / RATE, 0.25), whole[first : first + 2000], atol=2e-3)


@pytest.mark.parametrize(
    ("format", "subtype", "channels"),
    [("FLAC", "PCM_16", 1), ("FLAC", "PCM_16", 2), ("WAV", "PCM_16", 2), ("WAV", "GSM610", 1)],
)
def test_reads_end_where_the_file_ends(format, subtype, channels):
    with Sound(encode(format, subtype, np.stack([TONE, -TONE][:channels], axis=1))) as file:
        whole = file.read(0, 10**15)  # more than any memory holds
        assert whole.shape == (file.frames, channels)
        for start, samples in ((file.frames - 10, 300), (file.frames, 300), (5, 20), (5, 0), (0, file.frames)):
            np.testing.assert_array_equal(file.read(start, samples), whole[start : start + samples])


def test_a_header_costs_no_more_than_its_format_needs(monkeypatch):
    """The first scan of a corpus is made of these costs: silencing the C library, and copying libsndfile's log."""
    silences, logs = [], []

    class Counted(contextlib.nullcontext):
        def __enter__(self) -> None:
            silences.append(1)

    monkeypatch.setattr(sndfile, "quiet", Counted)
    log = soundfile.SoundFile.extra_info.fget
    monkeypatch.setattr(soundfile.SoundFile, "extra_info", property(lambda file: logs.append(1) or log(file)))
    costs = {}
    for format in ("FLAC", "W64", "MP3"):
        silences.clear()
        logs.clear()
        probe(encode(format))
        costs[format] = len(silences), len(logs)
    assert costs == {"FLAC": (1, 0), "W64": (1, 1), "MP3": (3, 0)}


def test_silence_of_a_file_without_seeking():
    quiet = np.zeros(3 * RATE, np.float32)
    assert probe(encode("WAV", "G721_32", quiet)).silent
    quiet[RATE : 2 * RATE] = TONE[:RATE]
    assert not probe(encode("WAV", "GSM610", quiet)).silent


# ---- WAV ----


def sized(riff: int | None, data: int | None, encoded: bytes | None = None) -> bytes:
    """Return a WAV whose header gives these sizes."""
    wav = bytearray(encoded or encode("WAV", "PCM_16"))
    place = wav.index(b"data") + 4
    if riff is not None:
        wav[4:8] = struct.pack("<I", riff)
    if data is not None:
        wav[place : place + 4] = struct.pack("<I", data)
    return bytes(wav)


@pytest.mark.parametrize(
    ("riff", "data", "noted"),
    [
        (0, 0, True),  # a recorder that was killed
        (36, 0, True),
        (None, 0, True),
        (0xFFFFFFFF, 0, True),
        (36 + 16_000, 16_000, True),  # the size is written every second
        (None, 16_000, True),
        (0, 0xFFFFFFFF, False),  # written to a pipe
        (0xFFFFFFFF, 0xFFFFFFFF, False),
        (0x80000024, 0x80000000, False),
        (0x7FFFF024, 0x7FFFF000, False),
        (0xFFFFFFFF, 0xFFFFFFFF - 36, False),
        (36, None, False),
    ],
)
def test_a_wav_of_wrong_or_absent_sizes_is_read_to_its_end(tmp_path, riff, data, noted):
    encoded = sized(riff, data)
    for audio in (encoded, as_path(tmp_path, encoded)):
        assert probe(audio).samples == SECONDS * RATE
        assert bool(probe(audio).note) is noted
        np.testing.assert_allclose(read(audio, RATE), TONE, atol=1e-4)
        np.testing.assert_allclose(read(audio, RATE, 2.5, 0.25), TONE[20_000:22_000], atol=1e-4)


@pytest.mark.parametrize(
    "after",
    [
        b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf63.1.102\0\0",
        b"id3 " + struct.pack("<I", 8) + b"\xff\xfe\x01\x80\xff\xfe\x01\x80",
        bytes(4000),  # padding
        b"<xml>some notes of an editor about this recording, and more of them</xml>\n" * 20,
    ],
    ids=["list", "id3", "zeros", "text"],
)
def test_what_follows_the_samples_and_is_none_is_left_out(after):
    encoded = encode("WAV", "PCM_16")
    for audio in (encoded + after, sized(len(encoded) - 8 + len(after), None) + after):
        assert (probe(audio).samples, probe(audio).note) == (SECONDS * RATE, "")
        np.testing.assert_allclose(read(audio, RATE), TONE, atol=1e-4)


def test_a_wav_without_samples_stays_empty():
    chunk = b"LIST" + struct.pack("<I", 4) + b"INFO"
    for encoded in (sized(None, 0)[:44], sized(None, 0)[:44] + chunk):
        with pytest.raises(AudioError, match="no samples"):
            probe(encoded)


def test_joined_wavs_are_one_recording(tmp_path):
    first, second = encode("WAV", "PCM_16", TONE[:RATE]), encode("WAV", "PCM_16", TONE[RATE:])
    for audio in (first + second, as_path(tmp_path, first + second)):
        assert probe(audio).samples == SECONDS * RATE
        assert probe(audio).note == "2 recordings joined in one file: all of them are read"
        np.testing.assert_allclose(read(audio, RATE), TONE, atol=1e-4)
        np.testing.assert_allclose(read(audio, RATE, 0.75, 0.5), TONE[6000:10_000], atol=1e-4)


# ---- Ogg ----


def numbered(encoded: bytes, number: int) -> bytes:
    """Return an Ogg stream with another number; libsndfile does not compare checksums of the first pages' bodies."""
    pages, place = [], 0
    while place < len(encoded):
        count = encoded[place + 26]
        stop = place + 27 + count + sum(encoded[place + 27 : place + 27 + count])
        page = bytearray(encoded[place:stop])
        page[14:18], page[22:26] = struct.pack("<I", number), bytes(4)
        page[22:26] = struct.pack("<I", crc(page))
        pages.append(bytes(page))
        place = stop
    return b"".join(pages)


def crc(page: bytes) -> int:
    """Return the checksum of RFC 3533, section 6."""
    found = 0
    for byte in page:
        found ^= byte << 24
        for _ in range(8):
            found = ((found << 1) ^ (0x04C11DB7 if found & 0x80000000 else 0)) & 0xFFFFFFFF
    return found


@pytest.mark.parametrize("subtype", ["OPUS", "VORBIS"])
@pytest.mark.parametrize("numbers", [(1, 2), (1, 1)])
def test_a_chained_ogg_is_read_to_its_end(tmp_path, subtype, numbers):
    links = [numbered(encode("OGG", subtype, TONE[:RATE]), numbers[0]), numbered(encode("OGG", subtype), numbers[1])]
    for audio in (b"".join(links), as_path(tmp_path, b"".join(links), "a.ogg")):
        assert probe(audio).samples == 4 * RATE
        assert probe(audio).note == "2 recordings joined in one file: all of them are read"
        expected = np.concatenate([read(links[0], RATE), read(links[1], RATE)])
        np.testing.assert_allclose(read(audio, RATE), expected, atol=1e-6)
        np.testing.assert_allclose(read(audio, RATE, 0.5, 1.0), expected[4000:12_000], atol=2e-3)


def test_a_chain_of_different_rates_is_for_ffmpeg():
    chain = numbered(encode("OGG", "VORBIS"), 1) + numbered(encode("OGG", "VORBIS", TONE, 16_000), 2)
    with pytest.raises(AudioError, match="2 recordings of different rates or channels in one file"):
        read(chain, RATE)


# ---- MP3 ----


def without_header(mp3: bytes) -> bytes:
    """Return an MP3 without its first frame, which counts the others."""
    assert b"Xing" in mp3[:64] or b"Info" in mp3[:64]
    return mp3[mp3.index(mp3[:2], 4) :]


@pytest.mark.parametrize("tag", [b"", b"ID3\x04\0\0\0\0\x10\0" + b"x" * 2048, b"ID3\x04\0\0\0\x06\0\0" + bytes(98_304)])
def test_a_short_mp3_without_a_header_is_counted(tag):
    mp3 = encode("MP3", None, np.concatenate([TONE * 1e-3, TONE]))
    assert probe(tag + mp3).samples == 6 * RATE
    assert probe(tag + without_header(mp3)).seconds == pytest.approx(6, abs=0.2)
    waveform = read(tag + without_header(mp3), RATE)
    assert np.abs(waveform[-RATE:]).max() > 0.2


def test_joined_mp3s_are_read_to_their_end():
    first, second = encode("MP3", None, TONE), encode("MP3", None, TONE[:RATE])
    tag = b"ID3\x04\0\0\0\0\x10\0" + b"\xff" * 2048
    for joint in (first + second, first + tag + second, without_header(first) + second + b"TAG" + b"x" * 125):
        assert probe(joint).seconds == pytest.approx(4, abs=0.4)
        found = read(joint, RATE)
        assert len(found) == pytest.approx(4 * RATE, abs=3200)
        assert np.abs(found[3 * RATE :]).max() > 0.2
        np.testing.assert_allclose(read(joint, RATE, 3.0, 0.5), found[24_000:28_000], atol=2e-3)


def test_a_header_without_length_goes_to_ffmpeg(monkeypatch):
    caf = bytearray(encode("CAF", "PCM_16"))
    caf[caf.index(b"data") + 4 :][:8] = b"\xff" * 8  # -1: unknown
    caf[caf.index(b"data") + 4 : caf.index(b"data") + 12] = bytes(8)
    with pytest.raises(AudioError, match=r"pip install 'sft_speech\[codecs\]'"):
        probe(bytes(caf))


@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100])
def test_a_segment_of_an_mp3_is_whole_from_its_first_sample(rate):
    """libmpg123 gives zeros for up to 0.3 s after a seek, where frames use bits of those before them."""
    time = np.arange(4 * rate) / rate
    mp3 = encode("MP3", None, (0.3 * np.sin(2 * np.pi * (300 + 40 * time) * time)).astype(np.float32), rate)
    whole = read(mp3, rate)
    with soundfile.SoundFile(io.BytesIO(mp3)) as file:
        file.seek(2 * rate)
        assert np.abs(file.read(rate // 10) - whole[2 * rate :][: rate // 10]).max() > 0.2
    for start in (0.1, 1.0, 2.0, 3.3):
        first = round(start * rate)
        np.testing.assert_allclose(read(mp3, rate, start, 0.5), whole[first : first + rate // 2], atol=1e-4)
