"""Recognition by a CTC model, greedy or with a beam search, for evaluation and for transcription.

clip {audio, seconds}                    any number of them, nothing read yet
  -> chunks of a clip                    one, unless it is long
  -> batches of <= max_batch_seconds     sorted by length within a pool of chunks
  -> padded tensors (B, S) + mask        read in threads, a few batches ahead (inference/computing.py)
  -> best token per frame (B, T)         argmax on the device; logits are kept only for a beam search
  -> each clip's own frames (T,)         cut before anything is decoded, chunks joined
  -> text, and the frames of its tokens  in the order of the clips

Legend: B clips, S samples, T frames, V tokens.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby, islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sft_speech.audio.read import AudioError, read
from sft_speech.audio.units import samples_of
from sft_speech.errors import UserError
from sft_speech.inference.batching import sorted_batches
from sft_speech.inference.chunking import CHUNK_SECONDS, Chunk, FrameGrid, cut_chunks, join
from sft_speech.tasks.asr.ctc.recognition import CtcCounts, Recognition, runs
from sft_speech.tasks.asr.recognizer import POOL, Clip, default_batch_seconds

if TYPE_CHECKING:
    import torch

    from sft_speech.tasks.asr.ctc.beam import BeamDecoder
    from sft_speech.tasks.asr.ctc.checkpoint import Checkpoint


@dataclass(frozen=True)
class _Piece:
    """One chunk of one clip."""

    clip: int
    chunk: Chunk
    last: bool
    source: Clip


@dataclass(frozen=True)
class _Output:
    """The model's output for a chunk."""

    ids: np.ndarray  # (T,)
    samples: int
    loss: float | None = None
    infeasible: bool = False
    scores: np.ndarray | None = None  # (T, V)


@dataclass
class _Pool:
    """Chunks sorted by length together, with their results."""

    pieces: list[_Piece]
    results: dict[int, _Output | AudioError]
    missing: int  # batches still to come


@dataclass
class _Batch:
    """Chunks that go through the model together."""

    pool: _Pool
    places: list[int]  # of the chunks in their pool
    scores: bool  # whether log-probabilities are kept
    features: dict[str, torch.Tensor] = field(default_factory=dict)
    samples: list[int] = field(default_factory=list)


class _Tensors(NamedTuple):
    """The model's output for a batch, on its device."""

    ids: torch.Tensor  # (B, T)
    losses: tuple[torch.Tensor, torch.Tensor] | None  # (B,) and whether the labels do not fit (B,)
    scores: torch.Tensor | None  # (B, T, V)


def recognize(
    checkpoint: Checkpoint,
    clips: Iterable[Clip],
    *,
    max_batch_seconds: float | None = None,
    device: torch.device | str | None = None,
    chunk_seconds: float = CHUNK_SECONDS,
    progress: Callable[[float], object] | None = None,
    decoder: BeamDecoder | None = None,
    scores: bool = False,
    pool_size: int = POOL,
) -> Iterator[Recognition | AudioError]:
    """Recognize clips as :meth:`~sft_speech.tasks.asr.recognizer.Recognizer.recognize` describes.

    The model computes in bfloat16 on a GPU (float16 on one without it), in float32 on a CPU, and is in evaluation mode
    while the iterator lives.

    Args:
        progress: called after each batch; with a decoder, after each clip.
        decoder: searches with a language model while the next batches are computed; None is greedy.
        scores: whether to keep the log-probabilities in the results.
    """
    import torch

    here = next(checkpoint.model.parameters()).device
    device = torch.device(device) if device is not None else here
    grid = FrameGrid.measure(checkpoint.frames)
    pieces = _pieces(checkpoint, clips, grid, samples_of(chunk_seconds, checkpoint.rate))
    limit = max_batch_seconds or default_batch_seconds(device)
    batches = _batches(pieces, limit, checkpoint.rate, scores or decoder is not None, pool_size)
    if device != here:
        checkpoint.model.to(device)  # type: ignore[arg-type]  # its decorator hides the signature
    outputs = _outputs(checkpoint, batches, device, progress if decoder is None else None)
    with _evaluating(checkpoint.model), contextlib.closing(outputs):
        of_clips = groupby(outputs, key=lambda pair: pair[0].clip)
        found = (_recognition(checkpoint, grid, list(parts)) for _, parts in of_clips)
        yield from found if decoder is None else decoder.follow(found, progress)


def _pieces(checkpoint: Checkpoint, clips: Iterable[Clip], grid: FrameGrid, longest: int) -> Iterator[_Piece]:
    def frames(samples: int) -> int:
        return int(checkpoint.frames(samples))

    for number, clip in enumerate(clips):
        chunks = cut_chunks(samples_of(clip.seconds, checkpoint.rate), grid, frames, longest)
        for chunk in chunks:
            yield _Piece(number, chunk, chunk is chunks[-1], clip)


def _batches(
    pieces: Iterable[_Piece], max_batch_seconds: float, rate: int, scores: bool, pool_size: int
) -> Iterator[_Batch]:
    """Yield batches, pool after pool; those of one pool longest first."""
    for _, together in groupby(pieces, key=lambda piece: piece.source.pool):
        while pool := list(islice(together, pool_size)):
            lengths = [(piece.chunk.stop - piece.chunk.start) / rate for piece in pool]
            plan = sorted_batches(lengths, max_batch_seconds)
            collected = _Pool(pool, {}, len(plan))
            yield from (_Batch(collected, places, scores) for places in plan)


def _load(checkpoint: Checkpoint, batch: _Batch) -> _Batch:
    """Read the clips of a batch, in a thread; errors go straight to the results."""
    waveforms, readable = [], []
    for place in batch.places:
        try:
            waveform = _waveform(batch.pool.pieces[place], checkpoint.rate)
        except AudioError as error:
            batch.pool.results[place] = error
            continue
        if checkpoint.frames(len(waveform)) < 1:  # too short for a single frame
            batch.pool.results[place] = _Output(np.zeros(0, np.int32), len(waveform))
            continue
        waveforms.append(waveform)
        readable.append(place)
    batch.places, batch.samples = readable, [len(waveform) for waveform in waveforms]
    batch.features = checkpoint.features(waveforms) if waveforms else {}
    return batch


def _waveform(piece: _Piece, rate: int) -> np.ndarray:
    clip, chunk = piece.source, piece.chunk
    if isinstance(clip.audio, AudioError):
        raise clip.audio
    if isinstance(clip.audio, np.ndarray):
        return clip.audio[chunk.start : chunk.stop]
    if chunk.start == 0 and piece.last:
        return read(clip.audio, rate, clip.start, clip.seconds if clip.start is not None else None)
    start = (clip.start or 0.0) + chunk.start / rate
    # The last chunk is read to the end of the file, whatever length the header gave.
    seconds = None if piece.last and clip.start is None else (chunk.stop - chunk.start) / rate
    return read(clip.audio, rate, start, seconds)


def _outputs(
    checkpoint: Checkpoint, batches: Iterator[_Batch], device: torch.device, progress: Callable[[float], object] | None
) -> Generator[tuple[_Piece, _Output | AudioError], None, None]:
    """Yield chunks with their results, in order."""
    from sft_speech.inference.computing import computed

    load, forward = partial(_load, checkpoint), partial(_forward, checkpoint, device)
    with contextlib.closing(computed(checkpoint.model, batches, load, forward, device)) as outputs:
        for batch, tensors in outputs:
            pool = batch.pool
            if tensors is not None:
                _collect(checkpoint, batch, tensors)
            if progress is not None:
                progress(sum(batch.samples) / checkpoint.rate)
            pool.missing -= 1
            if pool.missing == 0:
                yield from ((piece, pool.results.pop(place)) for place, piece in enumerate(pool.pieces))


def _forward(checkpoint: Checkpoint, device: torch.device, model: torch.nn.Module, batch: _Batch) -> _Tensors | None:
    """Start the computation of a batch, without waiting for the device; None if no clip of it could be read."""
    import torch

    if not batch.places:
        return None
    try:
        features = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.features.items()}
        with torch.no_grad(), _autocast(device):
            logits = model(**features).logits
        scores = logits.float().log_softmax(dim=-1) if batch.scores else None
        return _Tensors(logits.argmax(dim=-1).to(torch.int32), _losses(checkpoint, batch, logits), scores)
    except torch.OutOfMemoryError as error:
        longest = max(batch.samples) / checkpoint.rate
        given = f"a batch of {len(batch.samples)} x {longest:.1f} s"
        raise UserError(given, "it doesn't fit into the GPU's memory", "set a smaller --max_batch_seconds") from error
    finally:
        batch.features = {}


def _losses(checkpoint: Checkpoint, batch: _Batch, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return the CTC losses (B,) for logits (B, T, V), and whether labels do not fit (B,); None without labels."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    from sft_speech.tasks.asr.ctc.loss import IGNORED, ctc_losses, unfitting

    given = [batch.pool.pieces[place].source.labels for place in batch.places]
    if all(one is None for one in given):
        return None
    rows = [torch.tensor(list(one or []), dtype=torch.long) for one in given]
    labels = pad_sequence(rows, batch_first=True, padding_value=IGNORED).to(logits.device)
    frames = torch.tensor([int(checkpoint.frames(samples)) for samples in batch.samples], device=logits.device)
    return ctc_losses(logits, frames.clamp(max=logits.shape[1]), labels, checkpoint.blank), unfitting(frames, labels)


def _collect(checkpoint: Checkpoint, batch: _Batch, tensors: _Tensors) -> None:
    """Copy the frames of each clip, without its padding, into the results of its pool."""
    ids = tensors.ids.cpu().numpy()
    scores = None if tensors.scores is None else tensors.scores.cpu().numpy()
    losses = None if tensors.losses is None else [tensor.tolist() for tensor in tensors.losses]
    for row, (place, samples) in enumerate(zip(batch.places, batch.samples, strict=True)):
        piece, frames = batch.pool.pieces[place], int(checkpoint.frames(samples))
        output = _Output(ids[row, :frames].copy(), samples)
        if scores is not None:
            output = replace(output, scores=scores[row, :frames].copy())
        if losses is not None and piece.source.labels is not None and piece.chunk.start == 0 and piece.last:
            output = replace(output, loss=losses[0][row], infeasible=losses[1][row])
        batch.pool.results[place] = output


def _recognition(
    checkpoint: Checkpoint, grid: FrameGrid, parts: list[tuple[_Piece, _Output | AudioError]]
) -> Recognition | AudioError:
    """Join the chunks of one clip, up to the first one that cannot be read."""
    outputs: list[_Output] = []
    problem = ""
    for piece, part in parts:
        if isinstance(part, AudioError):
            if not outputs:
                return part
            at = (piece.source.start or 0.0) + piece.chunk.start / checkpoint.rate
            problem = f"nothing was read beyond {at:.1f} s: {part}"
            break
        outputs.append(part)
    chunks = [piece.chunk for piece, _ in parts[: len(outputs)]]
    best = [output.ids for output in outputs]
    ids = join(best, chunks)
    scores = [output.scores for output in outputs if output.scores is not None]
    tokens, starts, ends = runs(ids, checkpoint.blank)
    return Recognition(
        text=" ".join(checkpoint.decode(tokens.tolist()).split()),  # a model may output two delimiters in a row
        seconds=(chunks[-1].start + outputs[-1].samples) / checkpoint.rate,
        loss=outputs[0].loss if len(parts) == 1 else None,
        problem=problem,
        counts=CtcCounts(
            frames=len(ids),
            blanks=int((ids == checkpoint.blank).sum()),
            infeasible=int(outputs[0].infeasible),
            chance=len(ids) * math.log(checkpoint.model.config.vocab_size),
        ),
        tokens=tokens,
        starts=starts,
        ends=ends,
        frame_seconds=grid.stride / checkpoint.rate,
        vocabulary=checkpoint.vocabulary,
        scores=join(scores, chunks, best) if len(scores) == len(outputs) else None,
    )


@contextlib.contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _autocast(device: torch.device) -> contextlib.AbstractContextManager:
    import torch

    if device.type != "cuda":
        return contextlib.nullcontext()
    half = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.autocast("cuda", half)
