"""Checkpoints without a training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from accelerate import PartialState

from sft_speech.training import checkpoints


@pytest.fixture
def checkpoint() -> Callable[..., Path]:
    """Makes a checkpoint of a step, sealed or not, in an output directory."""

    def make(output: Path, step: int, whole: bool = True) -> Path:
        folder = output / f"checkpoint-{step}"
        (folder / "pieces").mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights" * step)
        (folder / "pieces" / "__0_0.distcp").write_bytes(b"piece" * step)
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        if whole:
            checkpoints.seal(folder, PartialState())
        return folder

    return make
