"""Loading what ``save_pretrained`` wrote: what can go wrong, in words for the user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from sft_speech.errors import UserError

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.h5")


def check_folder(name: str) -> None:
    """See that a name which is a path is that of a saved model's directory."""
    path = Path(name)
    if path.is_file():
        raise UserError(name, "it is a file", "give the directory of a checkpoint, or its id on the Hub")
    if path.is_dir() and not (path / "config.json").is_file():
        raise UserError(name, "it holds no config.json", "give the directory that save_pretrained wrote")


def how_to_read_weights(name: str, allow_pickle: bool = False) -> dict[str, bool]:
    """What ``from_pretrained`` is told: safetensors, unless a directory has nothing but a pickle, and that is allowed.

    A pickle is a program. torch reads it by ``weights_only``, in which that program can make tensors, numbers, text and
    collections of them, and call nothing else; what remains is a hole in torch's own reader (as CVE-2025-32434, closed
    in torch 2.6), and memory that a small file asks for. So it is allowed by hand only, for a directory, which the
    user can look into and which doesn't change under the name as a repository on the Hub may; from the Hub nothing but
    safetensors is ever read.

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
    """The device that was asked for, or the GPU where there is one.

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
        raise UserError(f"device {device}", first_line(error), do) from error
    return checked


def holds(name: str, *files: str) -> bool | None:
    """Whether a directory has one of these files; `None` if that can't be told (the Hub)."""
    path = Path(name)
    return any((path / file).is_file() for file in files) if path.is_dir() else None


def unreadable(name: str, error: Exception, do: str) -> UserError:
    """The error of a library, in its first line."""
    return UserError(name, f"it can't be loaded ({first_line(error)})", do)


def first_line(error: Exception) -> str:
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def quiet(bars: bool = False) -> Iterator[None]:
    """Keep transformers' loading report and progress bars back: what matters is said in one line of our own.

    Args:
        bars: leave the bars, for downloads.
    """
    verbosity, shown = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    if not bars:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if shown:
            transformers_logging.enable_progress_bar()
