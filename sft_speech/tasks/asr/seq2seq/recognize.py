"""Recognition by a sequence-to-sequence model, for evaluation and for transcription.

clips cut into windows at pauses     inference/pieces.py does what any model needs
  -> encoder states (B, T, H)
  -> tokens of each window           greedy or with beams, bounded by its seconds
  -> times of the tokens             if they are wanted, by a second pass through the decoder
  -> text of the clip                windows joined

Legend: B windows, T positions of the encoder, H hidden size, N tokens, S samples.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from sft_speech.audio.read import AudioError
from sft_speech.inference.chunking import CHUNK_SECONDS
from sft_speech.inference.pieces import POOL, Batch, Piece, Steps, results
from sft_speech.inference.windows import Window, cut_windows
from sft_speech.models.front_end import WhisperFrontEnd
from sft_speech.tasks.asr.recognizer import Clip
from sft_speech.tasks.asr.seq2seq.align import alignment_heads, token_times
from sft_speech.tasks.asr.seq2seq.loss import IGNORED, token_losses
from sft_speech.tasks.asr.seq2seq.recognition import Segment, Seq2SeqCounts, Writing
from sft_speech.tasks.asr.seq2seq.write import Encoded, Writer, Written, attentions, encode
from sft_speech.text.languages import language_of

if TYPE_CHECKING:
    from sft_speech.tasks.asr.seq2seq.checkpoint import Checkpoint

WINDOW_SECONDS = 30.0  # what Whisper was trained on, and more than most clips of other models
# Padded seconds per batch, times beams, that suit a small model on a CPU, a large one in 16 GB of GPU memory: each beam
# holds what the decoder sees of the encoder.
BATCH_SECONDS = {"cpu": 240.0, "cuda": 480.0}
SILENCE = 1e-4  # of full scale: below it nothing can be heard, but the model would write something


@dataclass(frozen=True, eq=False)
class _Output:
    """The result for a window: what was written, and the times of its tokens."""

    written: Written | None  # None: silence
    samples: int
    times: tuple[np.ndarray, np.ndarray] | None = None
    loss: float | None = None


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
    steps: type[Seq2SeqSteps] | None = None,
) -> Iterator[Writing | AudioError]:
    """Recognize clips as :meth:`~sft_speech.tasks.asr.recognizer.Recognizer.recognize` describes.

    Clips longer than 30 seconds, or ``chunk_seconds``, are cut into windows at pauses.

    Args:
        steps: those of a model in another runtime.
    """
    device = torch.device(device) if device is not None else next(checkpoint.model.parameters()).device
    taken = (steps or Seq2SeqSteps)(checkpoint, min(chunk_seconds, WINDOW_SECONDS))
    usual = BATCH_SECONDS.get(device.type, BATCH_SECONDS["cuda"]) / checkpoint.generation.num_beams
    limit = max_batch_seconds or usual
    found = results(taken, clips, limit, device, progress, pool_size)
    with contextlib.closing(found):
        yield from found


class Seq2SeqSteps(Steps[Clip, Window, list[_Output], _Output, Writing]):
    """The steps of recognition with a sequence-to-sequence model.

    Args:
        longest_seconds: length of a window.
    """

    writer: type[Writer] = Writer

    def __init__(self, checkpoint: Checkpoint, longest_seconds: float) -> None:
        self.checkpoint, self.model, self.rate = checkpoint, checkpoint.model, checkpoint.rate
        self.transcripts = checkpoint.transcripts
        self.longest_seconds = longest_seconds
        self.translates = checkpoint.generation.task == "translate"
        self.write = self.writer(
            checkpoint.transcripts, checkpoint.model.generation_config, checkpoint.max_labels, checkpoint.generation
        )
        self.least_seconds = float(checkpoint.features.seconds(np.zeros(1))[0])  # 30 of a Whisper in plain use

    def cut(self, source: Clip) -> Iterator[Window]:
        return cut_windows(source, self.rate, self.longest_seconds)

    def features(self, waveforms: list[np.ndarray]) -> dict[str, Tensor]:
        return self.checkpoint.features(waveforms)

    def without_model(self, waveform: np.ndarray) -> _Output | None:
        silent = len(waveform) == 0 or float(np.abs(waveform).max()) < SILENCE
        return _Output(None, len(waveform)) if silent else None

    def forward(
        self, model: nn.Module, features: dict[str, Tensor], batch: Batch[Clip, Window, _Output]
    ) -> list[_Output]:
        encoded = self.encoded(model, features)
        seconds = [samples / self.rate for samples in batch.samples]
        languages = [self.language(piece.source) for piece in batch.pieces]
        written = self.write(model, encoded, seconds, languages)
        losses = self.losses(model, encoded, batch.pieces, [one.language for one in written])
        times = self.times(model, encoded, batch.samples, written) if self.checkpoint.generation.times else None
        return [
            _Output(one, samples, None if times is None else times[row], losses[row])
            for row, (one, samples) in enumerate(zip(written, batch.samples, strict=True))
        ]

    def language(self, source: Clip) -> str | None:
        """Return the language that is set for a clip; None if it is to be detected."""
        return source.language if self.transcripts.languages else None

    def encoded(self, model: nn.Module, features: dict[str, Tensor]) -> Encoded:
        """Return the clips of a batch after the encoder."""
        return encode(model, features)

    def losses(
        self, model: nn.Module, encoded: Encoded, pieces: list[Piece[Clip, Window]], languages: list[str | None]
    ) -> list[float | None]:
        """Return the losses (B,) of whole clips with labels, teacher-forced; None for the others."""
        rows = [row for row, piece in enumerate(pieces) if piece.whole and piece.source.labels is not None]
        if not rows:
            return [None] * len(pieces)
        prefixes = [self.transcripts.prefix(languages[row], self.checkpoint.generation.task) for row in rows]
        given = [[*(pieces[row].source.labels or [])] for row in rows]
        given = [labels[: self.checkpoint.max_labels + 1 - len(prefixes[0])] for labels in given]
        inputs = [torch.tensor([*prefix, *labels[:-1]]) for prefix, labels in zip(prefixes, given, strict=True)]
        ids = pad_sequence(inputs, batch_first=True).to(encoded.states.device)
        labels = pad_sequence([torch.tensor(one) for one in given], batch_first=True, padding_value=IGNORED)
        some = encoded[rows]
        logits = model(**some.inputs(model), decoder_input_ids=ids, use_cache=False).logits[:, len(prefixes[0]) - 1 :]
        found = token_losses(logits, labels.to(ids.device)).tolist()
        by_row = dict(zip(rows, found, strict=True))
        return [by_row.get(row) for row in range(len(pieces))]

    def times(
        self, model: nn.Module, encoded: Encoded, samples: list[int], written: list[Written]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the start and end of each token in seconds, (N,) each, for B windows."""
        weights = attentions(model, encoded, written)
        given = getattr(self.model.generation_config, "alignment_heads", None)
        heads = alignment_heads(given, len(weights), weights[0].shape[1])
        found = []
        for row, (one, own) in enumerate(zip(written, samples, strict=True)):
            kept = torch.stack([weights[layer][row, head] for layer, head in heads]).float().cpu().numpy()
            first = len(one.prefix) - 1
            kept = kept[:, first : first + len(one.tokens) + 1, : self.positions(own, kept.shape[-1])]
            found.append(token_times(kept, own / self.rate))
        return found

    def positions(self, samples: int, all_positions: int) -> int:
        """Return how many of the encoder's positions the samples of a clip make."""
        front_end = self.checkpoint.front_end
        of_clip = front_end.own_positions if isinstance(front_end, WhisperFrontEnd) else front_end.frames
        return min(max(int(of_clip(samples)), 1), all_positions)

    def collect(self, tensors: list[_Output], batch: Batch[Clip, Window, _Output]) -> list[_Output]:
        return tensors

    def join(self, pieces: list[Piece[Clip, Window]], outputs: list[_Output], problem: str) -> Writing:
        segments = tuple(map(self.segment, pieces, outputs))
        counts = sum((segment.counts() for segment in segments), Seq2SeqCounts())
        joint = " " if next((segment.spaced for segment in segments if segment.text), True) else ""
        longest = self.checkpoint.front_end.max_samples
        if not problem and longest is not None and outputs[-1].samples > longest:
            at = segments[-1].start + longest / self.rate
            problem = f"nothing was read beyond {at:.1f} s: its header gives a shorter length"
        return Writing(
            text=joint.join(segment.text for segment in segments if segment.text),
            seconds=segments[-1].start + segments[-1].seconds,
            loss=outputs[0].loss,
            problem=problem,
            silent=all(segment.silent for segment in segments),
            counts=counts,
            segments=segments,
            transcripts=self.transcripts,
        )

    def segment(self, piece: Piece[Clip, Window], output: _Output) -> Segment:
        """Return what was written for a window."""
        start, seconds, one = piece.part.start / self.rate, output.samples / self.rate, output.written
        if one is None:
            return Segment(np.zeros(0, np.int64), np.zeros(0, np.float32), 0.0, 1.0, "", start, seconds)
        starts, ends = output.times or (None, None)
        return Segment(
            tokens=one.tokens,
            logprobs=one.logprobs,
            avg_logprob=one.avg_logprob,
            no_speech_prob=one.no_speech_prob,
            text="" if one.silent else self.transcripts.decode(one.tokens.tolist()),
            start=start,
            seconds=seconds,
            starts=starts,
            ends=ends,
            language=one.language,
            temperature=one.temperature,
            cut=one.cut,
            spaced=self.translates or language_of(one.language or "en").spaced_words,
        )
