"""Greedy recognition by a transducer: the tokens of each frame, and their durations.

clips cut into overlapping chunks        inference/pieces.py does what any model needs
  -> tokens and durations (B, N)         tdt/search.py
  -> each chunk's tokens by frame (T,)   without those of the padding; chunks joined
  -> text, and the frames of its tokens  in the order of the clips

Legend: B chunks, N steps of the search, T frames.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sft_speech.audio.read import AudioError
from sft_speech.audio.units import samples_of
from sft_speech.inference.chunking import CHUNK_SECONDS, Chunk, join
from sft_speech.inference.pieces import POOL, Batch, Piece, results
from sft_speech.tasks.asr.ctc.recognize import ChunkSteps, padded_labels
from sft_speech.tasks.asr.recognizer import Clip, default_batch_seconds
from sft_speech.tasks.asr.timed import TimedHypothesis

if TYPE_CHECKING:
    import torch

    from sft_speech.tasks.asr.tdt.checkpoint import Checkpoint

MOST_LOGITS = 2**27  # half a GiB


@dataclass(frozen=True)
class _Output:
    """The model's output for a chunk."""

    emitted: np.ndarray  # (T,) a tuple of (token, duration, probability) for each frame
    samples: int
    loss: float | None = None


class _Tensors(NamedTuple):
    """The model's output for a batch, on its device."""

    tokens: torch.Tensor  # (B, N), see `sft_speech.tasks.asr.tdt.search.Steps`
    durations: torch.Tensor  # (B, N)
    probabilities: torch.Tensor  # (B, N)
    losses: torch.Tensor | None  # (B,)


def recognize(
    checkpoint: Checkpoint,
    clips: Iterable[Clip],
    *,
    max_batch_seconds: float | None = None,
    device: torch.device | str | None = None,
    chunk_seconds: float = CHUNK_SECONDS,
    progress: Callable[[float], object] | None = None,
    decoder: None = None,
    pool_size: int = POOL,
    most_logits: int = MOST_LOGITS,
) -> Iterator[TimedHypothesis | AudioError]:
    """Recognize clips as :meth:`~sft_speech.tasks.asr.recognizer.Recognizer.recognize` describes.

    Args:
        most_logits: logits that are computed together for the losses, at least one chunk's.
    """
    import torch

    device = torch.device(device) if device is not None else next(checkpoint.model.parameters()).device
    steps = _Tdt(checkpoint, samples_of(chunk_seconds, checkpoint.rate), most_logits)
    limit = max_batch_seconds or default_batch_seconds(device)
    found = results(steps, clips, limit, device, progress, pool_size)
    with contextlib.closing(found):
        yield from found


class _Tdt(ChunkSteps[_Tensors, _Output, TimedHypothesis]):
    """The steps of recognition with a transducer."""

    checkpoint: Checkpoint

    def __init__(self, checkpoint: Checkpoint, longest: int, most_logits: int) -> None:
        super().__init__(checkpoint, longest)
        self.most_logits = most_logits

    def without_model(self, waveform: np.ndarray) -> _Output | None:
        return _Output(np.zeros(0, object), len(waveform)) if self.frames(len(waveform)) < 1 else None

    def forward(
        self, model: torch.nn.Module, features: dict[str, torch.Tensor], batch: Batch[Clip, Chunk, _Output]
    ) -> _Tensors:
        import torch

        from sft_speech.tasks.asr.tdt.search import greedy

        encoded = model.get_audio_features(**features)  # type: ignore[operator]
        frames = torch.tensor([self.frames(samples) for samples in batch.samples], device=encoded.pooler_output.device)
        labels = padded_labels(batch)
        losses = None if labels is None else self._losses(model, encoded, frames, labels.to(frames.device))
        return _Tensors(*greedy(model, encoded.pooler_output, frames), losses)

    def _losses(self, model: torch.nn.Module, encoded: Any, frames: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the losses (B,) for the output of the encoder, of as many chunks together as memory allows."""
        import torch

        from sft_speech.tasks.asr.tdt.loss import utterance_losses

        config: Any = model.config
        logits = encoded.pooler_output.shape[1] * (labels.shape[1] + 1) * (config.vocab_size + len(config.durations))
        together = max(1, self.most_logits // logits)
        found = []
        for some in range(0, len(labels), together):
            rows = slice(some, some + together)
            given = {"encoder_outputs": type(encoded)(pooler_output=encoded.pooler_output[rows])}
            found.append(utterance_losses(model, config, given, frames[rows], labels[rows]))
        return torch.cat(found)

    def collect(self, tensors: _Tensors, batch: Batch[Clip, Chunk, _Output]) -> Iterator[_Output]:
        """Sort the tokens of each chunk by their frames, without those of its padding."""
        tokens, durations, probabilities = (
            one.cpu().numpy() for one in (tensors.tokens, tensors.durations, tensors.probabilities)
        )
        losses = None if tensors.losses is None else tensors.losses.tolist()
        for row, (piece, samples) in enumerate(zip(batch.pieces, batch.samples, strict=True)):
            emitted = self._by_frame(tokens[row], durations[row], probabilities[row], self.frames(samples))
            output = _Output(emitted, samples)
            if losses is not None and piece.source.labels is not None and piece.whole:
                output = replace(output, loss=losses[row])
            yield output

    def _by_frame(
        self, tokens: np.ndarray, durations: np.ndarray, probabilities: np.ndarray, frames: int
    ) -> np.ndarray:
        """Return (T,) tuples of (token, duration, probability) from the steps (N,) of a chunk of T frames."""
        emitted = np.empty(frames, object)
        for frame in range(frames):
            emitted[frame] = ()
        frame = 0
        steps = zip(tokens.tolist(), durations.tolist(), probabilities.tolist(), strict=True)
        for token, duration, probability in steps:
            if frame >= frames:
                break
            if token != self.checkpoint.blank:
                emitted[frame] += ((token, duration, probability),)
            frame += duration
        return emitted

    def join(self, pieces: list[Piece[Clip, Chunk]], outputs: list[_Output], problem: str) -> TimedHypothesis:
        chunks = [piece.part for piece in pieces]
        # Chunks agree where tokens and durations do; probabilities are never the same to the last bit.
        kinds = [
            np.array([hash(tuple(step[:2] for step in one)) for one in output.emitted], np.int64) for output in outputs
        ]
        emitted = join([output.emitted for output in outputs], chunks, kinds)
        found = [(token, frame, frame + duration) for frame, one in enumerate(emitted) for token, duration, _ in one]
        tokens, starts, ends = np.array(found, np.int64).reshape(-1, 3).T
        probabilities = np.array([step[2] for one in emitted for step in one])
        return TimedHypothesis(
            text=" ".join(self.checkpoint.decode(tokens.tolist()).split()),
            seconds=(chunks[-1].start + outputs[-1].samples) / self.rate,
            loss=outputs[0].loss,
            problem=problem,
            tokens=tokens,
            starts=starts,
            ends=ends,
            probabilities=probabilities,
            frame_seconds=self.grid.stride / self.rate,
            vocabulary=self.checkpoint.vocabulary,
        )
