"""The parts that synthesis and voice conversion share: the model, its vocoder, its voices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sft_speech.audio.codecs import AUDIO_SUFFIXES
from sft_speech.audio.read import AudioError
from sft_speech.errors import UserError
from sft_speech.inference.clips import Audio, recording_of
from sft_speech.models.load import chosen_device
from sft_speech.tasks.speech.checkpoint import Model, SpeechCheckpoint, load_speech_checkpoint
from sft_speech.tasks.speech.decoding import decode
from sft_speech.tasks.speech.progress import CUT, WHY, Ending, Progress
from sft_speech.tasks.speech.speakers import (
    MEAN,
    MelStatistics,
    SpeakerEncoder,
    XVectors,
    checked,
    embed_reference,
    read_embedding,
)
from sft_speech.tasks.speech.vocoder import load_vocoder

Voice = Audio | np.ndarray | Tensor | list[float]  # see SpeechGenerator.voice


@dataclass(frozen=True)
class Part:
    """Speech that was generated in one go: a piece of the input.

    Args:
        waveform: float32 (S,).
        rate: samples per second.
        ending: why it ends.
        source: what the input is: "text" or "recording".
        spectrogram: log10 mels (T, M).
        attention: (D, N) what each decoder step attended to; D may go beyond the end of the spectrogram.
    """

    waveform: np.ndarray
    rate: int
    ending: Ending
    source: str
    spectrogram: np.ndarray
    attention: np.ndarray

    @property
    def was_cut(self) -> bool:
        """Whether it did not end by itself."""
        return self.ending in CUT

    @property
    def why(self) -> str:
        """Why it ends, in words."""
        return WHY[self.ending].format(seconds=len(self.waveform) / self.rate, source=self.source)


@dataclass(frozen=True)
class Speech:
    """Generated speech.

    Args:
        waveform: float32 (S,) in [-1, 1].
        rate: samples per second.
        text: the given text; "" for a conversion.
        normalized: the text as passed to the model: numbers spelled out, without characters that it lacks.
        problem: why something is missing or was cut; "" if nothing is.
        parts: the pieces that it was joined from.
    """

    waveform: np.ndarray
    rate: int
    text: str = ""
    normalized: str = ""
    problem: str = ""
    parts: tuple[Part, ...] = field(default=(), repr=False)

    @property
    def ending(self) -> str:
        """Why it ends, in words; several pieces are counted."""
        counts = Counter(part.why for part in self.parts)
        return "; ".join(f"{count} pieces {why}" if count > 1 else why for why, count in counts.items())

    @property
    def seconds(self) -> float:
        return len(self.waveform) / self.rate

    def save(self, path: str | Path) -> None:
        """Write a 16-bit sound file in the format of its suffix (``.wav``, ``.flac``, ``.ogg``).

        Raises:
            UserError: it cannot be written.
        """
        import soundfile

        try:
            soundfile.write(
                path, self.waveform, self.rate, "PCM_16" if Path(path).suffix in (".wav", ".flac") else None
            )
        except (OSError, ValueError, TypeError, soundfile.LibsndfileError) as error:
            why = f"it cannot be written ({str(error).splitlines()[0].rstrip('.')})"
            raise UserError(str(path), why, "name a .wav, .flac or .ogg file in an existing folder") from error


class SpeechGenerator:
    """A SpeechT5 that generates speech in a given voice.

    Speech ends with the stop signal of the model, or when its attention has reached the end of the input. It is cut,
    and its ``problem`` says so, when the attention goes no further, and when it is too long for the input.

    Args:
        model: directory of a model, or its id on the Hub.
        vocoder: directory or id of a ``SpeechT5HifiGan``; without one, Griffin-Lim.
        speaker_encoder: x-vector model for reference recordings; by default the one that made the model's voices.
        device: "cpu", "cuda", ...; a GPU if there is one.
        seed: seed of the decoder's dropout, which is active in generation: another seed varies the speech a little.
        allow_pickle: read pickled weights from the directories that are named here; see
            :func:`~sft_speech.models.load.how_to_read_weights`.

    Raises:
        UserError: there is no such model, vocoder or device.
    """

    kind: type[Model]
    source: str  # what is spoken, for messages
    max_seconds: float | None = None  # limit of each piece; samples during training set it

    def __init__(
        self,
        model: str | Path | SpeechCheckpoint,
        vocoder: str | None = None,
        *,
        speaker_encoder: str | None = None,
        device: str | torch.device | None = None,
        seed: int = 0,
        allow_pickle: bool = False,
    ) -> None:
        checkpoint = model
        if not isinstance(checkpoint, SpeechCheckpoint):
            checkpoint = load_speech_checkpoint(checkpoint, kind=self.kind, allow_pickle=allow_pickle)
        self.checkpoint, self.device, self.seed = checkpoint, chosen_device(device), seed
        module: torch.nn.Module = checkpoint.model
        module.to(self.device).eval()
        self.vocoder = load_vocoder(vocoder, checkpoint.extractor, self.device, allow_pickle)
        self.encoder_name, self.allow_pickle = speaker_encoder, allow_pickle
        self._encoder: SpeakerEncoder | None = None

    @property
    def rate(self) -> int:
        """Samples per second."""
        return self.checkpoint.rate

    def voice(self, speaker: Voice | None) -> Tensor:
        """Return a speaker embedding (E,).

        Args:
            speaker: name of a voice of the model; path of an embedding (.npy, .safetensors); an embedding (E,); or a
                recording of half a second or more, see :data:`~sft_speech.inference.clips.Audio`. None: the model's
                only voice, or the mean of its voices.

        Raises:
            UserError: there is no such voice.
        """
        known, size = self.checkpoint.speakers, self.checkpoint.config.speaker_embedding_dim
        if speaker is None:
            if MEAN in known or len(known) == 1:
                return known[MEAN if MEAN in known else next(iter(known))]
            do = f"name one of {', '.join(sorted(known)[:10])}" if known else "give an embedding file or a recording"
            raise UserError("no speaker", f"the model has {len(known)} voices", do)
        if isinstance(speaker, np.ndarray | Tensor | list):
            return checked(speaker, size, "the speaker embedding")
        if isinstance(speaker, str | Path):
            suffix = Path(speaker).suffix
            if str(speaker) not in known and suffix in (".npy", ".safetensors"):
                return read_embedding(speaker, size)
            if str(speaker) in known or suffix.lower() not in AUDIO_SUFFIXES:
                return known[str(speaker)]
        return embed_reference(self.encoder(), *self.read(speaker), size)

    def read(self, audio: Audio) -> tuple[np.ndarray, int, str]:
        """Return a recording as float32 (S,) at the model's rate, that rate, and the recording's name for messages.

        Raises:
            UserError: it cannot be read.
        """
        recording = recording_of(audio, self.rate)
        name = recording.name or "the recording"
        try:
            return recording.waveform(self.rate), self.rate, name
        except AudioError as error:
            raise UserError(name, str(error), "give a recording that can be played") from error

    def encoder(self) -> SpeakerEncoder:
        """Return the encoder that reference recordings need."""
        if self._encoder is None:
            name = self.encoder_name or self.checkpoint.speakers.encoder
            if name == MelStatistics.name:
                self._encoder = MelStatistics(self.checkpoint.mels, self.checkpoint.config.speaker_embedding_dim)
            elif name:
                # allow_pickle does not apply to an encoder that only the model's files name.
                self._encoder = XVectors(name, self.device, self.allow_pickle and bool(self.encoder_name))
            else:
                do = "give --speaker_encoder MODEL, the x-vector model that it was trained with"
                raise UserError("a reference recording", "the model does not name the encoder of its voices", do)
        return self._encoder

    def generate(
        self, inputs: Tensor, mask: Tensor, voice: Tensor, lasts: Sequence[int], limits: Sequence[float]
    ) -> list[Part]:
        """Generate a batch.

        Args:
            inputs, mask: (B, N) tokens or (B, S) samples.
            voice: (E,).
            lasts: encoder step of each utterance from which on there is nothing more to speak.
            limits: longest speech of each utterance, in seconds.
        """
        config = self.checkpoint.config
        step = config.reduction_factor * self.checkpoint.extractor.sample_stride / self.rate  # seconds
        progress = []
        for last, limit in zip(lasts, limits, strict=True):
            most = min(limit, self.max_seconds or limit)
            steps = max(1, min(int(most / step), config.max_speech_positions))
            progress.append(Progress(last if config.use_guided_attention_loss else None, steps, step))
        inputs, mask, voice = inputs.to(self.device), mask.to(self.device), voice.to(self.device)
        return [
            Part(
                self.vocoder(one.spectrogram),
                self.rate,
                one.ending,
                self.source,
                one.spectrogram.cpu().numpy(),
                one.attention,
            )
            for one in decode(self.checkpoint, inputs, mask, voice, progress, self.seed)
        ]
