"""The one loop of recognition, greedy or followed by a beam search, for evaluation and for transcription.

clip {audio, seconds}                    any number of them, nothing read yet
  -> windows of a clip                   one, unless it is long
  -> batches of <= max_batch_seconds     sorted by length within a pool of POOL windows
  -> padded tensors (B, S) + mask        read in threads, a few batches ahead (inference/computing.py)
  -> best token per frame (B, T)         argmax on the device; logits are dropped there, but for a beam search
  -> each clip's own frames (T,)         cut before anything is decoded, windows joined
  -> text, and the frames of its tokens  in the order of the clips
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from sft_speech.audio.read import AudioError, read
from sft_speech.audio.units import samples_of
from sft_speech.errors import UserError
from sft_speech.inference.batching import sorted_batches
from sft_speech.inference.chunking import WINDOW_SECONDS, FrameGrid, Window, cut_windows, join

if TYPE_CHECKING:
    import torch

    from sft_speech.tasks.asr.ctc.beam import BeamDecoder
    from sft_speech.tasks.asr.ctc.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

# Windows sorted by length together. Padding is then near 1 % on LibriSpeech-like lengths, and what has to wait for its
# turn stays small (a pool of read-aloud FLAC as bytes is below 100 MB).
POOL = 512


@dataclass(frozen=True)
class Clip:
    """What is to be recognized.

    Args:
        audio: whatever :func:`sft_speech.audio.read.read` takes, or a float32 waveform (S,) at the model's
            rate; the error itself where it is known already that it can't be read.
        seconds: its length, from a header.
        start: offset in seconds where the clip is a segment of its file.
        labels: token ids of its transcript, for the CTC loss.
        pool: clips of different numbers never share a batch.
    """

    audio: Any
    seconds: float
    start: float | None = None
    labels: Sequence[int] | None = None
    pool: int = 0


@dataclass(frozen=True)
class Recognition:
    """What was recognized in one clip.

    Args:
        text: the transcript.
        tokens: (N,) ids after CTC's collapse: repeats merged, blanks dropped.
        starts, ends: (N,) frames [start, end) in which each token was the best one.
        frames, blanks: number of frames, and how many of them were blank.
        seconds: of audio that was heard.
        frame_seconds: from one frame to the next.
        loss: CTC loss, summed over labels, in float32; None without labels or when the clip was cut in windows. It is 0
            where the labels can't fit into the frames (``infeasible``).
        problem: why the recording was left before its end; "" when it wasn't.
        scores: (T, V) log-probabilities of V tokens in each of T frames, where they were asked for.
    """

    text: str
    tokens: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    frames: int
    blanks: int
    seconds: float
    frame_seconds: float
    loss: float | None = None
    infeasible: bool = False
    problem: str = ""
    scores: np.ndarray | None = None


@dataclass(frozen=True)
class _Piece:
    """One window of one clip."""

    clip: int
    window: Window
    last: bool
    source: Clip


@dataclass
class _Batch:
    """Pieces that go through the model together; ``pool`` collects results in the order of its pieces."""

    pool: _Pool
    places: list[int]
    scores: bool  # whether log-probabilities are kept
    features: dict[str, torch.Tensor] = field(default_factory=dict)
    samples: list[int] = field(default_factory=list)


@dataclass
class _Pool:
    pieces: list[_Piece]
    results: list[Any]  # _Heard | AudioError of each piece
    missing: int  # batches still to come


@dataclass(frozen=True)
class _Heard:
    ids: np.ndarray  # (T,)
    samples: int
    loss: float | None = None
    infeasible: bool = False
    scores: np.ndarray | None = None  # (T, V)


def default_batch_seconds(device: torch.device) -> float:
    """Padded seconds per batch that a large model holds in 16 GB of GPU memory; on a CPU what its caches hold."""
    return 320.0 if device.type == "cuda" else 15.0


def recognize(
    checkpoint: Checkpoint,
    clips: Iterable[Clip],
    *,
    max_batch_seconds: float | None = None,
    device: torch.device | str | None = None,
    window_seconds: float = WINDOW_SECONDS,
    progress: Callable[[float], None] | None = None,
    decoder: BeamDecoder | None = None,
    scores: bool = False,
) -> Iterator[Recognition | AudioError]:
    """Recognizes clips in constant memory, greedily where there is no decoder.

    bfloat16 on a GPU (float16 on one without it), float32 on a CPU. The model is in evaluation mode while the iterator
    lives.

    Args:
        clips: of any number and length, drawn as needed.
        max_batch_seconds: padded seconds per batch; a window longer than that gets a batch of its own.
        device: of the forward pass; the model moves there. Where the model is, when absent.
        window_seconds: clips longer than that are heard in overlapping windows.
        progress: called with the seconds of audio behind it after each batch (with a decoder, after each clip).
        decoder: searches what was heard with a language model while the next batches are computed.
        scores: leave the log-probabilities in the results.

    Yields:
        One result per clip, in the order given: what was heard, or why the clip can't be read.

    Raises:
        UserError: a batch doesn't fit into memory.
    """
    import torch

    here = next(checkpoint.model.parameters()).device
    device = torch.device(device) if device is not None else here
    max_batch_seconds = max_batch_seconds or default_batch_seconds(device)
    grid = FrameGrid.measure(checkpoint.frames)
    pieces = _pieces(checkpoint, clips, grid, samples_of(window_seconds, checkpoint.rate))
    pools = _pools(pieces, max_batch_seconds, checkpoint.rate, scores or decoder is not None)
    if device != here:
        checkpoint.model.to(device)  # type: ignore[arg-type]  # its decorator hides the signature
    heard = _heard(checkpoint, pools, device, progress if decoder is None else None)
    with _evaluating(checkpoint.model), contextlib.closing(heard):
        clips_heard = groupby(heard, key=lambda pair: pair[0].clip)
        found = (_recognition(checkpoint, grid, list(parts)) for _, parts in clips_heard)
        yield from found if decoder is None else decoder.follow(found, checkpoint.decode, progress)


def _pieces(checkpoint: Checkpoint, clips: Iterable[Clip], grid: FrameGrid, longest: int) -> Iterator[_Piece]:
    def frames(samples: int) -> int:
        return int(checkpoint.frames(samples))

    for number, clip in enumerate(clips):
        windows = cut_windows(samples_of(clip.seconds, checkpoint.rate), grid, frames, longest)
        for window in windows:
            yield _Piece(number, window, window is windows[-1], clip)


def _pools(pieces: Iterable[_Piece], max_batch_seconds: float, rate: int, scores: bool) -> Iterator[_Batch]:
    """Batches, pool after pool; those of one pool longest first."""
    for _, together in groupby(pieces, key=lambda piece: piece.source.pool):
        while pool := list(islice(together, POOL)):
            lengths = [(piece.window.stop - piece.window.start) / rate for piece in pool]
            plan = sorted_batches(lengths, max_batch_seconds)
            collected = _Pool(pool, [None] * len(pool), len(plan))
            yield from (_Batch(collected, places, scores) for places in plan)


def _load(checkpoint: Checkpoint, batch: _Batch) -> _Batch:
    """Reads the clips of a batch, in a thread: what can't be read goes straight to the results."""
    waveforms, readable = [], []
    for place in batch.places:
        try:
            waveform = _waveform(batch.pool.pieces[place], checkpoint.rate)
        except AudioError as error:
            batch.pool.results[place] = error
            continue
        if checkpoint.frames(len(waveform)) < 1:  # too short for a single frame: nothing is said in it
            batch.pool.results[place] = _Heard(np.zeros(0, np.int32), len(waveform))
            continue
        waveforms.append(waveform)
        readable.append(place)
    batch.places, batch.samples = readable, [len(waveform) for waveform in waveforms]
    batch.features = checkpoint.features(waveforms) if waveforms else {}
    return batch


def _waveform(piece: _Piece, rate: int) -> np.ndarray:
    clip, window = piece.source, piece.window
    if isinstance(clip.audio, AudioError):
        raise clip.audio
    if isinstance(clip.audio, np.ndarray):
        return clip.audio[window.start : window.stop]
    if window.start == 0 and piece.last:
        return read(clip.audio, rate, clip.start, clip.seconds if clip.start is not None else None)
    start = (clip.start or 0.0) + window.start / rate
    # The last window of a file reads on to its end, whatever the header said of the length.
    seconds = None if piece.last and clip.start is None else (window.stop - window.start) / rate
    return read(clip.audio, rate, start, seconds)


def _heard(
    checkpoint: Checkpoint, batches: Iterator[_Batch], device: torch.device, progress: Callable[[float], None] | None
) -> Generator[tuple[_Piece, _Heard | AudioError], None, None]:
    """Pieces with their results, in order."""
    from sft_speech.inference.computing import computed

    load, forward = partial(_load, checkpoint), partial(_forward, checkpoint, device)
    with contextlib.closing(computed(checkpoint.model, batches, load, forward, device)) as outputs:
        for batch, output in outputs:
            _collect(checkpoint, batch, output)
            if progress is not None:
                progress(sum(batch.samples) / checkpoint.rate)
            batch.pool.missing -= 1
            if batch.pool.missing == 0:
                yield from zip(batch.pool.pieces, batch.pool.results, strict=True)


def _forward(checkpoint: Checkpoint, device: torch.device, model: torch.nn.Module, batch: _Batch) -> Any:
    """Best tokens (B, T); of the clips with labels, their losses (B,); log-probabilities (B, T, V) where they are asked
    for: on the device, without waiting for it.
    """
    import torch

    if not batch.places:
        return None
    try:
        features = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.features.items()}
        with torch.no_grad(), _autocast(device):
            logits = model(**features).logits
        scores = logits.float().log_softmax(dim=-1) if batch.scores else None
        return logits.argmax(dim=-1).to(torch.int32), _losses(checkpoint, batch, logits), scores
    except torch.OutOfMemoryError as error:
        longest = max(batch.samples) / checkpoint.rate
        given = f"a batch of {len(batch.samples)} x {longest:.1f} s"
        raise UserError(given, "it doesn't fit into the GPU's memory", "set a smaller --max_batch_seconds") from error
    finally:
        batch.features = {}


def _losses(checkpoint: Checkpoint, batch: _Batch, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """CTC loss (B,) of each clip, and whether its labels don't fit into its frames (B,); None without labels.

    B clips, logits (B, T, V) over T frames and V tokens.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    from sft_speech.tasks.asr.ctc.loss import IGNORED, ctc_losses, unfitting

    given = [batch.pool.pieces[place].source.labels for place in batch.places]
    if all(one is None for one in given):
        return None
    one_each = [torch.tensor([] if one is None else list(one), dtype=torch.long) for one in given]
    labels = pad_sequence(one_each, batch_first=True, padding_value=IGNORED).to(logits.device)
    frames = torch.tensor([int(checkpoint.frames(samples)) for samples in batch.samples], device=logits.device)
    return ctc_losses(logits, frames.clamp(max=logits.shape[1]), labels, checkpoint.blank), unfitting(frames, labels)


def _collect(checkpoint: Checkpoint, batch: _Batch, output: Any) -> None:
    """Each clip's own frames, and not one more, into the results of its pool."""
    if output is None:
        return
    ids = output[0].cpu().numpy()  # (B, T)
    losses, infeasible = (None, None) if output[1] is None else (tensor.cpu().numpy() for tensor in output[1])
    scores = None if output[2] is None else output[2].cpu().numpy()  # (B, T, V)
    for row, (place, samples) in enumerate(zip(batch.places, batch.samples, strict=True)):
        piece = batch.pool.pieces[place]
        frames = int(checkpoint.frames(samples))
        heard = _Heard(ids[row, :frames].copy(), samples)
        if scores is not None:
            heard = replace(heard, scores=scores[row, :frames].copy())
        whole = piece.window.start == 0 and piece.last
        if losses is not None and infeasible is not None and piece.source.labels is not None and whole:
            heard = replace(heard, loss=float(losses[row]), infeasible=bool(infeasible[row]))
        batch.pool.results[place] = heard


def _recognition(
    checkpoint: Checkpoint, grid: FrameGrid, parts: list[tuple[_Piece, _Heard | AudioError]]
) -> Recognition | AudioError:
    """One clip from the results of its windows; up to the first one that can't be read."""
    heard: list[_Heard] = []
    problem = ""
    for piece, part in parts:
        if isinstance(part, AudioError):
            if not heard:
                return part
            at = (piece.source.start or 0.0) + piece.window.start / checkpoint.rate
            problem = f"nothing was read beyond {at:.1f} s: {part}"
            break
        heard.append(part)
    windows = [piece.window for piece, _ in parts[: len(heard)]]
    best = [part.ids for part in heard]
    ids = join(best, windows)
    scores = [part.scores for part in heard if part.scores is not None]
    samples = windows[-1].start + heard[-1].samples
    tokens, starts, ends = runs(ids, checkpoint.blank)
    return Recognition(
        text=" ".join(checkpoint.decode(tokens.tolist()).split()),  # a model may part two words twice
        tokens=tokens,
        starts=starts,
        ends=ends,
        frames=len(ids),
        blanks=int((ids == checkpoint.blank).sum()),
        seconds=samples / checkpoint.rate,
        frame_seconds=grid.stride / checkpoint.rate,
        loss=heard[0].loss if len(parts) == 1 else None,
        infeasible=heard[0].infeasible,
        problem=problem,
        scores=join(scores, windows, best) if len(scores) == len(heard) else None,
    )


def runs(ids: np.ndarray, blank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """CTC's collapse that keeps the frames: tokens (N,), and where each starts and ends.

    Args:
        ids: (T,) best token of each frame.
    """
    if len(ids) == 0:
        empty = np.zeros(0, np.int64)
        return empty, empty, empty
    starts = np.concatenate([[0], np.flatnonzero(np.diff(ids)) + 1])
    ends = np.append(starts[1:], len(ids))
    spoken = ids[starts] != blank
    return ids[starts][spoken], starts[spoken], ends[spoken]


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
