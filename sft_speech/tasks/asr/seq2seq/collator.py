"""Utterances to the tensors of a batch, in a data loader's worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sft_speech.audio.units import seconds_of
from sft_speech.models.spec_augment import with_masks
from sft_speech.tasks.asr.seq2seq.loss import IGNORED
from sft_speech.training.utterances import weights_of

if TYPE_CHECKING:
    from sft_speech.tasks.asr.seq2seq.checkpoint import Checkpoint


class Seq2SeqCollator:
    """Pads utterances to a batch."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.features, self.rate = checkpoint.features, checkpoint.rate
        self.start, self.end = checkpoint.transcripts.start, checkpoint.transcripts.end
        self.time_axis = checkpoint.front_end.time_axis

    def __call__(self, utterances: list[dict[str, Any] | None]) -> dict[str, torch.Tensor]:
        """Return the model's inputs, "decoder_input_ids" and "labels" (B, L), and "seconds" () of unpadded audio.

        A label is the token that follows the input at its place. Labels end where the transcript ends: they are padded
        by their length, because the token that pads may be the one that ends a text.

        If no utterance could be read, the batch is a second of silence without labels, which adds nothing to the loss
        and keeps the processes in step.
        """
        read = [utterance for utterance in utterances if utterance is not None]
        read = read or [{"waveform": np.zeros(self.rate, np.float32), "prefix": [self.start], "labels": []}]
        rows = [utterance["prefix"] + utterance["labels"] for utterance in read]
        length = max(2, *(len(row) for row in rows))
        inputs, labels = torch.full((len(rows), length - 1), self.end), torch.full((len(rows), length - 1), IGNORED)
        for number, (row, utterance) in enumerate(zip(rows, read, strict=True)):
            given = len(utterance["prefix"])
            inputs[number, : len(row[:-1])] = torch.tensor(row[:-1], dtype=torch.long)
            labels[number, given - 1 : len(row) - 1] = torch.tensor(row[given:], dtype=torch.long)
        waveforms = [utterance["waveform"] for utterance in read]
        masks = [utterance["masks"] for utterance in read if "masks" in utterance]
        return {
            **weights_of(read),
            **with_masks(self.features(waveforms), masks, self.time_axis),
            "decoder_input_ids": inputs,
            "labels": labels,
            "seconds": torch.tensor(seconds_of(sum(map(len, waveforms)), self.rate)),
        }
