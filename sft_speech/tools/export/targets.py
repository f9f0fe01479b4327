"""What a model can be exported to: which models, what is written, by whose converter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

Writer = Callable[[Any, Path, Path, bool], None]


class Refused(NamedTuple):
    """Why a model or an option does not suit a target, and what to do."""

    why: str
    do: str


# CTranslate2's code has these settings of the published wav2vec 2.0 models with layer norm.
PUBLISHED = {
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "conv_bias": True,
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "add_adapter": False,
    "adapter_attn_dim": None,
}


@dataclass(frozen=True)
class Target:
    """A runtime.

    Args:
        title: its name.
        packages: Python packages that write and compute the model.
        files: what the model consists of, as patterns; its size is theirs.
        usage: how to use the directory, "DIR" stands for its name, "VERB" for that of a model of the task.
        refused: function of a configuration and the name of a task: why there is no export.
        write: writes the model: the checkpoint, the directory of its plain copy, the output, int8.
        no_int8: why it has no int8.
        measured: whether the result can be compared with the original here.
    """

    title: str
    packages: tuple[str, ...]
    files: tuple[str, ...]
    usage: str
    refused: Callable[[Any, str], Refused | None]
    write: Writer
    no_int8: Refused | None = None
    measured: bool = True


def kind_of(config: Any, task: str) -> str:
    """Return "classification", or how a recognizer writes text: "ctc", "seq2seq" or "tdt"."""
    from sft_speech.models.families import family_of

    return family_of(config).recognizer if task == "asr" else task


def no_graph(config: Any, task: str) -> Refused | None:
    """Return why a model cannot become one graph."""
    if kind_of(config, task) in ("ctc", "classification"):
        return None
    do = "use --to ctranslate2" if config.model_type == "whisper" else "export a CTC model or a Whisper"
    return Refused("a model that writes token by token becomes several graphs, which nothing here joins", do)


def no_ctranslate2(config: Any, task: str) -> Refused | None:
    """Return why CTranslate2 does not compute a model."""
    if task == "asr" and config.model_type == "whisper":
        return None
    if kind_of(config, task) != "ctc" or config.model_type != "wav2vec2":
        why = f"CTranslate2 computes Whisper and wav2vec2 as recognizers, not {config.model_type} for {task}"
        return Refused(why, "use --to onnx")
    for name, value in PUBLISHED.items():
        found = getattr(config, name)
        if (list(found) if isinstance(found, list | tuple) else found) != value:
            why = f"CTranslate2 computes only models like XLS-R, and {name} is {found} here, not {value}"
            return Refused(why, "use --to onnx")
    return None


def no_ggml(config: Any, task: str) -> Refused | None:
    """Return why whisper.cpp does not compute a model."""
    if task == "asr" and config.model_type == "whisper":
        return None
    return Refused("whisper.cpp computes only Whisper, as a recognizer", "use --to onnx")


def _onnx(checkpoint: Any, plain: Path, output: Path, int8: bool) -> None:
    from sft_speech.tools.export.graphs import write_onnx

    write_onnx(checkpoint, plain, output, int8)


def _openvino(checkpoint: Any, plain: Path, output: Path, int8: bool) -> None:
    from sft_speech.tools.export.graphs import write_openvino

    write_openvino(checkpoint, plain, output)


def _ctranslate2(checkpoint: Any, plain: Path, output: Path, int8: bool) -> None:
    from sft_speech.tools.export.converters import write_ctranslate2

    write_ctranslate2(plain, output, int8)


def _ggml(checkpoint: Any, plain: Path, output: Path, int8: bool) -> None:
    from sft_speech.tools.export.converters import write_ggml_ready

    write_ggml_ready(checkpoint, plain, output)


USE = "sft-speech VERB DIR recording.wav"
TARGETS = {
    "onnx": Target("ONNX Runtime", ("onnxruntime", "onnx", "onnxscript"), ("model.onnx*",), USE, no_graph, _onnx),
    "ctranslate2": Target(
        "CTranslate2",
        ("ctranslate2",),
        ("model.bin",),
        "sft-speech transcribe DIR recording.wav        # faster-whisper takes DIR too, if it is a Whisper",
        no_ctranslate2,
        _ctranslate2,
    ),
    "openvino": Target(
        "OpenVINO",
        ("openvino",),
        ("openvino_model.*",),
        USE,
        no_graph,
        _openvino,
        Refused("this needs NNCF, which is not supported here", "leave --int8 out, or use --to onnx --int8"),
    ),
    "ggml-ready": Target(
        "whisper.cpp",
        (),
        ("model*.safetensors",),
        "git clone https://github.com/ggml-org/whisper.cpp\n"
        "python whisper.cpp/models/convert-h5-to-ggml.py DIR DIR .      # writes ggml-model.bin",
        no_ggml,
        _ggml,
        Refused("whisper.cpp quantizes by itself", "leave --int8 out, and run its program quantize on the ggml file"),
        measured=False,
    ),
}
