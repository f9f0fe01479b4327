"""The parts that synthesis and voice conversion share: the model, its vocoder, its voices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sft_speech.audio.codecs import AUDIO_SUFFIXES
from sft_speech.audio.read import AudioError
from sft_speech.errors import UserError
from sft_speech.inference.clips import Audio, recording_of
from sft_speech.models.load import chosen_device
from sft_speech.tasks.speech.checkpoint import Model, SpeechCheckpoint, load_speech_checkpoint
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
class Speech:
    """Generated speech.

    Args:
        waveform: float32 (S,) in [-1, 1].
        rate: samples per second.
        text: the given text; "" for a conversion.
        normalized: the text as passed to the model: numbers spelled out, without characters that it lacks.
        problem: why something is missing or was cut; "" if nothing is.
    """

    waveform: np.ndarray
    rate: int
    text: str = ""
    normalized: str = ""
    problem: str = ""

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
        self, inputs: Tensor, mask: Tensor, voice: Tensor, limits: Sequence[int]
    ) -> list[tuple[np.ndarray, bool]]:
        """Return waveforms (S,), and whether each ended before its limit; the others are cut.

        Args:
            inputs, mask: (B, N) tokens or samples.
            voice: (E,).
            limits: limit of each utterance, in mel frames.
        """
        config = self.checkpoint.config
        step = config.reduction_factor
        most = self.checkpoint.max_frames - 2 * step  # the first position is that of the start frame
        # Through the postnet, this many frames before a cut depend on those after it, and so on the rest of the batch.
        reach = config.speech_decoder_postnet_layers * (config.speech_decoder_postnet_kernel // 2)
        limits = [max(step, min(limit, most) // step * step) for limit in limits]
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.seed)
            model: Any = self.checkpoint.model
            spectrograms, lengths = model.generate_speech(
                inputs.to(self.device),
                voice.expand(len(inputs), -1).to(self.device),
                mask.to(self.device),
                # transformers rounds the limit down.
                maxlenratio=(max(limits) + 0.5) / self.checkpoint.encoder_steps(inputs.shape[1]),
                return_output_lengths=True,
            )
        found = []
        for spectrogram, length, limit in zip(spectrograms, lengths, limits, strict=True):
            ended = int(length) < limit
            own = spectrogram[: int(length) if ended else max(step, limit - reach)].float().cpu()
            found.append((self.vocoder(own), ended))
        return found
