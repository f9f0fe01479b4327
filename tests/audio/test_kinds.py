"""Files that are not what their suffix says are named as what they are."""

from __future__ import annotations

import os

import pytest

from sft_speech.audio.read import AudioError, probe, read

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 132300\n"
MATROSKA = b"\x1aE\xdf\xa3\x01\0\0\0\0\0\0\x1fB\x86\x81\x01"
CASES = [
    (LFS, "not audio", "a Git LFS pointer, not the recording: git lfs pull"),
    (b"<!DOCTYPE html>\n<html><title>404</title></html>", "not audio", "a web page: download the recording again"),
    (b"\n <HTML><body>Sign in</body></HTML>", "not audio", "a web page"),
    (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "not audio", "an XML file"),
    (b'{"error": "not found"}', "not audio", "a JSON file"),
    (b"[]", "not audio", "a JSON file"),
    (bytes(20_000), "not audio", "20,000 zero bytes, as an interrupted copy leaves them: copy it again"),
    (bytes(2_000_000) + b"data", "unreadable", "its first 2,000,000 bytes are zero"),
    (b"", "empty", "a file of 0 bytes"),
    ("Grüße an alle,\n".encode() * 500, "not audio", "a text file: give the recording"),
    (b"PK\3\4" + bytes(100), "not audio", "a ZIP archive: unpack it"),
    (b"\x1f\x8b\x08" + bytes(100), "not audio", "a compressed file or archive: unpack it"),
    (b"\x93NUMPY\1\0" + bytes(100), "not audio", "a NumPy array"),
    (b"%PDF-1.7\n", "not audio", "a PDF"),
    (b"\x89PNG\r\n\x1a\n", "not audio", "an image"),
    (b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom" + bytes(200), "unreadable", "MP4 (M4A, MOV); FFmpeg may read it: "),
    (b"\0\0\0\x20ftyp3gp4" + bytes(200), "unreadable", "3GP audio; FFmpeg may read it"),
    (MATROSKA, "unreadable", "WebM or Matroska; FFmpeg may read it"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + bytes(50), "unreadable", "WMA; FFmpeg may read it"),
    (b"#!AMR\n" + bytes(50), "unreadable", "AMR; FFmpeg may read it"),
    (b"RIFF\xff\0\0\0AVI " + bytes(50), "unreadable", "AVI video"),
    (b"NIST_1A\n   1024\nsample_coding -s26 pcm,embedded-shorten-v2.00\n", "unreadable", "sph2pipe"),
    (os.urandom(1) and b"\x81\x92\xa3\xb4" * 300, "unreadable", "no audio format that libsndfile knows"),
]


@pytest.fixture(autouse=True)
def without_torchcodec(monkeypatch):
    for name in ("torchcodec", "torchcodec.decoders"):
        monkeypatch.setitem(__import__("sys").modules, name, None)


@pytest.mark.parametrize(("content", "reason", "detail"), CASES, ids=[case[2][:30] for case in CASES])
def test_what_it_is(tmp_path, content, reason, detail):
    (tmp_path / "a.wav").write_bytes(content)
    for audio in (tmp_path / "a.wav", content):
        for action in (probe, lambda clip: read(clip, 16_000)):
            with pytest.raises(AudioError) as caught:
                action(audio)
            assert caught.value.reason == reason
            assert detail in str(caught.value)


def test_samples_without_a_header(tmp_path):
    (tmp_path / "a.raw").write_bytes(b"\x81\x92\xa3\xb4" * 300)
    with pytest.raises(AudioError, match=r"samples without a header: ffmpeg -f s16le -ar RATE -ac 1 -i a.raw OUT.wav"):
        probe(tmp_path / "a.raw")


def test_a_wav_named_raw_is_a_wav(tmp_path):
    import numpy as np
    import soundfile

    soundfile.write(tmp_path / "a.wav", np.full(1600, 0.1), 16_000)
    (tmp_path / "a.wav").rename(tmp_path / "a.RAW")
    assert probe(tmp_path / "a.RAW").samples == 1600


def test_a_broken_link_is_named(tmp_path):
    (tmp_path / "a.wav").symlink_to("nowhere.wav")
    with pytest.raises(AudioError, match=r"a link to 'nowhere.wav', which doesn't exist") as caught:
        probe(tmp_path / "a.wav")
    assert caught.value.reason == "missing file"


def test_a_url_is_named():
    with pytest.raises(AudioError, match=r"https://a.org/a.wav is a URL, and only files are read: download it first"):
        probe("https://a.org/a.wav")
