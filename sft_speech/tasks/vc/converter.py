"""Say recordings of any length again in another voice."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import SpeechT5ForSpeechToSpeech

from sft_speech.audio import read as audio
from sft_speech.audio.read import AudioError, quietest
from sft_speech.audio.units import samples_of
from sft_speech.errors import UserError
from sft_speech.tasks.speech.checkpoint import SpeechCheckpoint, load_speech_checkpoint
from sft_speech.tasks.speech.data import clean
from sft_speech.tasks.speech.generator import Speech, SpeechGenerator

logger = logging.getLogger(__name__)

# A piece of a recording at a time, cut where it is quietest: attention of SpeechT5 loses its way in long ones.
PIECE_SECONDS = 15.0
# Mel frames at most, as a multiple of the recording's own: what goes on for longer has lost its end.
LONGER = 2.0
SHORTEST_SECONDS = 0.1
TRIM_DB = 40.0  # as in training by default


class VoiceConverter(SpeechGenerator):
    """A model that says what it hears in another voice.

    ``VoiceConverter("my_model")("hello.wav", speaker="anna").save("anna.wav")``

    Args:
        model: directory of a SpeechT5 that converts speech, or its id on the Hub.
        vocoder, speaker_encoder, device, seed, allow_pickle: see
            :class:`~sft_speech.tasks.speech.generator.SpeechGenerator`.

    Raises:
        UserError: no such model or vocoder; no such device.
    """

    def __init__(self, model: str | Path | SpeechCheckpoint, vocoder: str | None = None, **settings: Any) -> None:
        loaded = model
        if not isinstance(loaded, SpeechCheckpoint):
            loaded = load_speech_checkpoint(
                loaded, kind=SpeechT5ForSpeechToSpeech, allow_pickle=settings.get("allow_pickle", False)
            )
        super().__init__(loaded, vocoder, **settings)

    def __call__(self, recording: str | Path | tuple[np.ndarray, int], speaker: Any = None) -> Speech:
        """Converts a recording; its level is that of training, silence at its ends is left out.

        Args:
            recording: a sound file, or float32 (S,) and its samples per second.
            speaker: see :meth:`~sft_speech.tasks.speech.generator.SpeechGenerator.voice`.

        Raises:
            UserError: it can't be read, holds a tenth of a second or less; no such voice.
        """
        shown = str(recording) if isinstance(recording, str | Path) else "the recording"
        speech = self.convert(self._read(recording, shown), speaker)
        if not len(speech.waveform):
            raise UserError(shown, speech.problem, "give one with speech")
        if speech.problem:
            logger.warning("%s: %s", shown, speech.problem)
        return speech

    def convert(self, waveform: np.ndarray, speaker: Any = None) -> Speech:
        """Converts (S,) at the model's rate; what can't be converted gives a speech of no samples that says why.

        Raises:
            UserError: no such voice.
        """
        voice, waveform = self.voice(speaker), clean(waveform, TRIM_DB)
        if len(waveform) < samples_of(SHORTEST_SECONDS, self.rate) or not waveform.any():
            why = f"{len(waveform) / self.rate:.2f} s of sound in it" if waveform.any() else "it is silent"
            return Speech(np.zeros(0, np.float32), self.rate, "", "", why)
        parts, problems = [], []
        for piece in pieces(waveform, self.rate):
            heard: Any = self.checkpoint.extractor(audio=piece, sampling_rate=self.rate, return_tensors="pt")
            inputs = heard["input_values"].float()
            limit = int(LONGER * self.checkpoint.frames(len(piece)))
            # All of it: transformers' own mask leaves out samples of the value of its padding token, 1.
            ((part, ended),) = self.generate(inputs, torch.ones(inputs.shape, dtype=torch.long), voice, [limit])
            parts.append(part)
            if not ended:
                problems.append(f"a piece did not come to an end and was cut at {len(part) / self.rate:.1f} s")
        return Speech(np.concatenate(parts).clip(-1, 1), self.rate, "", "", "; ".join(problems))

    def _read(self, recording: str | Path | tuple[np.ndarray, int], shown: str) -> np.ndarray:
        """(S,) at the model's rate."""
        if isinstance(recording, str | Path):
            try:
                return audio.read(recording, self.rate)
            except AudioError as error:
                raise UserError(shown, str(error), "give a recording that can be played") from error
        waveform, rate = recording
        if rate != self.rate:
            import soxr

            waveform = soxr.resample(waveform, rate, self.rate)
        return np.asarray(waveform, np.float32)


def pieces(waveform: np.ndarray, rate: int) -> list[np.ndarray]:
    """Cuts (S,) into parts of at most :data:`PIECE_SECONDS`, each at the quietest place of its second half.

    The last one is a second long at least: what is left of a word is no speech to convert.
    """
    longest, found = samples_of(PIECE_SECONDS, rate), []
    while len(waveform) > longest:
        cut = longest // 2 + quietest(waveform[longest // 2 : min(longest, len(waveform) - rate)], rate)
        found.append(waveform[:cut])
        waveform = waveform[cut:]
    return [*found, waveform]
