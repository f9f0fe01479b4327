"""What a file is that libsndfile cannot open: by its first bytes, in words, with what to do."""

from __future__ import annotations

import os
import re
from typing import BinaryIO

from sft_speech.audio.codecs import AudioError, NotForLibsndfile
from sft_speech.files import LFS_POINTER

_HEAD = 4096  # bytes that are looked at
_HEADERLESS = frozenset([".raw", ".pcm", ".sln", ".vox", ".ulaw", ".alaw", ".ul", ".al"])

# Containers that FFmpeg reads, by a pattern of their first bytes.
_FOR_FFMPEG: tuple[tuple[re.Pattern[bytes], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL), name)
    for pattern, name in (
        (rb".{4}ftyp3g", "3GP audio"),
        (rb".{4}(?:ftyp|moov|mdat|free|wide)", "MP4 (M4A, MOV)"),
        (rb"\x1aE\xdf\xa3", "WebM or Matroska"),
        (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMA"),
        (rb"#!AMR", "AMR"),
        (rb"\xff[\xf0\xf1\xf8\xf9]", "AAC"),
        (rb"ADIF", "AAC"),
        (rb"\x0b\x77", "AC-3"),
        (rb"FLV\x01", "Flash video"),
        (rb"RIFF.{4}AVI ", "AVI video"),
        (rb"RIFF.{4}WAVE", "WAV with a coding that libsndfile doesn't have"),
        (rb"G.{187}G.{187}G", "MPEG transport stream"),
        (rb"\x00\x00\x01\xba", "MPEG video"),
        (rb"wvpk", "WavPack"),
        (rb"MAC ", "Monkey's Audio"),
        (rb"TTA[12]", "True Audio"),
        (rb"OggS", "Ogg with a coding that libsndfile doesn't have"),
        (rb"caff", "CAF with a coding that libsndfile doesn't have"),
    )
)

# Containers that libsndfile reads.
_AUDIO = re.compile(
    rb"(?:RIFF|RIFX|RF64).{4}WAVE|riff.{12}|FORM.{4}AIF|fLaC|OggS|ID3|\xff[\xfb\xf3\xf2\xfa]|\.snd|NIST_1A|caff"
    rb"|Creative Voice",
    re.DOTALL,
)

# Files that hold no audio: pattern, what it is, what to do.
_NO_AUDIO: tuple[tuple[re.Pattern[bytes], str, str], ...] = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), what, do)
    for pattern, what, do in (
        (re.escape(LFS_POINTER), "a Git LFS pointer, not the recording", "git lfs pull"),
        (rb"\s*<(?:!doctype html|html|head|body)", "a web page", "download the recording again"),
        (rb"\s*<\?xml|\s*<[a-z]+[\s>]", "an XML file", "download the recording again"),
        (rb"\s*\{\s*[\"}]|\s*\[\s*[\[\]{\"]", "a JSON file", "download the recording again"),
        (rb"PK\x03\x04|PK\x05\x06", "a ZIP archive", "unpack it"),
        (rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf", "a compressed file or archive", "unpack it"),
        (rb".{257}ustar", "a tar archive", "unpack it"),
        (rb"%PDF", "a PDF", "give the recording"),
        (rb"\x89PNG|\xff\xd8\xff|GIF8", "an image", "give the recording"),
        (rb"\x93NUMPY", "a NumPy array", "load it and save it as WAV, or give (array, rate)"),
        (rb"PAR1|ARROW1", "a table of Parquet or Arrow", "load it as a corpus"),
    )
)


def why_not(raw: BinaryIO, size: int, said: str, name: str = "") -> AudioError | NotForLibsndfile:
    """Return the error for a file that libsndfile cannot open.

    Args:
        raw: the file, at its beginning.
        size: its bytes.
        said: what libsndfile says about it; "" if it doesn't know the format.
        name: its path; "" if it has none.

    Returns:
        A :class:`NotForLibsndfile` if FFmpeg may be able to read it.
    """
    head = raw.read(_HEAD)
    if not head:
        return AudioError("empty", "a file of 0 bytes")
    if not head.strip(b"\0"):
        return _zeros(raw, size)
    if head.startswith(b"NIST_1A") and b"shorten" in head:
        return NotForLibsndfile("SPHERE audio compressed by shorten: sph2pipe -f wav decompresses it")
    for pattern, what, do in _NO_AUDIO:
        if pattern.match(head):
            return AudioError("not audio", f"{what}: {do}")
    for pattern, kind in _FOR_FFMPEG:
        if pattern.match(head):
            return NotForLibsndfile(f"{kind} ({said})" if said else kind)
    if said:
        return NotForLibsndfile(said)
    if is_text(head):
        return AudioError("not audio", "a text file: give the recording")
    if os.path.splitext(name)[1].lower() in _HEADERLESS:
        do = f"ffmpeg -f s16le -ar RATE -ac 1 -i {os.path.basename(name)} OUT.wav adds one"
        return AudioError("unreadable", f"samples without a header: {do}")
    return NotForLibsndfile("no audio format that libsndfile knows")


def _zeros(raw: BinaryIO, size: int) -> AudioError | NotForLibsndfile:
    """Return the error for a file that begins with zeros."""
    zeros = _HEAD
    while block := raw.read(1 << 20):
        if rest := block.lstrip(b"\0"):
            zeros += len(block) - len(rest)
            return NotForLibsndfile(f"its first {zeros:,} bytes are zero, as an interrupted copy leaves them")
        zeros += len(block)
    return AudioError("not audio", f"{size:,} zero bytes, as an interrupted copy leaves them: copy it again")


def may_be_audio(head: bytes) -> bool:
    """Return whether a file that begins so may be a recording: 12 bytes or more."""
    return bool(_AUDIO.match(head)) or any(pattern.match(head) for pattern, _ in _FOR_FFMPEG)


def is_text(head: bytes) -> bool:
    """Return whether bytes are text in UTF-8, cut anywhere, without control characters."""
    text = head.decode("utf-8", "ignore")
    if len(head) - len(text.encode()) > 3:
        return False
    return not re.search(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]", text)
