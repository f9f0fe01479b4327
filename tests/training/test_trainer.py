"""What the trainer does beside its loss (see test_exact_loss.py)."""

from __future__ import annotations

from transformers import TrainingArguments

from sft_speech.training.trainer import one_gpu


def test_without_a_launcher_one_gpu_is_used(tmp_path, caplog):
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    one_gpu(arguments)
    assert not caplog.records
    arguments._n_gpu = 4  # what a machine with four of them says
    one_gpu(arguments)
    assert arguments.n_gpu == 1
    assert "4 GPUs, of which one is used" in caplog.text
