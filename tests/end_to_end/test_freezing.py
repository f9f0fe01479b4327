"""Choosing what is trained with the real command: what moves, what is said, resuming."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file

from sft_speech.cli import main

GRADUAL = (
    "--unfreeze_every_steps 2 --layerdrop 0.3 --hidden_dropout 0.1 --mask_time_prob 0.3 --save_total_limit 3".split()
)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def moved(before: Path, after: Path) -> set[str]:
    old, new = weights(before), weights(after)
    return {name for name, tensor in old.items() if not torch.equal(tensor, new[name])}


def history(output: Path) -> list[dict[str, float]]:
    """Return losses and gradient norms of all steps, from the last checkpoint."""
    logged = json.loads((output / "checkpoint-8" / "trainer_state.json").read_text())["log_history"]
    return [{name: entry[name] for name in ("loss", "grad_norm")} for entry in logged if "grad_norm" in entry]


def test_exactly_what_is_chosen_moves_and_is_told(arguments, tmp_path, small, caplog):
    caplog.set_level("INFO", "sft_speech")
    keys = ["--train", "[head, encoder.layers.1-, norms, biases]", "--max_steps", "4"]
    assert main([*arguments, *keys, "--freeze_feature_encoder", "false"]) == 0
    expected = {
        name
        for name in weights(small)
        if re.search(r"^lm_head|encoder\.layers\.1\.|norm|bias$", name)
    }  # fmt: skip
    assert moved(small, tmp_path / "out") == expected
    (line,) = (line for line in caplog.messages if line.startswith("trained: "))
    assert re.match(
        r"trained: head [\d,]+ \([\d.]+%\) at \S+, encoder layer 1 and other parts .* frozen encoder ", line
    )


def test_stages_one_after_another_and_resumed_bit_for_bit(arguments, tmp_path, small, caplog):
    """Two layers and what is below them begin in steps 2, 4 and 6; it is resumed after step 4."""
    caplog.set_level("INFO", "sft_speech")
    assert main([*arguments, *GRADUAL]) == 0
    assert any("encoder" in line and "from the top down, step 2 to 6" in line for line in caplog.messages)
    out, resumed = tmp_path / "out", tmp_path / "resumed"
    assert moved(out / "checkpoint-4", out / "checkpoint-8") >= {"wav2vec2.encoder.layers.0.layer_norm.weight"}
    early = moved(small, out / "checkpoint-4")
    assert {".".join(name.split(".")[:4]) for name in early} <= {
        "lm_head.weight", "lm_head.bias", "wav2vec2.encoder.layers.1"
    }  # fmt: skip
    assert len(early) > 2
    again = [*GRADUAL, "--output_dir", str(resumed), "--resume_from_checkpoint", str(out / "checkpoint-4")]
    assert main([*arguments, *again]) == 0
    assert history(resumed) == history(out)
    assert moved(out / "checkpoint-8", resumed / "checkpoint-8") == set()


def test_early_stopping_begins_to_count_when_everything_is_trained(arguments, tmp_path, caplog):
    """Without a learning rate nothing improves. The parts begin in steps 1, 2 and 3, so that 4 and 5 count."""
    run = [*arguments, "--eval_steps", "1", "--learning_rate", "0", "--early_stopping_patience", "2"]
    run += ["--unfreeze_every_steps", "1"]
    assert main([*run, "--max_steps", "4"]) == 0
    assert "ends early" not in caplog.text
    assert main([*run, "--max_steps", "8", "--resume_from_checkpoint"]) == 0
    assert "step 5: no improvement in 2 evaluations, training ends early" in caplog.messages


def test_what_is_refused(arguments, tmp_path, capsys):
    assert main([*arguments, "--train", "head,encoder.layer.1"]) == 2
    error = capsys.readouterr().err
    assert "train encoder.layer.1: this wav2vec2 model has no such part" in error
    assert "did you mean encoder.layers" in error
    assert main([*arguments, "--train", "encoder.layers.0", "--freeze_encoder_steps", "3"]) == 2
    assert "freeze_encoder_steps 3: no head is trained" in capsys.readouterr().err
    assert main([*arguments, "--train", "encoder.layers.1", "--new_vocabulary"]) == 2
    assert "train [encoder.layers.1]: the head is new, and would stay random" in capsys.readouterr().err
    assert main([*arguments, "--max_steps", "2", "--train", "head"]) == 0
    capsys.readouterr()
    assert main([*arguments, "--max_steps", "4", "--train", "body", "--resume_from_checkpoint", "true"]) == 2
    assert "train: the run in" in capsys.readouterr().err
