"""Models for other runtimes: what is written computes what the original does, or is refused with a reason."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sft_speech.cli import main
from sft_speech.errors import UserError
from sft_speech.tasks.asr.transcriber import Transcriber
from sft_speech.tools.export.page import page
from sft_speech.tools.export.targets import TARGETS

RATE = 16_000
XLS_R = {
    "hidden_size": 32,
    "conv_dim": (16,) * 7,
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2),
    "conv_stride": (5, 2, 2, 2, 2, 2, 2),
    "num_feat_extract_layers": 7,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
}
WORDS = ["the", "rain", "the hen", "a ring"]


def needs(*packages: str) -> pytest.MarkDecorator:
    lacking = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(lacking), reason=f"needs the extra export ({', '.join(lacking)})")


ONNX = needs("onnx", "onnxruntime", "onnxscript")
CTRANSLATE2 = needs("ctranslate2")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A manifest of four clips of 0.6 to 1.5 s, with transcripts and labels."""
    rng = np.random.default_rng(0)
    lines = ["audio,text,label,speaker"]
    for number, text in enumerate(WORDS):
        wave = rng.normal(0, 0.1, int(RATE * (0.6 + 0.3 * number)))
        soundfile.write(tmp_path / f"{number}.wav", wave, RATE)
        lines.append(f"{number}.wav,{text},{'ab'[number % 2]},s{number}")
    (tmp_path / "corpus.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "corpus.csv"


def export(model: Path, target: str, output: Path, corpus: Path, *options: str) -> dict:
    assert main(["export", str(model), "--to", target, "-o", str(output), "--source", str(corpus), *options]) == 0
    return json.loads((output / "export_report.json").read_text("utf-8"))


@ONNX
def test_a_ctc_model_in_onnx_writes_the_same(tmp_path, corpus, tiny_directory, capsys):
    model = tiny_directory("wav2vec2-group")
    report = export(model, "onnx", tmp_path / "onnx", corpus)
    assert (report["same"], report["compared"]) == (4, 4)
    assert report["largest_difference"] < 1e-4 < report["largest_value"]
    assert report["torch"] == report["exported"]
    assert report["difference"]["value"] == 0
    assert "4 of 4 transcripts are the same" in capsys.readouterr().out
    clips = [corpus.with_name(f"{number}.wav") for number in range(4)]
    found, wanted = (Transcriber(folder)(clips) for folder in (tmp_path / "onnx", model))
    assert [(one.text, one.words) for one in found] == [(one.text, one.words) for one in wanted]
    assert any(one.text for one in found)
    # The clips of a batch, and their length, are dynamic.
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.onnx"))
    waves = np.random.default_rng(1).normal(0, 1, (3, 9_000)).astype(np.float32)
    given = {"input_values": waves, "attention_mask": np.ones((3, 9_000), np.int64)}
    (logits,) = session.run(["logits"], {one.name: given[one.name] for one in session.get_inputs()})
    from transformers import AutoModelForCTC

    with torch.no_grad():
        plain = AutoModelForCTC.from_pretrained(model)(torch.from_numpy(waves)).logits
    assert np.abs(logits - plain.numpy()).max() < 1e-4


@ONNX
def test_a_classifier_in_onnx_is_smaller_in_8_bits(tmp_path, corpus):
    from sft_speech.tasks.classification.classifier import Classifier

    model = tmp_path / "classifier"
    classifier(model)
    report = export(model, "onnx", tmp_path / "onnx", corpus, "--int8")
    full = export(model, "onnx", tmp_path / "full", corpus)
    assert full["largest_difference"] < 1e-4 < report["largest_difference"]
    assert report["metric"] == "accuracy"
    assert report["megabytes"]["exported"] < full["megabytes"]["exported"]
    assert "sft-speech classify onnx recording.wav" in (tmp_path / "onnx" / "README.md").read_text()
    clip = corpus.with_name("0.wav")
    for (name, share), (wanted, other) in zip(
        Classifier(tmp_path / "full")(clip), Classifier(model)(clip), strict=True
    ):
        assert (name, share) == (wanted, pytest.approx(other, abs=1e-4))


def classifier(folder: Path) -> None:
    """Save a small classifier of two labels."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 512}
    front = {"conv_dim": (8, 8), "conv_kernel": (10, 8), "conv_stride": (80, 4), "num_feat_extract_layers": 2}
    positions = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    config = Wav2Vec2Config(**sizes, **front, **positions, id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1})
    torch.manual_seed(0)
    Wav2Vec2ForSequenceClassification(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)


@CTRANSLATE2
def test_a_whisper_in_ctranslate2_writes_the_same(tmp_path, corpus, tiny_seq2seq, capsys):
    model = tiny_seq2seq("whisper-en")
    report = export(model, "ctranslate2", tmp_path / "ct2", corpus)
    assert (report["same"], report["compared"]) == (4, 4)
    assert report["largest_difference"] < 1e-3
    assert report["difference_of"] == "states of the encoder"
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "ct2"), "--source", str(corpus)]) == 0
    assert "WER" in capsys.readouterr().out
    clip = corpus.with_name("3.wav")
    found, wanted = (Transcriber(folder)(clip) for folder in (tmp_path / "ct2", model))
    assert found.text == wanted.text != ""
    assert all(0 < one < 1 for one in found.word_confidences)  # of the tokens of texts alone, so not those of torch
    assert len(found.word_confidences) == len(wanted.word_confidences)
    assert [one.text for one in found.words] == [one.text for one in wanted.words]
    times = [time for one in found.words for time in (one.start, one.end)]
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] <= 1.5


@CTRANSLATE2
def test_a_wav2vec2_with_layer_norm_in_ctranslate2_writes_the_same(tmp_path, corpus, tiny_directory):
    model = tiny_directory("wav2vec2-layer", **XLS_R)
    report = export(model, "ctranslate2", tmp_path / "ct2", corpus)
    assert report["same"] == 4
    assert report["largest_difference"] < 1e-3


@needs("openvino")
def test_a_ctc_model_in_openvino_writes_the_same(tmp_path, corpus, tiny_directory):
    report = export(tiny_directory("wav2vec2-group"), "openvino", tmp_path / "openvino", corpus)
    assert report["same"] == 4
    assert report["largest_difference"] < 1e-3


def test_a_directory_for_whisper_cpp_has_what_its_converter_reads(tmp_path, tiny_seq2seq, capsys):
    assert main(["export", str(tiny_seq2seq("whisper")), "--to", "ggml-ready", "-o", str(tmp_path / "out")]) == 0
    assert f"convert-h5-to-ggml.py {tmp_path / 'out'} {tmp_path / 'out'} ." in capsys.readouterr().out
    config, tokens, added = (
        json.loads((tmp_path / "out" / name).read_text("utf-8"))
        for name in ("config.json", "vocab.json", "added_tokens.json")
    )
    assert config["max_length"] == config["max_target_positions"]
    assert sorted(tokens.values()) == list(range(len(tokens)))
    assert added["<|endoftext|>"] == len(tokens) == config["eos_token_id"]
    filters = np.load(tmp_path / "out" / "whisper" / "assets" / "mel_filters.npz")
    assert filters["mel_16"].shape == (16, 201)


@pytest.mark.parametrize(
    ("model", "options", "why"),
    [
        ("wav2vec2-group", ["--to", "ctranslate2"], "feat_extract_norm is group here"),
        ("wav2vec2-layer", ["--to", "ctranslate2"], "conv_stride is"),
        ("wav2vec2-group", ["--to", "ggml-ready"], "only Whisper"),
        ("whisper-en", ["--to", "onnx"], "several graphs"),
        ("moonshine", ["--to", "ctranslate2"], "not moonshine"),
        ("whisper-en", ["--to", "openvino", "--int8"], "NNCF"),
    ],
)
def test_what_cannot_be_exported_is_refused(tmp_path, tiny_directory, tiny_seq2seq, corpus, model, options, why):
    folder = tiny_directory(model) if model.startswith("wav2vec2") else tiny_seq2seq(model)
    given = ["export", str(folder), *options, "-o", str(tmp_path / "out"), "--source", str(corpus), "--debug"]
    with pytest.raises(UserError, match=why):
        main(given)
    assert not (tmp_path / "out").exists()


def test_speech_to_compare_on_is_needed(tmp_path, tiny_directory):
    given = ["export", str(tiny_directory("wav2vec2-group")), "--to", "onnx", "-o", str(tmp_path / "out"), "--debug"]
    with pytest.raises(UserError, match="no speech to compare"):
        main(given)


def test_the_page_has_figures_and_commands():
    report = {
        "model": "outputs/mine",
        "task": "asr",
        "int8": True,
        "source": "corpus.csv",
        "split": "test",
        "metric": "wer",
        "same": 9,
        "compared": 10,
        "largest_difference": 0.25,
        "largest_value": 12.0,
        "difference_of": "log-probabilities of frames",
        "torch": {"value": 0.1, "interval": [0.05, 0.15]},
        "exported": {"value": 0.125, "interval": [0.06, 0.2]},
        "difference": {"value": 0.025, "interval": [-0.01, 0.06]},
        "seconds": 90.0,
        "real_time_factor": {"torch": 0.1, "exported": 0.05},
        "cpu_real_time_factor": {"torch": 0.2, "exported": 0.08},
        "megabytes": {"torch": 16.0, "exported": 5.0},
        "threads": 2,
    }
    made = page(report, TARGETS["onnx"], "out dir")
    assert made.startswith("# outputs/mine for ONNX Runtime, weights in 8 bits\n")
    assert "sft-speech transcribe 'out dir' recording.wav" in made
    assert "- 9 of 10 transcripts are the same" in made
    assert "- WER of the exported model minus that of the original: +2.50 % \\[-1.00, +6.00\\]" in made
    assert "| WER % | 10.00 \\[5.00, 15.00\\] | 12.50 \\[6.00, 20.00\\] |" in made
    assert "| seconds of audio per second of CPU time | 5.0 | 12.5 |" in made
    assert "| weights, MB (torch: float32) | 16.0 | 5.0 |" in made
