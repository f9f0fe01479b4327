"""Training of a real Whisper on real speech."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from sft_speech.corpora import CorpusReport, load_corpus
from sft_speech.tasks.asr.config import FinetuneAsrConfig
from sft_speech.tasks.asr.loading import build
from sft_speech.training.rows import StoredRows

NEEDED = ("SFT_SPEECH_DATA", "SFT_SPEECH_WHISPER")
pytestmark = [pytest.mark.skipif(name not in os.environ, reason=f"{name} is not set") for name in NEEDED]


def test_the_gradient_does_not_depend_on_the_batch():
    """Four digits of different lengths, together and split unevenly, without the rounding of single precision."""
    source = str(Path(os.environ["SFT_SPEECH_DATA"], "digits"))
    config = FinetuneAsrConfig(model=os.environ["SFT_SPEECH_WHISPER"], source=source, output_dir="unused")
    rows = load_corpus(source)
    task, given = build(config), StoredRows(rows.select(range(0, len(rows), len(rows) // 4)).select(range(4)))
    task.load(given)
    dataset, collate = task.dataset(task.usable("train", given, CorpusReport())), task.collator()
    clips = [dataset[(0, number)] for number in range(4)]
    assert len({len(clip["waveform"]) for clip in clips}) == 4
    model = task.model.train().double()
    weights = [weight for weight in model.parameters() if weight.requires_grad]

    def gradient(*cuts: int) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        total = 0.0
        for first, last in pairwise((0, *cuts, 4)):
            batch = collate(clips[first:last])
            batch["input_features"] = batch["input_features"].double()
            loss = task.criterion.loss(model, batch).total
            loss.backward()
            total += loss.item()
        return total, torch.cat([weight.grad.flatten() for weight in weights])

    (loss, together), (other, split) = gradient(), gradient(1, 2)
    assert other == pytest.approx(loss, rel=1e-6), "the logits are rounded to single precision"
    assert (split - together).norm() < 1e-9 * together.norm()
