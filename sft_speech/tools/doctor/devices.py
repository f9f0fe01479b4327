"""Checks of torch, its devices, and one training step."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sft_speech.errors import first_line
from sft_speech.machine import installer
from sft_speech.tools.doctor.finding import Crashed, Finding, apart, imported

EMBEDDED = "assets/wav2vec2-small"
# torchaudio 2.11, its last release, is built for CUDA 13.0, like torch 2.11 to 2.14.
MATCH = f"{installer()} 'torch>=2.11,<2.15' 'torchaudio>=2.11,<2.12'"


def torch_build() -> Iterator[Finding]:
    """Check torch and the GPUs, including GPUs that torch does not see."""
    try:
        found = apart(_torch_facts)
    except (ImportError, OSError, Crashed) as error:
        why = f"cannot be imported ({first_line(error)})"
        yield Finding("fault", "torch", why, f"{installer()} --force-reinstall torch")
        return
    build = f"CUDA {found['cuda']}" if found["cuda"] else f"ROCm {found['hip']}" if found["hip"] else "no GPU"
    yield Finding("ok", "torch", f"{found['version']}, built for {build}; {found['threads']} threads")
    for number, gpu in enumerate(found["gpus"]):
        state = f"{gpu['name']}, {gpu['free'] / 1e9:.1f} GB free of {gpu['total'] / 1e9:.1f}"
        state += ", bfloat16" if gpu["bf16"] else ", no bfloat16 (trains in float32)"
        do = "see `nvidia-smi`; select another GPU with CUDA_VISIBLE_DEVICES"
        used = Finding("note", f"GPU {number}", f"{state}: another process uses it", do)
        yield used.unless(gpu["free"] >= 0.8 * gpu["total"], state)
    if len(found["gpus"]) > 1 and not found["nccl"]:
        do = "install a build of torch with NCCL, or run with --num_processes 1"
        yield Finding("fault", "NCCL", "there are several GPUs, but torch lacks NCCL, which connects them", do)
    if not found["gpus"] and not found["mps"]:
        yield _no_gpu(found)


def _no_gpu(found: dict[str, Any]) -> Finding:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    driver = Path("/proc/driver/nvidia/version")
    if not driver.exists() and shutil.which("nvidia-smi") is None:
        return Finding("ok", "GPU", "none")
    if hidden is not None and hidden.strip() in ("", "-1"):
        return Finding("note", "GPU", f"hidden by CUDA_VISIBLE_DEVICES={hidden!r}", "unset it")
    if not found["cuda"]:
        why = "the machine has an NVIDIA driver, but this torch is built without CUDA"
        return Finding("fault", "GPU", why, f"{installer()} --force-reinstall torch from the index of a CUDA build")
    why = f"the machine has an NVIDIA driver, but torch finds no GPU ({found['why'] or 'no reason given'})"
    do = f"see `nvidia-smi`; update a driver that is older than CUDA {found['cuda']}; start containers with --gpus all"
    return Finding("fault", "GPU", why, do)


def _torch_facts() -> dict[str, Any]:
    import torch

    why = None
    if torch.version.cuda:
        try:
            torch.cuda.init()
        except Exception as error:  # RuntimeError or AssertionError, depending on the version
            why = first_line(error)
    gpus = []
    for number in range(0 if why else torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        with torch.cuda.device(number):
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        gpus.append({"name": torch.cuda.get_device_name(number), "free": free, "total": total, "bf16": bf16})
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "threads": torch.get_num_threads(),
        "nccl": torch.distributed.is_available() and torch.distributed.is_nccl_available(),
        "mps": torch.backends.mps.is_available(),
        "gpus": gpus,
        "why": why,
    }


def training_step() -> Iterator[Finding]:
    """Run the embedded checkpoint forward and backward on the device that a run would use."""
    try:
        device, seconds = apart(_step)
    except Exception as error:  # any error of the libraries or the driver
        do = "if torch is ok, reinstall transformers; the other common cause is an old driver"
        yield Finding("fault", "a training step", f"failed ({first_line(error)})", do)
    else:
        yield Finding("ok", "a training step", f"embedded checkpoint, 2 s of audio, {device}: {seconds:.2f} s")


def _step() -> tuple[str, float]:
    from importlib.resources import files

    import torch
    from transformers import AutoModelForCTC

    from sft_speech.models.load import chosen_device, quiet

    device = chosen_device()
    with quiet():
        model = AutoModelForCTC.from_pretrained(str(files("sft_speech") / EMBEDDED), use_safetensors=True).to(device)
    audio, labels = torch.randn(1, 32_000, device=device), torch.tensor([[5, 6, 7]], device=device)
    began = time.perf_counter()
    loss = model(audio, labels=labels).loss
    loss.backward()
    if not loss.isfinite().item():
        raise ArithmeticError(f"a loss of {loss.item()}")
    return str(device), time.perf_counter() - began


def torchaudio() -> Iterator[Finding]:
    """Check that torchaudio, if installed, matches torch: both must be built for the same CUDA."""
    why = f"{{version}} does not match torch {version('torch')} ({{error}})"
    return imported(_import_torchaudio, Finding("fault", "torchaudio", why, MATCH), " matches torch")


def _import_torchaudio() -> None:
    import torchaudio
    import torchaudio.functional

    del torchaudio
