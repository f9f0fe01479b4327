"""Classification of recordings: batches through the model, and the class for use from Python."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from sft_speech.audio.channels import name_of
from sft_speech.audio.read import AudioError
from sft_speech.errors import UserError
from sft_speech.inference.batching import sorted_batches
from sft_speech.inference.clips import Audio, Recording, is_one, recording_of, undecoded
from sft_speech.inference.computing import computed
from sft_speech.inference.inputs import find_audio
from sft_speech.inference.precision import Precision, autocast, with_precision
from sft_speech.models.exported import device_for
from sft_speech.tasks.classification.checkpoint import Checkpoint, load_classifier
from sft_speech.text.counted import counted

logger = logging.getLogger(__name__)

POOL = 512  # recordings that are sorted by length together
MAX_BATCH_SECONDS = {"cuda": 320.0, "cpu": 30.0}


@dataclass
class _Batch:
    places: list[int]  # within the pool
    recordings: list[Recording]
    inputs: dict[str, Tensor] = field(default_factory=dict)
    errors: dict[int, AudioError] = field(default_factory=dict)  # by place


def logits_of(
    checkpoint: Checkpoint,
    recordings: Iterable[Recording],
    *,
    max_batch_seconds: float | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[float], None] | None = None,
) -> Iterator[Tensor | AudioError]:
    """Classify recordings in constant memory.

    Args:
        recordings: any number of them.
        max_batch_seconds: padded seconds per batch.
        device: device of the forward pass, to which the model is moved; None leaves the model where it is.
        progress: called after each batch with its seconds of audio.

    Yields:
        Logits (C,) of C classes in float32, or the error of an unreadable recording, in the order given.

    Raises:
        UserError: a batch does not fit into memory.
    """
    model, fixed = checkpoint.model, checkpoint.input_seconds
    device = torch.device(device) if device is not None else next(model.parameters()).device
    model.to(device)  # type: ignore[arg-type]  # its decorator hides the signature
    was_training, waiting = model.training, iter(recordings)
    model.eval()
    try:
        while pool := list(islice(waiting, POOL)):
            lengths = [fixed or one.seconds for one in pool]
            plan = sorted_batches(lengths, max_batch_seconds or MAX_BATCH_SECONDS.get(device.type, 30.0))
            batches = (_Batch(places, [pool[place] for place in places]) for places in plan)
            results: list[Any] = [None] * len(pool)
            load, forward = partial(_load, checkpoint), partial(_forward, device)
            with contextlib.closing(computed(model, batches, load, forward, device)) as outputs:
                for batch, logits in outputs:
                    results_of = dict(zip(batch.places, [] if logits is None else logits.float().cpu(), strict=True))
                    for place, result in (results_of | batch.errors).items():
                        results[place] = result
                    if progress is not None:
                        progress(sum(one.seconds for one in batch.recordings))
            yield from results
    finally:
        model.train(was_training)


def _load(checkpoint: Checkpoint, batch: _Batch) -> _Batch:
    """Read the audio of a batch."""
    waveforms, read = [], []
    for place, recording in zip(batch.places, batch.recordings, strict=True):
        try:
            waveforms.append(recording.waveform(checkpoint.rate))
            read.append(place)
        except AudioError as error:
            batch.errors[place] = error
    batch.places, batch.inputs = read, checkpoint.front_end.features(waveforms) if waveforms else {}
    return batch


def _forward(device: torch.device, model: torch.nn.Module, batch: _Batch) -> Tensor | None:
    if not batch.inputs:
        return None
    try:
        inputs = {name: value.to(device, non_blocking=True) for name, value in batch.inputs.items()}
        with torch.no_grad(), autocast(model, device, on_gpu=torch.float32):
            return model(**inputs).logits
    except torch.OutOfMemoryError as error:
        given = f"a batch of {counted(len(batch.recordings), 'recording')}"
        raise UserError(given, "it does not fit into memory", "set a smaller --max_batch_seconds") from error
    finally:
        batch.inputs = {}


@dataclass(frozen=True)
class Classification:
    """The labels of a recording.

    Args:
        labels: (label, probability) of every class, the most probable first.
        seconds: length of the audio.
        audio: path of the recording; "" if it was given in memory.
        error: why it could not be read; "" if it could.
        channel: "left", "right" or the number of the channel; "" for all of them, mixed.
    """

    labels: list[tuple[str, float]]
    seconds: float
    audio: str = ""
    error: str = ""
    channel: str = ""


class Classifier:
    """A model that classifies recordings: ``Classifier("my_model")("clip.wav")[0]`` is the best (label, probability).

    Args:
        model: directory of a fine-tuned or an exported model, or its id on the Hub.
        device: "cpu", "cuda", ...; by default a GPU if there is one.
        max_batch_seconds: padded audio per batch; probabilities do not depend on it.
        allow_pickle: see :func:`~sft_speech.models.load.how_to_read_weights`.
        dtype: what the model computes in. "auto": bfloat16 on a CPU with AMX if the model is not tiny, else float32.

    Raises:
        UserError: there is no such model or device, or the model has no trained head.
    """

    def __init__(
        self,
        model: str | Path,
        device: str | torch.device | None = None,
        max_batch_seconds: float | None = None,
        allow_pickle: bool = False,
        dtype: Precision = "auto",
    ) -> None:
        if max_batch_seconds is not None and max_batch_seconds <= 0:
            raise UserError(f"max_batch_seconds {max_batch_seconds}", "no audio fits", "give a number above 0")
        self.device, self.max_batch_seconds = device_for(model, device), max_batch_seconds
        self.checkpoint = load_classifier(model, allow_pickle)
        model_on_device: Any = self.checkpoint.model.to(self.device)  # type: ignore[arg-type]  # its decorator hides it
        self.checkpoint.model = with_precision(model_on_device, self.device, dtype, on_gpu=torch.float32)

    @overload
    def __call__(self, audio: Audio) -> list[tuple[str, float]]: ...

    @overload
    def __call__(self, audio: list[Audio]) -> list[list[tuple[str, float]]]: ...

    def __call__(self, audio: Audio | list[Audio]) -> list[tuple[str, float]] | list[list[tuple[str, float]]]:
        """Classify a recording, or each of a list or a folder.

        Returns:
            (label, probability) of every class, the most probable first; for a list or folder, one such list each.

        Raises:
            UserError: a recording cannot be read.
        """
        folder = isinstance(audio, str | Path) and Path(audio).is_dir()
        single = is_one(audio) and not folder
        given: Any = find_audio([str(audio)]) if folder else [audio] if single else audio
        found = list(self.stream(given))
        for one in found:
            if one.error:
                raise UserError(one.audio or "the audio", one.error, "give a file that can be played")
        return found[0].labels if single else [one.labels for one in found]

    def stream(
        self, audios: Iterable[Audio], progress: Callable[[float], None] | None = None
    ) -> Iterator[Classification]:
        """Classify recordings in the order given, in constant memory. One that cannot be read has an ``error``."""
        checkpoint, names = self.checkpoint, self.checkpoint.labels.names
        given: list[Recording] = []

        def opened() -> Iterator[Recording]:
            with ThreadPoolExecutor(8, thread_name_prefix="header") as threads:  # they wait for the disk
                waiting = iter(undecoded(audios))
                while pool := list(islice(waiting, POOL)):
                    for recording in threads.map(partial(recording_of, rate=checkpoint.rate), pool):
                        given.append(recording)
                        yield recording

        found = logits_of(
            checkpoint, opened(), max_batch_seconds=self.max_batch_seconds, device=self.device, progress=progress
        )
        for logits in found:
            recording = given.pop(0)
            channel = "" if recording.channel is None else name_of(recording.channel)
            if isinstance(logits, AudioError):
                logger.warning("%s cannot be classified: %s", recording.name or "a recording", logits)
                yield Classification([], 0.0, recording.name, str(logits), channel)
                continue
            shares = probabilities(logits, checkpoint.labels.multi)
            order = np.argsort(-shares, kind="stable").tolist()
            labels = [(names[id], float(shares[id])) for id in order]
            yield Classification(labels, recording.seconds, recording.name, channel=channel)


def probabilities(logits: Tensor, multi: bool) -> np.ndarray:
    """Return the probabilities (C,) of C classes; with several labels per clip they do not sum to 1."""
    return (logits.sigmoid() if multi else logits.softmax(-1)).numpy()
