"""Jobs, their command lines, and the line that says why a run failed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from sft_speech.errors import UserError
from sft_speech.tasks.asr.config import FinetuneAsrConfig
from sft_speech.tools.compare.processes import Ending, Job, Processes, visible_gpus, why_ended


def job(folder: Path, name: str = "a", **options) -> Job:
    config = FinetuneAsrConfig(model="m", source=str(folder / "none"), output_dir=str(folder / name), **options)
    return Job(name, "asr", config, folder / "logs" / f"{name}.log")


def test_command_line(tmp_path):
    one = job(tmp_path, learning_rate=1e-3, trust_remote_code=True)
    file = str(tmp_path / "logs" / "a.yaml")
    resumes = ["--config", file, "--resume_from_checkpoint", "auto"]
    assert one.command() == [
        sys.executable,
        "-m",
        "sft_speech",
        "finetune-asr",
        *resumes,
        "--trust_remote_code",
        "true",
    ]
    written = yaml.safe_load(Path(file).read_text())
    assert (written["learning_rate"], written["trust_remote_code"]) == (1e-3, False)


@pytest.mark.parametrize(
    ("code", "text", "why"),
    [
        (0, "", ""),
        (2, "step 1/8\nmodel m: there is no such file.\n-> give another one\n", "model m: there is no such file"),
        (
            1,
            "Traceback (most recent call last):\n  File a\nRuntimeError: CUDA error\nnote\n",
            "RuntimeError: CUDA error",
        ),
        (1, "step 1\rstep 2\n", "step 2"),
        (1, "", "exit code 1"),
        (-9, "step 1\n", "killed by SIGKILL, perhaps because memory ran out"),
        (-11, "", "killed by SIGSEGV"),
        (2, "\x1b[31mbad.\n-> do\n", "\\x1b[31mbad"),
    ],
)
def test_why_a_run_ended(tmp_path, code, text, why):
    (tmp_path / "log").write_text(text)
    assert why_ended(code, tmp_path / "log") == why


def test_real_processes_fail_each_with_its_own_line(tmp_path):
    """One per GPU, two at a time; they see the GPU that they were given, and there are no such GPUs."""
    said: list[str] = []
    ended: dict[str, Ending] = {}
    jobs = [job(tmp_path, "a"), job(tmp_path, "b", channel="left")]
    run = Processes(["5", "6"], said.append)
    run(jobs, lambda one, ending: ended.__setitem__(one.name, ending))
    assert {name: ending.code for name, ending in ended.items()} == {"a": 2, "b": 2}
    assert all("none" in ending.why for ending in ended.values())
    assert said[0] == f"a: begins on GPU 5; its output goes to {tmp_path}/logs/a.log"


def test_gpus(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus(None) == ["0", "1"]
    assert visible_gpus("1") == ["1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert visible_gpus(None) == ["4", "7"]
    for wrong in ("2", "0,0", ""):
        with pytest.raises(UserError):
            visible_gpus(wrong)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert visible_gpus(None) == [None]
    with pytest.raises(UserError, match="this machine shows no GPU"):
        visible_gpus("0")
