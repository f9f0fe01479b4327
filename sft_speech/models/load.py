"""Safe loading of saved models, with errors that a user can act on."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from sft_speech.errors import UserError, first_line
from sft_speech.files import is_lfs_pointer
from sft_speech.models.exact.lengths import use_precise_convolutions
from sft_speech.models.linear import use_faster_linear

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.h5")


def read_config(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> PreTrainedConfig:
    """Read the configuration of a checkpoint.

    Raises:
        UserError: there is no such checkpoint, or its configuration cannot be read.
    """
    check_folder(name)
    try:
        # Without trust_remote_code transformers would ask on the terminal.
        return AutoConfig.from_pretrained(name, revision=revision or "main", trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise not_found(name, error) from error


def not_found(name: str, error: Exception) -> UserError:
    """Return the error for a model whose configuration cannot be read."""
    if Path(name).is_dir():
        return unreadable(name, error, "give the directory that save_pretrained wrote")
    if constants.HF_HUB_OFFLINE:
        why = "there is no such directory, and HF_HUB_OFFLINE is set: of the Hub, only the cache is read"
        return UserError(name, why, "check the path, or unset HF_HUB_OFFLINE")
    return unreadable(name, error, "check the name and the connection to the Hub, or give the directory of a copy")


def load_pretrained(
    model_class: Any,
    name: str,
    *,
    config: PreTrainedConfig | None = None,
    revision: str | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    from_scratch: bool = False,
    new_head: bool = False,
    do: str = "check its weights (safetensors, from the Hub), or download them again",
) -> tuple[PreTrainedModel, list[str]]:
    """Load a model in float32, however its weights were saved, in evaluation mode.

    Args:
        model_class: a model or Auto class of transformers.
        name: a directory, or an id on the Hub.
        config: configuration to use instead of the checkpoint's own.
        revision: branch, tag or commit on the Hub.
        allow_pickle: see :func:`how_to_read_weights`.
        trust_remote_code: run code that comes with the checkpoint.
        from_scratch: build the architecture of ``config`` with random weights.
        new_head: replace weights of another shape with random ones.
        do: what the user should do if it cannot be loaded.

    Returns:
        The model, and the names of its weights that the checkpoint lacks and that are therefore random.

    Raises:
        UserError: no such checkpoint, no weights or only pickled ones, damaged files, or weights of another model.
    """
    if from_scratch:
        auto = hasattr(model_class, "from_config")
        model = model_class.from_config(config, trust_remote_code=trust_remote_code) if auto else model_class(config)
        suit_cpu(model.float())
        return model.eval(), [key for key, _ in model.named_parameters()]
    check_folder(name)
    how: dict[str, Any] = how_to_read_weights(name, allow_pickle)
    if config is not None:
        how["config"] = config
    try:
        with quiet(bars=not Path(name).is_dir()):
            model, found = model_class.from_pretrained(
                name,
                revision=revision or "main",
                trust_remote_code=trust_remote_code,
                dtype=torch.float32,
                ignore_mismatched_sizes=new_head,
                output_loading_info=True,
                **how,
            )
    except Exception as error:  # damaged files, wrong shapes and the Hub each raise errors of their own
        unreached = isinstance(error.__cause__, LocalEntryNotFoundError)
        raise (not_found(name, error) if unreached else unreadable(name, error, do)) from error
    if any(".lora_A." in key for key in found["unexpected_keys"]):
        why = "its weights hold the updates of LoRA apart: it is a checkpoint of a run"
        raise UserError(name, why, "finish the run with --resume_from_checkpoint, and use its output directory")
    mismatched = {key if isinstance(key, str) else key[0] for key in found["mismatched_keys"]}
    weights = list(model.state_dict())
    new = [key for key in weights if key in mismatched or key in found["missing_keys"]]
    if len(new) > len(weights) / 2:
        kind = model.config.model_type
        raise UserError(name, f"its weights aren't those of a {kind} model", "check that config.json belongs to them")
    suit_cpu(model)
    return model.eval(), new


def suit_cpu(model: PreTrainedModel) -> None:
    """Replace layers that torch computes slowly, or wrongly in bfloat16, on some CPUs."""
    use_faster_linear(model)
    use_precise_convolutions(model)


def check_folder(name: str) -> None:
    """Check that a name, if it can only be a path, is the directory of a saved model."""
    path = Path(name)
    if path.is_file():
        raise UserError(name, "it is a file", "give the directory of a checkpoint, or its id on the Hub")
    beside = "/" in name and path.parent.is_dir()  # outputs/mine, with a folder outputs here
    if not path.exists() and (beside or name.startswith(("/", ".", "~")) or name.count("/") > 1):  # no id of the Hub
        raise UserError(name, "there is no such directory", "give the directory of a checkpoint, or its id on the Hub")
    if (path / "adapter_config.json").is_file():
        do = f"make a model of it and its base: sft-speech merge {shlex.quote(name)} -o DIR"
        raise UserError(name, "it is an adapter", f"{do}; to continue its training, set `adapter:`")
    if path.is_dir() and not (path / "config.json").is_file():
        raise UserError(name, "it holds no config.json", "give the directory that save_pretrained wrote")
    for file in sorted(path.iterdir()) if path.is_dir() else ():
        if is_lfs_pointer(file):
            why = f"{file.name} is a Git LFS pointer: the file itself was not downloaded"
            raise UserError(name, why, f"git -C {shlex.quote(name)} lfs pull")


def how_to_read_weights(name: str, allow_pickle: bool = False) -> dict[str, bool]:
    """Return arguments of ``from_pretrained``: for safetensors, or for an allowed pickle if there is nothing else.

    A pickle is a program. torch reads it with ``weights_only``, in which that program can create tensors, numbers, text
    and collections of them, and call nothing else. The remaining risks are holes in torch's own reader (such as
    CVE-2025-32434, fixed in torch 2.6) and the memory that a small file may request. So a pickle has to be allowed
    explicitly, and only for a directory, which the user can inspect and which does not change under its name as a
    repository on the Hub may. Only safetensors are ever read from the Hub.

    Raises:
        UserError: a directory has no weights, or only pickled ones.
    """
    folder = Path(name)
    if not folder.is_dir() or any(folder.glob("model*.safetensors")):
        return {"use_safetensors": True}
    pickled = next((path.name for pattern in PICKLED for path in sorted(folder.glob(pattern))), None)
    if pickled is None:
        raise UserError(f"{folder}", "it holds no weights (model.safetensors)", "give the directory of a saved model")
    if not allow_pickle:
        why = f"its weights are pickled ({pickled}), and a pickle is a program"
        raise UserError(f"{folder}", why, "ask its author for safetensors; if you trust it, add --allow_pickle")
    return {"use_safetensors": False, "weights_only": True}


def chosen_device(device: str | torch.device | None = None) -> torch.device:
    """Return the requested device; by default a GPU if there is one, else the CPU.

    Raises:
        UserError: there is no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        checked = torch.device(device)
        torch.empty(0, device=checked)
    except (RuntimeError, AssertionError) as error:
        do = "give cpu, cuda or cuda:N, or leave it out"
        if device == "gpu":
            raise UserError("device gpu", "PyTorch does not know this name", "give cuda") from error
        raise UserError(f"device {device}", first_line(error), do) from error
    return checked


def holds(name: str, *files: str) -> bool | None:
    """Return whether a directory has one of these files; None for the Hub, where this is unknown."""
    path = Path(name)
    return any((path / file).is_file() for file in files) if path.is_dir() else None


def unreadable(name: str, error: Exception, do: str) -> UserError:
    """Return an error with the first line of a library's message."""
    return UserError(name, f"it cannot be loaded ({first_line(error)})", do)


@contextmanager
def quiet(bars: bool = False) -> Iterator[None]:
    """Suppress transformers' loading report and progress bars; our own log line has what matters.

    Args:
        bars: keep the bars, for downloads.
    """
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with nullcontext() if bars else without_bars():
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)


@contextmanager
def without_bars() -> Iterator[None]:
    """Hide the progress bars of transformers and of the Hub's library; afterwards they are as they were."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
