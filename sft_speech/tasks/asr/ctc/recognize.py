"""Recognition by a CTC model, greedy or with a beam search, for evaluation and for transcription.

clips cut into overlapping chunks        inference/pieces.py does what any model needs
  -> best token per frame (B, T)         argmax on the device; logits are kept only for a beam search
  -> each chunk's own frames (T,)        cut before anything is decoded, chunks joined
  -> text, and the frames of its tokens  in the order of the clips

Legend: B chunks, T frames, V tokens.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sft_speech.audio.read import AudioError
from sft_speech.audio.units import samples_of
from sft_speech.inference.batching import WHOLE_SECONDS, rounded
from sft_speech.inference.chunking import CHUNK_SECONDS, Chunk, FrameGrid, cut_chunks, join
from sft_speech.inference.pieces import POOL, Batch, Output, Piece, Result, Steps, Tensors, results
from sft_speech.tasks.asr.ctc.recognition import CtcCounts, Recognition, means, runs
from sft_speech.tasks.asr.recognizer import Clip, default_batch_seconds

if TYPE_CHECKING:
    import torch

    from sft_speech.tasks.asr.ctc.beam import BeamDecoder
    from sft_speech.tasks.asr.ctc.checkpoint import Checkpoint


@dataclass(frozen=True)
class _Output:
    """The model's output for a chunk."""

    ids: np.ndarray  # (T,)
    probabilities: np.ndarray  # (T,) of these
    samples: int
    loss: float | None = None
    infeasible: bool = False
    scores: np.ndarray | None = None  # (T, V)


class _Tensors(NamedTuple):
    """The model's output for a batch, on its device."""

    ids: torch.Tensor  # (B, T)
    probabilities: torch.Tensor  # (B, T)
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

    The model computes as :func:`sft_speech.inference.pieces.results` describes, and is in evaluation mode while the
    iterator lives.

    Args:
        progress: called after each batch; with a decoder, after each clip.
        decoder: searches with a language model while the next batches are computed; None is greedy.
        scores: whether to keep the log-probabilities in the results.
    """
    import torch

    device = torch.device(device) if device is not None else next(checkpoint.model.parameters()).device
    steps = _Ctc(checkpoint, samples_of(chunk_seconds, checkpoint.rate), scores or decoder is not None)
    limit = max_batch_seconds or default_batch_seconds(device)
    found = results(steps, clips, limit, device, progress if decoder is None else None, pool_size)
    with contextlib.closing(found):
        yield from found if decoder is None else decoder.follow(found, progress)


class ChunkSteps(Steps[Clip, Chunk, Tensors, Output, Result]):
    """The steps of recognition frame by frame, in overlapping chunks.

    Args:
        longest: samples of a chunk.
    """

    def __init__(self, checkpoint: Checkpoint, longest: int) -> None:
        from sft_speech.inference.precision import compiles_shapes

        self.checkpoint, self.model, self.rate = checkpoint, checkpoint.model, checkpoint.rate
        self.longest = longest
        self.grid = FrameGrid.measure(checkpoint.frames)
        self.multiple = samples_of(WHOLE_SECONDS, self.rate) if compiles_shapes(self.model) else 1

    def frames(self, samples: int) -> int:
        return int(self.checkpoint.frames(samples))

    def cut(self, source: Clip) -> list[Chunk]:
        return cut_chunks(samples_of(source.seconds, self.rate), self.grid, self.frames, self.longest)

    def features(self, waveforms: list[np.ndarray]) -> dict[str, torch.Tensor]:
        return rounded(self.checkpoint.features(waveforms), self.multiple)


def padded_labels(batch: Batch[Clip, Chunk, Any]) -> torch.Tensor | None:
    """Return the labels (B, L) of a batch, padded with IGNORED; None if it has none."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    from sft_speech.tasks.asr.ctc.loss import IGNORED

    given = [piece.source.labels for piece in batch.pieces]
    if all(one is None for one in given):
        return None
    rows = [torch.tensor(list(one or []), dtype=torch.long) for one in given]
    return pad_sequence(rows, batch_first=True, padding_value=IGNORED)


class _Ctc(ChunkSteps[_Tensors, _Output, Recognition]):
    """The steps of recognition with a CTC model.

    Args:
        scores: whether log-probabilities are kept.
    """

    def __init__(self, checkpoint: Checkpoint, longest: int, scores: bool) -> None:
        super().__init__(checkpoint, longest)
        self.scores = scores

    def without_model(self, waveform: np.ndarray) -> _Output | None:
        if self.frames(len(waveform)) >= 1:
            return None
        return _Output(np.zeros(0, np.int32), np.zeros(0, np.float32), len(waveform))

    def forward(
        self, model: torch.nn.Module, features: dict[str, torch.Tensor], batch: Batch[Clip, Chunk, _Output]
    ) -> _Tensors:
        import torch

        logits = model(**features).logits
        scores = logits.float().log_softmax(dim=-1) if self.scores else None
        ids = logits.argmax(dim=-1)
        best = logits.gather(-1, ids[..., None])[..., 0].float() - logits.float().logsumexp(dim=-1)
        return _Tensors(ids.to(torch.int32), best.exp(), self._losses(logits, batch), scores)

    def _losses(
        self, logits: torch.Tensor, batch: Batch[Clip, Chunk, _Output]
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return the losses (B,) for logits (B, T, V), and whether labels do not fit (B,); None without labels."""
        import torch

        from sft_speech.tasks.asr.ctc.loss import ctc_losses, unfitting

        labels = padded_labels(batch)
        if labels is None:
            return None
        labels = labels.to(logits.device)
        frames = torch.tensor([self.frames(samples) for samples in batch.samples], device=logits.device)
        blank = self.checkpoint.blank
        return ctc_losses(logits, frames.clamp(max=logits.shape[1]), labels, blank), unfitting(frames, labels)

    def collect(self, tensors: _Tensors, batch: Batch[Clip, Chunk, _Output]) -> Iterator[_Output]:
        """Copy the frames of each chunk, without its padding."""
        ids, probabilities = tensors.ids.cpu().numpy(), tensors.probabilities.cpu().numpy()
        scores = None if tensors.scores is None else tensors.scores.cpu().numpy()
        losses = None if tensors.losses is None else [tensor.tolist() for tensor in tensors.losses]
        for row, (piece, samples) in enumerate(zip(batch.pieces, batch.samples, strict=True)):
            frames = self.frames(samples)
            output = _Output(ids[row, :frames].copy(), probabilities[row, :frames].copy(), samples)
            if scores is not None:
                output = replace(output, scores=scores[row, :frames].copy())
            if losses is not None and piece.source.labels is not None and piece.whole:
                output = replace(output, loss=losses[0][row], infeasible=losses[1][row])
            yield output

    def join(self, pieces: list[Piece[Clip, Chunk]], outputs: list[_Output], problem: str) -> Recognition:
        checkpoint, chunks = self.checkpoint, [piece.part for piece in pieces]
        best = [output.ids for output in outputs]
        ids = join(best, chunks)
        scores = [output.scores for output in outputs if output.scores is not None]
        tokens, starts, ends = runs(ids, checkpoint.blank)
        return Recognition(
            text=" ".join(checkpoint.decode(tokens.tolist()).split()),  # a model may output two delimiters in a row
            seconds=(chunks[-1].start + outputs[-1].samples) / self.rate,
            loss=outputs[0].loss,
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
            probabilities=means(join([output.probabilities for output in outputs], chunks, best), starts, ends),
            frame_seconds=self.grid.stride / self.rate,
            vocabulary=checkpoint.vocabulary,
            scores=join(scores, chunks, best) if len(scores) == len(outputs) else None,
        )
