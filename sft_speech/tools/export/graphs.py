"""Models as one graph, for ONNX Runtime and OpenVINO, by the exporters of transformers.

The graph is that of plain transformers, with a dynamic number of clips and of samples. Its inputs are those of the
PyTorch model; its output is "logits".
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sft_speech.errors import UserError, first_line

SAMPLE_SECONDS = (2.0, 3.0)  # of the clips with which the model is traced
BESIDE = ("*.json", "*.txt", "*.model")  # files of a checkpoint beside its weights


def write_onnx(checkpoint: Any, plain: Path, output: Path, int8: bool) -> None:
    """Write ``model.onnx`` and the files beside it.

    Args:
        checkpoint: whose front end makes the inputs.
        plain: directory of the plain model.
        int8: store the weights of matrix products in 8 bits.
    """
    from transformers.exporters.configs import OnnxConfig
    from transformers.exporters.exporter_onnx import OnnxExporter
    from transformers.exporters.quantizers.quantizer_onnxruntime import OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer

    # Convolutions in 8 bits are slower, and cost accuracy.
    products = OnnxRuntimeDynamicConfig(op_types_to_quantize=["MatMul", "Gemm"], per_channel=True)
    quantizer = OnnxRuntimeQuantizer(products) if int8 else None
    _write(OnnxExporter, OnnxConfig(dynamic=True, quantizer=quantizer), checkpoint, plain, output)


def write_openvino(checkpoint: Any, plain: Path, output: Path) -> None:
    """Write ``openvino_model.xml`` and the files beside it; see :func:`write_onnx`."""
    from transformers.exporters.configs import OpenVINOConfig
    from transformers.exporters.exporter_openvino import OpenVINOExporter

    _write(OpenVINOExporter, OpenVINOConfig(dynamic=True), checkpoint, plain, output)


def _write(exporter: Any, config: Any, checkpoint: Any, plain: Path, output: Path) -> None:
    """Export the plain model.

    Raises:
        UserError: the exporter cannot do it.
    """
    from transformers import AutoModelForAudioClassification, AutoModelForCTC

    from sft_speech.models.load import quiet

    architecture = (checkpoint.model.config.architectures or [""])[0]
    kind = AutoModelForCTC if architecture.endswith("ForCTC") else AutoModelForAudioClassification
    noise = np.random.default_rng(0)
    clips = [noise.normal(0, 0.1, int(seconds * checkpoint.rate)).astype(np.float32) for seconds in SAMPLE_SECONDS]
    try:
        with quiet(), _silent():
            model = kind.from_pretrained(plain).eval()
            made = exporter().export(model, checkpoint.front_end.features(clips), config)
            made.save_pretrained(output)
    except Exception as error:  # the compilers raise errors of their own
        given, why = f"a {checkpoint.model.config.model_type} model", f"it cannot be exported ({first_line(error)})"
        raise UserError(given, why, "see the whole error with --debug; use another --to") from error
    for pattern in BESIDE:
        for file in plain.glob(pattern):
            shutil.copyfile(file, output / file.name)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Hide what compilers print, warn and log about their own insides."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
