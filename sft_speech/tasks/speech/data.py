"""From rows of a corpus to what the collator takes, and the voices of its speakers.

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

if TYPE_CHECKING:
    from datasets import Dataset

    from sft_speech.tasks.speech.checkpoint import SpeechCheckpoint

logger = logging.getLogger(__name__)

# A voice is known by the mean of so many utterances: more change it by little, and each costs decoding before step 1.
UTTERANCES_PER_VOICE = 20
PEAK = 0.95  # of full scale: level of every recording, so that loudness is not learned from who recorded how


def clean(waveform: np.ndarray, trim_db: float | None) -> np.ndarray:
    """Cuts silence off both ends and brings the peak to :data:`PEAK`.

    Args:
        waveform: float32 (S,).
        trim_db: what is so many dB below the loudest frame is silence (librosa's ``trim``); None keeps it.
    """
    if trim_db is not None:
        import librosa

        waveform, _ = librosa.effects.trim(waveform, top_db=trim_db)
    peak = np.abs(waveform).max(initial=0.0)
    return (waveform * (PEAK / peak)).astype(np.float32) if peak > 0 else waveform


class SpokenUtterances(torch.utils.data.Dataset):
    """Rows of a corpus as text tokens, log-mels and the voice that speaks, made when asked for.

    Args:
        rows: a corpus whose texts are written for the checkpoint.
        checkpoint: gives tokens and mels; a loader's worker gets a copy without the model.
        voices: of the corpus's speakers.
        trim_db: see :func:`clean`.
    """

    def __init__(self, rows: Dataset, checkpoint: SpeechCheckpoint, voices: Speakers, trim_db: float | None) -> None:
        self.rows, self.voices, self.trim_db = rows, voices, trim_db
        self.tokenizer, self.extractor = checkpoint.tokenizer, checkpoint.extractor
        self.step = checkpoint.config.reduction_factor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any] | None:
        """An utterance by (epoch, index), or None where its audio can't be read after all."""
        row = self.rows[key[1]]
        with concerning(f"utterance {row['id']}"):
            return self._made_of(row, key)

    def _made_of(self, row: dict[str, Any], key: tuple[int, int]) -> dict[str, Any] | None:
        rate = self.extractor.sampling_rate
        given, waveform = self.given(key, row), self.recording(row)
        if given is None or waveform is None:
            return None
        spectrogram = self.extractor(audio_target=waveform, sampling_rate=rate)["input_values"][0]
        if len(spectrogram) < self.step:
            logger.warning("utterance %s left out: nothing of it is loud enough", row["id"])
            return None
        return given | {
            "id": row["id"],
            "spectrogram": np.asarray(spectrogram, np.float32),
            "speaker": self.voices[voice_name(row["speaker"])],
            "seconds": len(waveform) / rate,
        }

    def given(self, key: tuple[int, int], row: dict[str, Any]) -> dict[str, Any] | None:
        """What the model makes speech of; None where it can't be read."""
        return {"tokens": self.tokenizer(row["text"])["input_ids"]}

    def recording(self, row: dict[str, Any]) -> np.ndarray | None:
        """The cleaned recording (S,) of a row; None where it can't be read."""
        try:
            waveform = audio.read(
                row["audio"], self.extractor.sampling_rate, start=row["start"], seconds=row["seconds"]
            )
        except audio.AudioError as error:
            logger.warning("utterance %s left out: %s", row["id"], error)
            return None
        return clean(waveform, self.trim_db)


def voice_name(speaker: str | None) -> str:
    """The name of a row's voice among the saved ones; where a corpus names no speakers it is taken for one voice."""
    return speaker or "speaker"


def voices_of(
    corpora: Iterable[Dataset], encoder: SpeakerEncoder, rate: int, size: int, trim_db: float | None
) -> Speakers:
    """The voice of every speaker: the mean embedding of up to :data:`UTTERANCES_PER_VOICE` utterances, evenly chosen.

    Embeddings are kept beside the cache of ``datasets`` for as long as their files are unchanged.

    Args:
        corpora: usable rows.
        encoder: of embeddings (E,).
        rate: samples per second that the encoder takes.
        size: E.
        trim_db: see :func:`clean`.

    Raises:
        UserError: nothing of a speaker could be read; the encoder's embeddings have another size.
    """
    embedded: list[tuple[str, torch.Tensor]] = []
    for rows in corpora:
        speakers = [voice_name(speaker) for speaker in rows["speaker"]]
        for name in sorted(set(speakers)):
            own = [index for index, speaker in enumerate(speakers) if speaker == name]
            chosen = [own[i] for i in np.linspace(0, len(own) - 1, min(len(own), UTTERANCES_PER_VOICE)).astype(int)]
            found = [
                one for index in chosen if (one := _embedding(rows[index], encoder, rate, size, trim_db)) is not None
            ]
            if not found:
                raise UserError(f"speaker {name}", "none of the recordings could be read", "see the messages above")
            if found[0].shape != (size,):
                why = f"its embeddings have {len(found[0])} numbers, the model takes {size}"
                raise UserError(f"speaker_encoder {encoder.name}", why, "take another encoder")
            embedded += [(name, one) for one in found]
    voices = Speakers.average(embedded, size, encoder.name)
    logger.info("%d voices, embedded by %s", len({name for name, _ in embedded}), encoder.name)
    return voices


def _embedding(
    row: dict[str, Any], encoder: SpeakerEncoder, rate: int, size: int, trim_db: float | None
) -> torch.Tensor | None:

    path = row["audio"]["path"]
    cached = None
    if path and os.path.isfile(path):
        import datasets

        status = os.stat(path)
        parts = (path, status.st_size, status.st_mtime_ns, row["start"], row["seconds"], encoder.name, size, trim_db)
        cached = Path(datasets.config.HF_DATASETS_CACHE) / "sft_speech" / "voices" / f"{key_of(*parts):016x}.npy"
        if cached.is_file():
            try:
                return torch.from_numpy(np.load(cached, allow_pickle=False))
            except (OSError, ValueError):  # cut while it was written
                logger.warning("%s can't be read: made anew", cached)
    try:
        waveform = audio.read(row["audio"], rate, start=row["start"], seconds=row["seconds"])
    except audio.AudioError as error:
        logger.warning("utterance %s: %s", row["id"], error)
        return None
    embedding = encoder(clean(waveform, trim_db))
    if cached is not None:
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            with open_whole(cached) as file:
                np.save(file, embedding.numpy())
        except OSError as error:
            logger.warning("%s can't be written (%s): the next run makes it again", cached, error)
    return embedding
