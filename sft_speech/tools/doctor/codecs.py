"""What kinds of audio can be read here: each is written and read again."""

from __future__ import annotations

import io
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from sft_speech.tools.doctor.finding import Finding, apart, first_line

KINDS = {"WAV": "PCM_16", "FLAC": "PCM_16", "OGG": "VORBIS", "OGG Opus": "OPUS", "MP3": "MPEG_LAYER_III"}


def libsndfile() -> Iterator[Finding]:
    """The library that reads nearly everything, asked to do it through ours."""
    import numpy as np
    import soundfile

    from sft_speech.audio import read as audio

    second = (0.5 * np.sin(np.arange(16_000) * 0.2)).astype(np.float32)
    failed = []
    for kind, subtype in KINDS.items():
        encoded = io.BytesIO()
        try:
            soundfile.write(encoded, second, 16_000, format=kind.split()[0], subtype=subtype)
            heard = audio.read({"path": None, "bytes": encoded.getvalue()}, 16_000)
        except (soundfile.SoundFileError, audio.AudioError, ValueError) as error:
            failed.append(f"{kind} ({first_line(error)})")
            continue
        if not 0.9 < len(heard) / len(second) < 1.2 or np.abs(heard).max() < 0.3:
            failed.append(f"{kind} (comes back as something else)")
    said = f"{soundfile.__libsndfile_version__} (soundfile {soundfile.__version__})"
    if failed:
        do = "pip install --force-reinstall soundfile: its wheel brings a whole libsndfile"
        yield Finding("fault", "libsndfile", f"{said} can't do {', '.join(failed)}", do)
    else:
        yield Finding("ok", "libsndfile", f"{said}: {', '.join(KINDS)} written and read again")


def torchcodec() -> Iterator[Finding]:
    """What reads the rest, where it is installed; it needs FFmpeg's libraries of the system."""
    try:
        found = version("torchcodec")
    except PackageNotFoundError:
        return  # told among the extras
    try:
        apart(_import_torchcodec)
    except Exception as error:  # RuntimeError without FFmpeg, ImportError, OSError
        do = "install FFmpeg 4 to 8 with its shared libraries (apt install ffmpeg), and a torchcodec that fits torch"
        why = f"{found} does not work ({first_line(error)}), so no M4A, WebM, video"
        yield Finding("note", "torchcodec", why, do)
    else:
        yield Finding("ok", "torchcodec", f"{found}: M4A, WebM and video through FFmpeg")


def _import_torchcodec() -> None:
    from torchcodec.decoders import AudioDecoder

    del AudioDecoder
