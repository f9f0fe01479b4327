"""What speaks, whether it is given texts or recordings: the model, its vocoder, its voices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sft_speech.audio import read as audio
from sft_speech.audio.codecs import AUDIO_SUFFIXES
from sft_speech.audio.read import AudioError
from sft_speech.errors import UserError
from sft_speech.models.load import chosen_device
from sft_speech.tasks.speech.checkpoint import SpeechCheckpoint
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


@dataclass(frozen=True)
class Speech:
    """What was said.

    Args:
        waveform: float32 (S,) in [-1, 1].
        rate: samples per second.
        text: as given; "" for a converted recording.
        said: as the model was given it: numbers spelt out, characters that it lacks left out.
        problem: why it is not, or not all, what was asked for; "" else.
    """

    waveform: np.ndarray
    rate: int
    text: str
    said: str
    problem: str = ""

    @property
    def seconds(self) -> float:
        return len(self.waveform) / self.rate

    def save(self, path: str | Path) -> None:
        """Writes a sound file of 16 bits, its format by its name (``.wav``, ``.flac``, ``.ogg``).

        Raises:
            UserError: it can't be written.
        """
        import soundfile

        try:
            soundfile.write(
                path, self.waveform, self.rate, "PCM_16" if Path(path).suffix in (".wav", ".flac") else None
            )
        except (OSError, ValueError, TypeError, soundfile.LibsndfileError) as error:
            why = f"it can't be written ({str(error).splitlines()[0].rstrip('.')})"
            raise UserError(str(path), why, "name a .wav, .flac or .ogg file in a folder that is there") from error


class SpeechGenerator:
    """A SpeechT5 that is told what to say in which voice.

    Args:
        checkpoint: put on the device.
        vocoder: directory or id of a ``SpeechT5HifiGan``; without one, Griffin-Lim.
        speaker_encoder: x-vector model that turns reference recordings into embeddings; by default the one that made
            the model's own voices.
        device: "cpu", "cuda", ...; a GPU if there is one.
        seed: another one says the same a little differently.
        allow_pickle: read pickled weights of directories that are named here; see
            :func:`~sft_speech.models.load.how_to_read_weights`.
    Raises:
        UserError: no such vocoder; no such device.
    """

    def __init__(
        self,
        checkpoint: SpeechCheckpoint,
        vocoder: str | None = None,
        *,
        speaker_encoder: str | None = None,
        device: str | torch.device | None = None,
        seed: int = 0,
        allow_pickle: bool = False,
    ) -> None:
        self.checkpoint, self.device, self.seed = checkpoint, chosen_device(device), seed
        module: torch.nn.Module = checkpoint.model
        module.to(self.device).eval()
        self.vocoder = load_vocoder(vocoder, checkpoint.extractor, self.device, allow_pickle)
        self.encoder_name, self.allow_pickle = speaker_encoder, allow_pickle
        self._encoder: SpeakerEncoder | None = None

    @property
    def rate(self) -> int:
        """Samples per second of what it says."""
        return self.checkpoint.rate

    def voice(self, speaker: Any) -> Tensor:
        """The embedding (E,) of what names or is a voice.

        Args:
            speaker: name of a voice saved with the model; path of an embedding (.npy, .safetensors) or of a recording
                of half a second or more; an embedding (E,). None: the model's only voice, or the mean of all.

        Raises:
            UserError: no such voice.
        """
        known, size = self.checkpoint.speakers, self.checkpoint.config.speaker_embedding_dim
        if speaker is None:
            if MEAN in known or len(known) == 1:
                return known[MEAN if MEAN in known else next(iter(known))]
            do = f"name one of {', '.join(sorted(known)[:10])}" if known else "give an embedding file or a recording"
            raise UserError("no speaker", f"the model has {len(known)} voices", do)
        if not isinstance(speaker, str | Path):
            return checked(speaker, size, "the speaker embedding")
        if str(speaker) in known:
            return known[str(speaker)]
        path = Path(speaker)
        if path.suffix in (".npy", ".safetensors"):
            return read_embedding(path, size)
        if path.suffix.lower() in AUDIO_SUFFIXES:
            try:
                waveform = audio.read(path, self.checkpoint.rate)
            except AudioError as error:
                raise UserError(str(path), str(error), "give a recording that can be played") from error
            return embed_reference(self.encoder(), waveform, self.checkpoint.rate, str(path), size)
        return known[str(speaker)]

    def encoder(self) -> SpeakerEncoder:
        """What turns reference recordings into embeddings of the model's kind."""
        if self._encoder is None:
            name = self.encoder_name or self.checkpoint.speakers.encoder
            if name == MelStatistics.name:
                self._encoder = MelStatistics(self.checkpoint.mels, self.checkpoint.config.speaker_embedding_dim)
            elif name:
                # one that only the model's files name was named by nobody here
                self._encoder = XVectors(name, self.device, self.allow_pickle and bool(self.encoder_name))
            else:
                do = "give --speaker_encoder MODEL, the x-vector model that it was trained with"
                raise UserError("a reference recording", "the model doesn't say what made its embeddings", do)
        return self._encoder

    def generate(
        self, inputs: Tensor, mask: Tensor, voice: Tensor, limits: Sequence[int]
    ) -> list[tuple[np.ndarray, bool]]:
        """Waveforms (S,), and whether each came to an end by itself; those that didn't are cut.

        Args:
            inputs, mask: (B, N) tokens or samples.
            voice: (E,).
            limits: of B clips, mel frames at most.
        """
        config = self.checkpoint.config
        step = config.reduction_factor
        most = self.checkpoint.max_frames - 2 * step  # the first position is that of the start
        # Frames this near to a cut have heard what comes behind it, which depends on the others in the batch.
        reach = config.speech_decoder_postnet_layers * (config.speech_decoder_postnet_kernel // 2)
        limits = [max(step, min(limit, most) // step * step) for limit in limits]
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.seed)
            model: Any = self.checkpoint.model
            spectrograms, lengths = model.generate_speech(
                inputs.to(self.device),
                voice.expand(len(inputs), -1).to(self.device),
                mask.to(self.device),
                # Above the limit: it is rounded down.
                maxlenratio=(max(limits) + 0.5) / self.checkpoint.encoder_steps(inputs.shape[1]),
                return_output_lengths=True,
            )
        found = []
        for spectrogram, length, limit in zip(spectrograms, lengths, limits, strict=True):
            ended = int(length) < limit
            own = spectrogram[: int(length) if ended else max(step, limit - reach)].float().cpu()
            found.append((self.vocoder(own), ended))
        return found
