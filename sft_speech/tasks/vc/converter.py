"""Conversion of recordings of any length to another voice."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from transformers import SpeechT5ForSpeechToSpeech

from sft_speech.audio.read import quietest
from sft_speech.audio.units import samples_of
from sft_speech.errors import UserError
from sft_speech.inference.clips import Audio
from sft_speech.tasks.speech.data import clean
from sft_speech.tasks.speech.generator import Part, Speech, SpeechGenerator, Voice

logger = logging.getLogger(__name__)

PIECE_SECONDS = 15.0  # longer recordings are cut: the attention of SpeechT5 fails on long ones
# Longest conversion: so many times the source, and a little more; a longer one has missed its end.
MAX_STRETCH, GRACE_SECONDS = 2.0, 0.5
END_SECONDS = 0.1  # at the end of a source, when the attention has reached its end
SHORTEST_SECONDS = 0.1
TRIM_DB = 40.0  # the default of training


class VoiceConverter(SpeechGenerator):
    """A model that converts speech to another voice: ``VoiceConverter("my_model")("a.wav", "anna").save("b.wav")``.

    Args:
        model: directory of a SpeechT5 for voice conversion, or its id on the Hub.
        vocoder, speaker_encoder, device, seed, allow_pickle: see
            :class:`~sft_speech.tasks.speech.generator.SpeechGenerator`.

    Raises:
        UserError: there is no such model, vocoder or device.
    """

    kind = SpeechT5ForSpeechToSpeech
    source = "recording"

    def __call__(self, recording: Audio, speaker: Voice | None = None) -> Speech:
        """Convert a recording: silence at its ends is trimmed, and its peak is set to the level of training.

        Args:
            recording: a path, bytes, array or row of a dataset, see :data:`~sft_speech.inference.clips.Audio`.
            speaker: see :meth:`~sft_speech.tasks.speech.generator.SpeechGenerator.voice`.

        Raises:
            UserError: it cannot be read, is silent or too short, or there is no such voice.
        """
        waveform, _, shown = self.read(recording)
        speech = self.convert(waveform, speaker)
        if not len(speech.waveform):
            raise UserError(shown, speech.problem, "give a recording of speech")
        if speech.problem:
            logger.warning("%s: %s", shown, speech.problem)
        return speech

    def convert(self, waveform: np.ndarray, speaker: Voice | None = None) -> Speech:
        """Convert a waveform (S,) at the model's rate; if that is impossible, the speech is empty and says why.

        Raises:
            UserError: there is no such voice.
        """
        voice, waveform = self.voice(speaker), clean(waveform, TRIM_DB)
        if len(waveform) < samples_of(SHORTEST_SECONDS, self.rate) or not waveform.any():
            why = f"{len(waveform) / self.rate:.2f} s of sound are too short" if waveform.any() else "it is silent"
            return Speech(np.zeros(0, np.float32), self.rate, problem=why)
        parts: list[Part] = []
        problems = []
        for piece in pieces(waveform, self.rate):
            features: Any = self.checkpoint.extractor(audio=piece, sampling_rate=self.rate, return_tensors="pt")
            inputs = features["input_values"].float()
            limit = MAX_STRETCH * len(piece) / self.rate + GRACE_SECONDS
            last = max(1, self.checkpoint.encoder_steps(len(piece) - samples_of(END_SECONDS, self.rate)))
            # An explicit mask: that of transformers would exclude samples equal to its padding token, 1.
            (part,) = self.generate(inputs, torch.ones(inputs.shape, dtype=torch.long), voice, [last], [limit])
            parts.append(part)
            if part.was_cut:
                problems.append(f"a piece was {part.why}")
        waveform = np.concatenate([part.waveform for part in parts]).clip(-1, 1)
        return Speech(waveform, self.rate, problem="; ".join(problems), parts=tuple(parts))


def pieces(waveform: np.ndarray, rate: int) -> list[np.ndarray]:
    """Cut (S,) into parts of at most :data:`PIECE_SECONDS`, at the quietest point of the second half of each.

    The last part has at least a second, so that it is not a fragment of a word.
    """
    longest, found = samples_of(PIECE_SECONDS, rate), []
    while len(waveform) > longest:
        cut = longest // 2 + quietest(waveform[longest // 2 : min(longest, len(waveform) - rate)], rate)
        found.append(waveform[:cut])
        waveform = waveform[cut:]
    return [*found, waveform]
