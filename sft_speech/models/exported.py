"""Models that were exported for another runtime, computed in place of the PyTorch model, on the CPU.

The directory of an exported model holds what that of a checkpoint holds beside its weights, and in place of those the
files of a runtime, which are found by their names. Clips are computed one by one: that needs no padding, so a clip's
results cannot depend on other clips.

Legend: B clips, S samples or frames of the input, T frames, C classes or tokens.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from sft_speech.errors import UserError, first_line
from sft_speech.machine import installer
from sft_speech.models.load import chosen_device

logger = logging.getLogger(__name__)

EXTRA = f"{installer()} 'sft_speech[export]'"


class Format(NamedTuple):
    """A format of exported models.

    Args:
        title: name for messages.
        files: what a directory in this format holds.
        package: Python package that computes it.
    """

    title: str
    files: tuple[str, ...]
    package: str


FORMATS = {
    "onnx": Format("ONNX", ("model.onnx",), "onnxruntime"),
    "openvino": Format("OpenVINO", ("openvino_model.xml",), "openvino"),
    "ctranslate2": Format("CTranslate2", ("model.bin", "vocabulary.json"), "ctranslate2"),
}


class Session(Protocol):
    """A model in a runtime; threads may call it at the same time."""

    inputs: frozenset[str]

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the logits of one clip, (1, T, C) or (1, C)."""


class ExportedModel(nn.Module):
    """A model in another runtime, called as the PyTorch model is: ``model(input_values=...).logits``.

    Args:
        config: configuration of the PyTorch model.
        session: the model in its runtime.
    """

    def __init__(self, config: Any, session: Any) -> None:
        super().__init__()
        self.config, self.session = config, Shared(session)
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # tells the device, as any model's weights do

    def forward(self, attention_mask: Tensor | None = None, **inputs: Tensor) -> SimpleNamespace:
        """Return the logits (B, T, C) or (B, C); frames after a clip's own are 0."""
        session: Session = self.session.one
        rows = []
        for row in range(len(next(iter(inputs.values())))):
            own = None if attention_mask is None else int(attention_mask[row].sum())
            given = {name: value[row : row + 1, :own].float().cpu().numpy() for name, value in inputs.items()}
            if attention_mask is not None:
                given["attention_mask"] = np.ones((1, own or 0), np.int64)
            logits = session({name: np.ascontiguousarray(given[name]) for name in given if name in session.inputs})
            rows.append(torch.from_numpy(np.array(logits[0], np.float32)))
        return SimpleNamespace(logits=pad_sequence(rows, batch_first=True))


class Shared:
    """A session of which copies of a model share one: it cannot be copied, and need not be."""

    def __init__(self, one: Any) -> None:
        self.one = one

    def __deepcopy__(self, memo: dict[int, Any]) -> Shared:
        return self


class OnnxSession:
    """A model in ONNX Runtime."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        _, options.intra_op_num_threads = threads()
        options.log_severity_level = 3  # errors
        path = str(folder / FORMATS["onnx"].files[0])
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs = frozenset(one.name for one in self.session.get_inputs())

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        (logits,) = self.session.run(["logits"], dict(inputs))
        return np.asarray(logits)


class OpenVinoSession:
    """A model in OpenVINO."""

    def __init__(self, folder: Path) -> None:
        import openvino

        # By default OpenVINO computes in bfloat16 where the processor can.
        settings = {"INFERENCE_NUM_THREADS": threads()[1], "INFERENCE_PRECISION_HINT": "f32"}
        path = folder / FORMATS["openvino"].files[0]
        self.compiled = openvino.Core().compile_model(path, "CPU", settings)
        self.inputs = frozenset(one.get_any_name() for one in self.compiled.inputs)

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        found = self.compiled.create_infer_request().infer(dict(inputs))  # a request belongs to one thread
        return np.array(found["logits"])


class CTranslate2Session:
    """A wav2vec 2.0 with a CTC head in CTranslate2."""

    inputs = frozenset({"input_values"})

    def __init__(self, folder: Path) -> None:
        import ctranslate2

        self.model = ctranslate2.models.Wav2Vec2(str(folder), **pool())

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        import ctranslate2

        features = ctranslate2.StorageView.from_array(inputs["input_values"][None])  # (1, 1, S)
        logits = np.array(self.model.encode(features, to_cpu=True))
        return logits.reshape(1, *logits.shape[-2:])


SESSIONS = {"onnx": OnnxSession, "openvino": OpenVinoSession, "ctranslate2": CTranslate2Session}


def threads() -> tuple[int, int]:
    """Return how many clips are computed at the same time, and with how many threads each.

    See :func:`~sft_speech.inference.computing.on_cores`, which calls the model.
    """
    cores = torch.get_num_threads()
    clips = min(4, cores)
    return clips, cores // clips


def pool() -> dict[str, Any]:
    """Return arguments of the models of CTranslate2."""
    clips, each = threads()
    return {"device": "cpu", "inter_threads": clips, "intra_threads": each}


def exported_format(name: object) -> str | None:
    """Return the format of an exported model by the files of its directory; None for a checkpoint."""
    if not isinstance(name, str | Path) or not Path(name).is_dir() or any(Path(name).glob("model*.safetensors")):
        return None
    return next((key for key, one in FORMATS.items() if all((Path(name) / file).is_file() for file in one.files)), None)


def device_for(name: object, device: str | torch.device | None) -> torch.device:
    """Return the device of a model: the CPU for an exported one.

    Raises:
        UserError: there is no such device.
    """
    chosen = chosen_device(device)
    if exported_format(name) is None or chosen.type == "cpu":
        return chosen
    if device is not None:
        logger.warning("%s is an exported model: it is computed on the CPU, not on %s", name, device)
    return torch.device("cpu")


def open_session(folder: str | Path, kind: Any = None) -> Any:
    """Open an exported model in its runtime.

    Args:
        kind: class of the session; None: what the format needs for a model that returns logits.

    Raises:
        UserError: the runtime is not installed, or cannot read the files.
    """
    format = exported_format(folder) or ""
    check_installed(FORMATS[format].package, str(folder))
    try:
        return (kind or SESSIONS[format])(Path(folder))
    except Exception as error:  # each runtime raises errors of its own
        why = f"{FORMATS[format].package} cannot read it ({first_line(error)})"
        raise UserError(str(folder), why, "export the model again: sft-speech export") from error


def check_installed(package: str, given: str) -> None:
    """Check that a package of the extra ``export`` can be imported.

    Raises:
        UserError: it cannot.
    """
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise UserError(given, f"it needs {package} ({first_line(error)})", EXTRA) from error
