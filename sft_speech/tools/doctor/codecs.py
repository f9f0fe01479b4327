"""Checks of audio formats: each is written and read again."""

from __future__ import annotations

import io
from collections.abc import Iterator

from sft_speech.errors import first_line
from sft_speech.machine import installer
from sft_speech.tools.doctor.finding import Finding, imported

FORMATS = {"WAV": "PCM_16", "FLAC": "PCM_16", "OGG": "VORBIS", "OGG Opus": "OPUS", "MP3": "MPEG_LAYER_III"}


def libsndfile() -> Iterator[Finding]:
    """Check libsndfile, which reads most formats, through the reader of this package."""
    import numpy as np
    import soundfile

    from sft_speech.audio import read as audio

    second = (0.5 * np.sin(np.arange(16_000) * 0.2)).astype(np.float32)
    failed = []
    for name, subtype in FORMATS.items():
        encoded = io.BytesIO()
        try:
            soundfile.write(encoded, second, 16_000, format=name.split()[0], subtype=subtype)
            decoded = audio.read({"path": None, "bytes": encoded.getvalue()}, 16_000)
        except (soundfile.SoundFileError, audio.AudioError, ValueError) as error:
            failed.append(f"{name} ({first_line(error)})")
            continue
        if not 0.9 < len(decoded) / len(second) < 1.2 or np.abs(decoded).max() < 0.3:
            failed.append(f"{name} (the decoded audio differs)")
    versions = f"{soundfile.__libsndfile_version__} (soundfile {soundfile.__version__})"
    do = f"{installer()} --force-reinstall soundfile: its wheel includes a complete libsndfile"
    bad = Finding("fault", "libsndfile", f"{versions} fails on {', '.join(failed)}", do)
    yield bad.unless(not failed, f"{versions}: wrote and read {', '.join(FORMATS)}")


def torchcodec() -> Iterator[Finding]:
    """Check torchcodec, if it is installed: it reads the other formats with FFmpeg libraries of the system."""
    why = "{version} does not work ({error}): M4A, WebM and video cannot be read"
    do = "install FFmpeg 4 to 8 with its shared libraries (apt install ffmpeg), and a torchcodec that matches torch"
    good = ": M4A, WebM and video through FFmpeg"
    return imported(_import_torchcodec, Finding("note", "torchcodec", why, do), good)


def _import_torchcodec() -> None:
    from torchcodec.decoders import AudioDecoder

    del AudioDecoder
