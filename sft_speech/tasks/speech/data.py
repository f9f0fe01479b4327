"""Utterances of a corpus for the collator, and the voices of its speakers.

Legend: S samples, N text tokens, T mel frames, M mel bands, E = 512 of a speaker embedding.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sft_speech.audio import read as audio
from sft_speech.corpora.headers import key_of
from sft_speech.errors import UserError, concerning
from sft_speech.files import open_whole
from sft_speech.tasks.speech.speakers import SpeakerEncoder, Speakers
from sft_speech.text.counted import counted

if TYPE_CHECKING:
    from datasets import Dataset

    from sft_speech.tasks.speech.checkpoint import SpeechCheckpoint

logger = logging.getLogger(__name__)

UTTERANCES_PER_VOICE = 20  # more hardly change its mean embedding, and each must be decoded before training starts
PEAK = 0.95  # of full scale, for every recording, so that the model does not learn their loudness


def clean(waveform: np.ndarray, trim_db: float | None) -> np.ndarray:
    """Trim silence at both ends and bring the peak to :data:`PEAK`.

    Args:
        waveform: float32 (S,).
        trim_db: frames this many dB below the loudest one are silence (librosa's ``trim``); None keeps them.
    """
    if trim_db is not None:
        import librosa

        waveform, _ = librosa.effects.trim(waveform, top_db=trim_db)
    peak = np.abs(waveform).max(initial=0.0)
    return (waveform * (PEAK / peak)).astype(np.float32) if peak > 0 else waveform


class Utterances(torch.utils.data.Dataset):
    """Text tokens, log-mels and speaker embeddings of the rows of a corpus, made on demand.

    Args:
        rows: a corpus with normalized texts.
        checkpoint: makes tokens and mels; the model is not kept, so that a loader's workers get no copy of it.
        voices: voices of the corpus's speakers.
        trim_db: see :func:`clean`.
    """

    def __init__(self, rows: Dataset, checkpoint: SpeechCheckpoint, voices: Speakers, trim_db: float | None) -> None:
        self.rows, self.voices, self.trim_db = rows, voices, trim_db
        self.tokenizer, self.extractor = checkpoint.tokenizer, checkpoint.extractor
        self.step = checkpoint.config.reduction_factor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any] | None:
        """Return an utterance by (epoch, index); None if its audio cannot be read."""
        epoch, index = key
        row = self.rows[index]
        with concerning(f"utterance {row['id']}"):
            return self._utterance(row, epoch)

    def _utterance(self, row: dict[str, Any], epoch: int) -> dict[str, Any] | None:
        rate = self.extractor.sampling_rate
        inputs, waveform = self.inputs(row, epoch), self.recording(row)
        if inputs is None or waveform is None:
            return None
        spectrogram = self.extractor(audio_target=waveform, sampling_rate=rate)["input_values"][0]
        if len(spectrogram) < self.step:
            logger.warning("utterance %s is left out: it is too short after silence was trimmed", row["id"])
            return None
        return inputs | {
            "id": row["id"],
            "spectrogram": np.asarray(spectrogram, np.float32),
            "speaker": self.voices[voice_name(row["speaker"])],
            "seconds": len(waveform) / rate,
        }

    def inputs(self, row: dict[str, Any], epoch: int) -> dict[str, Any] | None:
        """Return the encoder's input, as the collator takes it; None if it cannot be read."""
        return {"tokens": self.tokenizer(row["text"])["input_ids"]}

    def recording(self, row: dict[str, Any]) -> np.ndarray | None:
        """Return the cleaned recording (S,) of a row; None if it cannot be read."""
        return _recording(row, self.extractor.sampling_rate, self.trim_db)


def _recording(row: dict[str, Any], rate: int, trim_db: float | None) -> np.ndarray | None:
    try:
        return clean(audio.read_row(row, rate), trim_db)
    except audio.AudioError as error:
        logger.warning("utterance %s is left out: %s", row["id"], error)
        return None


def voice_name(speaker: str | None) -> str:
    """Return the name of a speaker's voice; a corpus without speakers is treated as one voice."""
    return speaker or "speaker"


def voices_of(
    corpora: Iterable[Dataset], encoder: SpeakerEncoder, rate: int, size: int, trim_db: float | None
) -> Speakers:
    """Return the mean embedding of each speaker over up to :data:`UTTERANCES_PER_VOICE` utterances, evenly spaced.

    Embeddings of utterances are cached beside the cache of ``datasets`` until their files change.

    Args:
        corpora: usable rows of each split.
        encoder: makes embeddings (E,).
        rate: samples per second that the encoder takes.
        size: E.
        trim_db: see :func:`clean`.

    Raises:
        UserError: no recording of a speaker can be read, or the encoder's embeddings have another size.
    """
    embedded: list[tuple[str, torch.Tensor]] = []
    for rows in corpora:
        speakers = [voice_name(speaker) for speaker in rows["speaker"]]
        for name in sorted(set(speakers)):
            own = [index for index, speaker in enumerate(speakers) if speaker == name]
            chosen = [own[i] for i in np.linspace(0, len(own) - 1, min(len(own), UTTERANCES_PER_VOICE)).astype(int)]
            tried = (_embedding(rows[index], encoder, rate, size, trim_db) for index in chosen)
            found = [one for one in tried if one is not None]
            if not found:
                raise UserError(f"speaker {name}", "none of its recordings could be read", "see the messages above")
            if found[0].shape != (size,):
                why = f"its embeddings have {len(found[0])} numbers, the model takes {size}"
                raise UserError(f"speaker_encoder {encoder.name}", why, "take another encoder")
            embedded += [(name, one) for one in found]
    voices = Speakers.average(embedded, size, encoder.name)
    logger.info("%s, embedded by %s", counted(len({name for name, _ in embedded}), "voice"), encoder.name)
    return voices


def _embedding(
    row: dict[str, Any], encoder: SpeakerEncoder, rate: int, size: int, trim_db: float | None
) -> torch.Tensor | None:
    """Return the embedding of a row, from the cache if it is there; None if its recording cannot be read."""
    path = row["audio"]["path"]
    cached = None
    if path and os.path.isfile(path):
        import datasets

        status = os.stat(path)
        parts = (
            path,
            status.st_size,
            status.st_mtime_ns,
            row["start"],
            row["seconds"],
            row.get("channel"),
            encoder.name,
            size,
            trim_db,
        )
        cached = Path(datasets.config.HF_DATASETS_CACHE) / "sft_speech" / "voices" / f"{key_of(*parts):016x}.npy"
        if cached.is_file():
            try:
                return torch.from_numpy(np.load(cached, allow_pickle=False))
            except (OSError, ValueError):  # truncated
                logger.warning("%s cannot be read and is computed again", cached)
    waveform = _recording(row, rate, trim_db)
    if waveform is None:
        return None
    embedding = encoder(waveform)
    if cached is not None:
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            with open_whole(cached) as file:
                np.save(file, embedding.numpy())
        except OSError as error:
            logger.warning("%s cannot be written (%s): the next run computes it again", cached, error)
    return embedding
