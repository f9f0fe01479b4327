"""The starting checkpoint is evaluated as it was trained."""

from __future__ import annotations

import json

import numpy as np
import pytest
from datasets import Dataset

from sft_speech.tasks.asr.config import FinetuneAsrConfig
from sft_speech.tasks.asr.seq2seq.task import Seq2SeqRecognition
from sft_speech.training.rows import StoredRows

ROWS = Dataset.from_dict({"id": ["a"], "text": ["A cat."]})


@pytest.mark.parametrize(("trained_on", "full"), [(None, True), ("auto", False)])
def test_a_plain_whisper_begins_with_its_full_encoder(tiny_seq2seq, tmp_path, monkeypatch, trained_on, full):
    folder = tiny_seq2seq("whisper-en")
    config = json.loads((folder / "config.json").read_text())
    copy = tmp_path / "model"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "config.json").write_text(json.dumps(config | {"encoder_seconds": trained_on}))
    task = Seq2SeqRecognition(FinetuneAsrConfig(model=str(copy), source="corpus", output_dir=str(tmp_path / "out")))
    task.load(StoredRows(ROWS))
    assert task.can_evaluate_at_start()
    clip, seconds = np.array([1.0]), []
    monkeypatch.setattr(task, "evaluate", lambda rows: seconds.append(*task.checkpoint.features.seconds(clip)))
    task.evaluate_at_start(ROWS)
    task.evaluate(ROWS)
    at_start, in_training = seconds
    assert 1.0 < in_training < 4.0
    assert at_start == (4.0 if full else in_training)
