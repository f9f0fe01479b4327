"""Speech synthesis with espeak-ng, in this process; the library comes with the package ``espeakng-loader``."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from sft_speech.errors import UserError
from sft_speech.machine import installer

ESPEAK_RATE = 22_050  # samples per second of every formant voice of espeak-ng
# The English accents of espeak-ng, without "en-shaw", which reads the Shavian script.
ACCENTS = ("en-us", "en", "en-gb-scotland", "en-029", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-us-nyc")

_OUTPUT_SYNCHRONOUS, _CHARS_UTF8 = 2, 1
_PARAMETERS = {"words_per_minute": 1, "pitch": 3, "pitch_range": 4}  # espeak_PARAMETER in speak_lib.h


@dataclass(frozen=True)
class Voice:
    """A way of speaking.

    Args:
        accent: one of :data:`ACCENTS`.
        variant: timbre, one of :func:`variants`; "" is the plain voice.
        words_per_minute: 80 to 450; people read aloud at about 150 to 200.
        pitch: 0 to 99, 50 is the variant's own.
        pitch_range: 0 (monotone) to 99.
    """

    accent: str = "en-us"
    variant: str = ""
    words_per_minute: int = 170
    pitch: int = 50
    pitch_range: int = 50

    @property
    def name(self) -> str:
        return f"{self.accent}+{self.variant}" if self.variant else self.accent


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    try:
        import espeakng_loader
    except ImportError as error:
        raise UserError(
            "synthetic speech", "the package espeakng-loader is missing", f"{installer()} 'sft_speech[demo]'"
        ) from error
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate = library.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, str(espeakng_loader.get_data_path()).encode(), 0)
    if rate != ESPEAK_RATE:
        raise UserError(
            "synthetic speech", f"espeak-ng did not start (it returned {rate})", f"{installer()} -U espeakng-loader"
        )
    return library


def variants() -> list[str]:
    """Return the timbres that come with espeak-ng (about 100), sorted."""
    import espeakng_loader

    folder = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
    return sorted(path.name for path in folder.iterdir())


def speak(text: str, voice: Voice) -> np.ndarray:
    """Synthesize a text.

    Returns:
        float32 waveform (S,), S samples at :data:`ESPEAK_RATE`, in [-1, 1).
    """
    library, chunks = _library(), []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def receive(samples, count, _events):
        if samples and count > 0:
            chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0

    library.espeak_SetSynthCallback(receive)
    if library.espeak_SetVoiceByName(voice.name.encode()) != 0:
        raise UserError(
            f"voice {voice.name!r}",
            "espeak-ng has no such voice",
            "use an accent from ACCENTS and a variant from variants()",
        )
    for field, code in _PARAMETERS.items():
        library.espeak_SetParameter(code, getattr(voice, field), 0)
    encoded = text.encode()
    library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded) + 1), 0, 0, 0, _CHARS_UTF8, None, None)
    library.espeak_Synchronize()
    samples = np.concatenate(chunks) if chunks else np.zeros(0, np.int16)
    return samples.astype(np.float32) / 32768
