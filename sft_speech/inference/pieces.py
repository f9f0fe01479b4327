"""Run recordings of any number and length through a model in constant memory: cut, batch, compute, join.

recording {audio, seconds}             any number of them, nothing read yet
  -> pieces                            one, unless the recording is long (`Steps.cut`)
  -> batches of <= max_batch_seconds   sorted by length within a pool of pieces
  -> features                          read in threads, a few batches ahead (inference/computing.py)
  -> output of the model               `Steps.forward`, then `Steps.collect`: one output per piece
  -> result of the recording           `Steps.join`; results keep the order of the recordings

A piece that cannot be read ends its recording: the result is that of the pieces before it, or the error.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, groupby, islice
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np

from sft_speech.audio.read import AudioError
from sft_speech.errors import UserError
from sft_speech.inference.batching import cut
from sft_speech.inference.clips import Recording

if TYPE_CHECKING:
    import torch

# Pieces sorted by length together. Padding is then near 1 % on LibriSpeech-like lengths, and few results have to wait
# for earlier ones (a pool of read-aloud FLAC as bytes is below 100 MB).
POOL = 512


@dataclass(frozen=True)
class Pooled(Recording):
    """A recording that shares batches only with those of the same pool.

    Args:
        pool: number of its pool.
    """

    pool: int = 0


class Samples(Protocol):
    """Samples [start, stop) of a recording."""

    @property
    def start(self) -> int: ...

    @property
    def stop(self) -> int: ...


Source = TypeVar("Source", bound=Pooled)
Part = TypeVar("Part", bound=Samples)
Tensors = TypeVar("Tensors")
Output = TypeVar("Output")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Piece(Generic[Source, Part]):
    """A part of a recording.

    Args:
        last: whether it is read to the end of the recording, whatever length the header gave.
    """

    source: Source
    part: Part
    last: bool

    @property
    def whole(self) -> bool:
        """Whether it is all of its recording."""
        return self.part.start == 0 and self.last


@dataclass
class _Pool(Generic[Source, Part, Output]):
    """Pieces sorted by length together, with their results."""

    pieces: list[Piece[Source, Part]]
    results: dict[int, Output | AudioError]
    missing: int  # batches still to come


@dataclass
class Batch(Generic[Source, Part, Output]):
    """Pieces that go through the model together.

    Args:
        pool, places: their pool, and their places in it.
        features: inputs of the model, on the CPU until they are computed.
        samples: (B,) samples of each piece.
    """

    pool: _Pool[Source, Part, Output]
    places: list[int]
    features: dict[str, torch.Tensor] = field(default_factory=dict)
    samples: list[int] = field(default_factory=list)

    @property
    def pieces(self) -> list[Piece[Source, Part]]:
        """(B,) pieces; after reading, those that could be read."""
        return [self.pool.pieces[place] for place in self.places]


class Steps(ABC, Generic[Source, Part, Tensors, Output, Result]):
    """What differs from model to model.

    Attributes:
        model: in evaluation mode while it is used.
        rate: samples per second of its input.
        least_seconds: what a shorter piece costs in a batch.
    """

    model: torch.nn.Module
    rate: int
    least_seconds: float = 0.0

    @abstractmethod
    def cut(self, source: Source) -> Iterable[Part]:
        """Return the parts of a recording; they may overlap."""

    @abstractmethod
    def features(self, waveforms: list[np.ndarray]) -> dict[str, torch.Tensor]:
        """Return the inputs of the model for waveforms (S,) of S samples; called in threads."""

    def without_model(self, waveform: np.ndarray) -> Output | None:
        """Return the output for a waveform (S,) that the model need not see, or cannot; None if it must."""
        return None

    @abstractmethod
    def forward(
        self, model: torch.nn.Module, features: dict[str, torch.Tensor], batch: Batch[Source, Part, Output]
    ) -> Tensors:
        """Compute a batch with the model or a replica, preferably without waiting for the device."""

    @abstractmethod
    def collect(self, tensors: Tensors, batch: Batch[Source, Part, Output]) -> Iterable[Output]:
        """Return the output of each piece of a batch, on the CPU and without padding."""

    @abstractmethod
    def join(self, pieces: list[Piece[Source, Part]], outputs: list[Output], problem: str) -> Result:
        """Return the result of a recording.

        Args:
            pieces, outputs: at least one; up to the first one that cannot be read.
            problem: why the rest cannot be read; "" if all of it was.
        """


def results(
    steps: Steps[Source, Part, Tensors, Output, Result],
    sources: Iterable[Source],
    max_batch_seconds: float,
    device: torch.device,
    progress: Callable[[float], object] | None = None,
    pool_size: int = POOL,
) -> Generator[Result | AudioError, None, None]:
    """Yield one result per recording, in the order given.

    The model computes in the precision of `inference.precision.with_precision`; without it, in bfloat16 on a GPU
    (float16 on one without it) and in float32 on a CPU.

    Args:
        sources: drawn as needed.
        max_batch_seconds: padded seconds per batch; a longer piece gets its own batch. Those of a single pool are
            smaller if a core of the CPU had none otherwise.
        device: device of the forward pass, to which the model is moved.
        progress: called after each batch with its seconds of audio.
        pool_size: pieces that are sorted by length together.

    Raises:
        UserError: a batch does not fit into memory.
    """
    from sft_speech.inference.computing import at_once

    steps.model.to(device)
    pools = _pools(_pieces(steps, sources), pool_size)
    batches = _batches(steps, pools, max_batch_seconds, at_once(device))
    outputs = _outputs(steps, batches, device, progress)
    with _evaluating(steps.model), contextlib.closing(outputs):
        together: list[tuple[Piece[Source, Part], Output | AudioError]] = []
        for piece, output in outputs:
            together.append((piece, output))
            if piece.last:  # not when the next recording begins, whose pool may take an hour to compute
                result: Result | AudioError = _joined(steps, together)
                yield result
                together = []


def _pieces(
    steps: Steps[Source, Part, Tensors, Output, Result], sources: Iterable[Source]
) -> Iterator[Piece[Source, Part]]:
    for source in sources:
        parts = iter(steps.cut(source))
        part = next(parts)
        for following in parts:
            yield Piece(source, part, False)
            part = following
        yield Piece(source, part, True)


def _pools(pieces: Iterable[Piece[Source, Part]], size: int) -> Iterator[list[Piece[Source, Part]]]:
    """Yield the pieces that are sorted by length together."""
    for _, together in groupby(pieces, key=lambda piece: piece.source.pool):
        while found := list(islice(together, size)):
            yield found


def _batches(
    steps: Steps[Source, Part, Tensors, Output, Result],
    pools: Iterator[list[Piece[Source, Part]]],
    max_batch_seconds: float,
    workers: int,
) -> Iterator[Batch[Source, Part, Output]]:
    """Yield batches, pool after pool; those of one pool longest first: memory runs out in the first or never.

    Args:
        workers: batches that are computed at once. Those of several pools are, so only a single pool is divided.
    """
    first = list(islice(pools, 2))
    for pieces in chain(first, pools):
        lengths = np.array([(piece.part.stop - piece.part.start) / steps.rate for piece in pieces])
        order = np.argsort(-lengths, kind="stable")
        padded = lengths.clip(min=steps.least_seconds)
        share = padded.sum().item() / workers if len(first) == 1 else math.inf
        plan = cut(order, padded, min(max_batch_seconds, share))
        pool: _Pool[Source, Part, Output] = _Pool(pieces, {}, len(plan))
        yield from (Batch(pool, places) for places in plan)


def _outputs(
    steps: Steps[Source, Part, Tensors, Output, Result],
    batches: Iterator[Batch[Source, Part, Output]],
    device: torch.device,
    progress: Callable[[float], object] | None,
) -> Generator[tuple[Piece[Source, Part], Output | AudioError], None, None]:
    """Yield pieces with their outputs, in order."""
    from sft_speech.inference.computing import computed

    load, forward = partial(_load, steps), partial(_forward, steps, device)
    with contextlib.closing(computed(steps.model, batches, load, forward, device)) as computing:
        for batch, tensors in computing:
            pool = batch.pool
            if tensors is not None:
                pool.results.update(zip(batch.places, steps.collect(tensors, batch), strict=True))
            if progress is not None:
                progress(sum(batch.samples) / steps.rate)
            pool.missing -= 1
            if pool.missing == 0:
                yield from ((piece, pool.results.pop(place)) for place, piece in enumerate(pool.pieces))


def _load(
    steps: Steps[Source, Part, Tensors, Output, Result], batch: Batch[Source, Part, Output]
) -> Batch[Source, Part, Output]:
    """Read the pieces of a batch, in a thread; errors go straight to the results."""
    waveforms, readable = [], []
    for place, piece in zip(batch.places, batch.pieces, strict=True):
        try:
            waveform = piece.source.samples(steps.rate, piece.part.start, None if piece.last else piece.part.stop)
        except AudioError as error:
            batch.pool.results[place] = error
            continue
        output = steps.without_model(waveform)
        if output is not None:
            batch.pool.results[place] = output
            continue
        waveforms.append(waveform)
        readable.append(place)
    batch.places, batch.samples = readable, [len(waveform) for waveform in waveforms]
    batch.features = steps.features(waveforms) if waveforms else {}
    return batch


def _forward(
    steps: Steps[Source, Part, Tensors, Output, Result],
    device: torch.device,
    model: torch.nn.Module,
    batch: Batch[Source, Part, Output],
) -> Tensors | None:
    """Compute a batch; return None if no piece of it could be read."""
    import torch

    from sft_speech.inference.precision import autocast

    if not batch.places:
        return None
    try:
        features = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.features.items()}
        batch.features = {}
        with torch.no_grad(), autocast(model, device):
            return steps.forward(model, features, batch)
    except torch.OutOfMemoryError as error:
        longest = max(batch.samples) / steps.rate
        given = f"a batch of {len(batch.samples)} x {longest:.1f} s"
        raise UserError(given, "it doesn't fit into the GPU's memory", "set a smaller --max_batch_seconds") from error


def _joined(
    steps: Steps[Source, Part, Tensors, Output, Result], found: list[tuple[Piece[Source, Part], Output | AudioError]]
) -> Result | AudioError:
    """Join the pieces of one recording, up to the first one that cannot be read."""
    pieces: list[Piece[Source, Part]] = []
    outputs: list[Output] = []
    for piece, output in found:
        if isinstance(output, AudioError):
            if not outputs:
                return output
            at = (piece.source.start or 0.0) + piece.part.start / steps.rate
            return steps.join(pieces, outputs, f"nothing was read beyond {at:.1f} s: {output}")
        pieces.append(piece)
        outputs.append(output)
    return steps.join(pieces, outputs, "")


@contextlib.contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
