"""Speaker embeddings of recordings, and the named voices of a saved model.

Legend: S samples, E = 512 numbers of an embedding (``speaker_embedding_dim`` of the model), M mel bands, T frames.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from sft_speech.errors import UserError
from sft_speech.models.load import load_pretrained, unreadable

logger = logging.getLogger(__name__)

FILE = "speakers.safetensors"
MEAN = "mean of all"  # name of the average voice, the default
SHORTEST_SECONDS = 0.5  # of a reference recording


class SpeakerEncoder(Protocol):
    """Makes speaker embeddings of recordings."""

    name: str

    def __call__(self, waveform: np.ndarray) -> Tensor:
        """Return the embedding (E,), of length 1, of a waveform (S,) at 16 kHz."""


class XVectors:
    """x-vectors of a transformers model (Snyder et al. 2018), which SpeechT5 was trained with.

    Args:
        name: directory or Hub id of a model with an x-vector head (``Wav2Vec2ForXVector``, ``WavLMForXVector``, ...).
        device: "cpu", "cuda", ...
        allow_pickle: see :func:`~sft_speech.models.load.how_to_read_weights`.

    Raises:
        UserError: there is no such model, its weights are pickled, or it has no such head.
    """

    def __init__(self, name: str, device: str | torch.device = "cpu", allow_pickle: bool = False) -> None:
        from transformers import AutoFeatureExtractor, AutoModelForAudioXVector

        do = "take one trained for speaker verification, such as microsoft/wavlm-base-plus-sv"
        model, new = load_pretrained(AutoModelForAudioXVector, name, allow_pickle=allow_pickle, do=do)
        if new:
            raise UserError(name, f"it has no x-vector head (no weights for {sorted(new)[0]})", do)
        try:
            # Without trust_remote_code transformers would ask on the terminal.
            self.extractor: Any = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=False)
        except Exception as error:  # the Hub and the reader of configurations each raise errors of their own
            raise unreadable(name, error, do) from error
        self.name, self.device = name, torch.device(device)
        self.model: Any = model.to(self.device)  # type: ignore[arg-type]

    def __call__(self, waveform: np.ndarray) -> Tensor:
        inputs = self.extractor(waveform, sampling_rate=self.extractor.sampling_rate, return_tensors="pt")
        with torch.inference_mode():
            embedding = self.model(**inputs.to(self.device)).embeddings[0]
        return torch.nn.functional.normalize(embedding.float().cpu(), dim=0)


class MelStatistics:
    """A substitute for x-vectors that needs no weights: mean and standard deviation of the log-mels of a voice.

    It distinguishes voices only in similar recordings. A model trained with one kind of embedding cannot use the other.

    Args:
        mels: waveform (S,) to log-mels (T, M).
        size: E.
    """

    name = "log-mel statistics (no x-vectors)"

    def __init__(self, mels: Callable[[np.ndarray], np.ndarray], size: int = 512) -> None:
        self.mels, self.size = mels, size

    def __call__(self, waveform: np.ndarray) -> Tensor:
        spectrogram = torch.as_tensor(self.mels(waveform)).double()  # (T, M)
        level = spectrogram.mean(1)
        speech = spectrogram[level >= level.median()]  # the louder half, without the noise of the room
        relative = speech - speech.mean()  # absolute loudness depends on the microphone
        figures = torch.cat([relative.mean(0), relative.std(0, correction=0)])
        # A cosine basis: the same on every machine, unlike random directions.
        rows = torch.arange(self.size).double()[:, None] + 0.5
        basis = torch.cos(torch.pi * rows * torch.arange(1, len(figures) + 1) / self.size)
        return torch.nn.functional.normalize(basis @ figures, dim=0).float()


def checked(embedding: ArrayLike | Tensor, size: int, given: str) -> Tensor:
    """Return an embedding as a tensor (E,) of length 1.

    Args:
        embedding: (E,) or (1, E).
        size: E of the model.
        given: its origin, for the error message.

    Raises:
        UserError: it has another shape, a number that isn't finite, or only zeros.
    """
    found = torch.as_tensor(np.asarray(embedding)).float()
    if found.shape not in ((size,), (1, size)):
        why = f"its shape is {tuple(found.shape)}, the model takes ({size},)"
        raise UserError(given, why, "take the embeddings of the encoder that the model was trained with")
    found = found.reshape(size)
    if not found.isfinite().all():
        raise UserError(given, "it holds numbers that aren't finite", "compute it again")
    if not found.any():
        raise UserError(given, "it is all zeros", "compute it again")
    return torch.nn.functional.normalize(found, dim=0)


class Speakers(Mapping[str, Tensor]):
    """The voices of a saved model: an embedding (E,) of length 1 for each name.

    Args:
        embeddings: by name.
        size: E.
        encoder: name of the encoder that made them and that reference recordings need.

    Raises:
        UserError: see :func:`checked`.
    """

    def __init__(self, embeddings: Mapping[str, ArrayLike | Tensor], size: int = 512, encoder: str = "") -> None:
        self.size, self.encoder = size, encoder
        self._embeddings = {name: checked(one, size, f"speaker {name}") for name, one in embeddings.items()}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._embeddings:
            known = ", ".join(sorted(self)[:10]) + (", ..." if len(self) > 10 else "")
            do = f"name one of {known}" if known else "give an embedding file or a reference recording"
            raise UserError(f"speaker {name}", "the model has no such voice", do)
        return self._embeddings[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._embeddings)

    def __len__(self) -> int:
        return len(self._embeddings)

    def __contains__(self, name: object) -> bool:
        return name in self._embeddings

    @classmethod
    def average(cls, embeddings: Iterable[tuple[str, Tensor]], size: int = 512, encoder: str = "") -> Speakers:
        """Return the mean voice of each speaker's utterances, and that of all speakers under the name :data:`MEAN`.

        Args:
            embeddings: speaker and embedding, (E,) of length 1, of each utterance; "" for an unknown speaker.
        """
        sums: dict[str, Tensor] = {}
        for speaker, embedding in embeddings:
            sums[speaker] = sums.get(speaker, torch.zeros(size)) + embedding
        means = {name: torch.nn.functional.normalize(total, dim=0) for name, total in sums.items()}
        overall = {MEAN: torch.stack(list(means.values())).mean(0)} if means else {}
        return cls({name: one for name, one in means.items() if name} | overall, size, encoder)

    def save(self, folder: str | Path) -> None:
        """Write ``speakers.safetensors`` into the directory of a model."""
        from safetensors.torch import save_file

        save_file(dict(self._embeddings), Path(folder) / FILE, metadata={"encoder": self.encoder})

    @classmethod
    def load(cls, model: str | Path, size: int = 512, revision: str | None = None) -> Speakers:
        """Load the voices of a model by its directory or its id on the Hub; without the file it has none.

        Raises:
            UserError: the file is damaged.
        """
        from safetensors import SafetensorError, safe_open

        path = Path(model) / FILE
        if not Path(model).is_dir():
            from huggingface_hub import hf_hub_download
            from huggingface_hub.errors import EntryNotFoundError, HFValidationError

            try:
                path = Path(hf_hub_download(str(model), FILE, revision=revision))
            except (EntryNotFoundError, HFValidationError):
                return cls({}, size)
        if not path.is_file():
            return cls({}, size)
        try:
            with safe_open(path, "pt") as file:
                embeddings = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
                encoder = (file.metadata() or {}).get("encoder", "")
        except (SafetensorError, OSError) as error:
            raise unreadable(str(path), error, "remove it, and give embeddings or reference recordings") from error
        return cls(embeddings, size, encoder)


def read_embedding(path: str | Path, size: int = 512) -> Tensor:
    """Read an embedding (E,) of length 1 from a file: ``.npy``, or ``.safetensors`` with one tensor.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    path = Path(path)
    try:
        if path.suffix == ".npy":
            found: Any = np.load(path, allow_pickle=False)
        else:
            from safetensors.torch import load_file

            tensors = load_file(path)
            if len(tensors) != 1:
                raise UserError(str(path), f"it holds {len(tensors)} tensors", "give a file with one embedding")
            (found,) = tensors.values()
    except UserError:
        raise
    except Exception as error:  # numpy and safetensors each raise errors of their own
        raise unreadable(str(path), error, "give a .npy or .safetensors file with one embedding") from error
    return checked(found, size, str(path))


def embed_reference(encoder: SpeakerEncoder, waveform: np.ndarray, rate: int, given: str, size: int = 512) -> Tensor:
    """Return the embedding (E,) of a reference recording (S,).

    Raises:
        UserError: it is too short, or silent.
    """
    seconds = len(waveform) / rate
    if seconds < SHORTEST_SECONDS:
        why = f"{seconds:.2f} s are too short for a speaker embedding"
        raise UserError(given, why, f"give {SHORTEST_SECONDS:g} s or more, better ten")
    if np.abs(waveform).max() < 1e-4:
        raise UserError(given, "it is silent", "give a recording of the voice")
    return checked(encoder(waveform), size, given)
