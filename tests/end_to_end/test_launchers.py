"""Launchers whose way of sharding is not supported."""

from __future__ import annotations

from sft_speech.cli import main


def test_deepspeed_is_refused(arguments, capsys, monkeypatch):
    from transformers import Trainer

    create = Trainer.create_accelerator_and_postprocess

    def with_deepspeed(self):
        create(self)
        self.is_deepspeed_enabled = True

    monkeypatch.setattr(Trainer, "create_accelerator_and_postprocess", with_deepspeed)
    assert main(arguments) == 2
    assert "DeepSpeed is not supported" in capsys.readouterr().err


def test_fsdp_without_gpus_is_reported(arguments, caplog, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert main([*arguments, "--max_steps", "1"]) == 0
    assert "accelerate has FSDP for GPUs only" in caplog.text
