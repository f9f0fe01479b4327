"""The real commands on tiny models and a tiny corpus."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from sft_speech import Classifier, finetune, load_corpus
from sft_speech.cli import main
from sft_speech.errors import UserError
from sft_speech.hub.files import uploads
from sft_speech.tasks import spec_of, task_of
from sft_speech.training.interpolation import ROUNDING

RATE = 16_000


@pytest.fixture
def arguments(hums, tmp_path):
    def build(model, output="out", **keys):
        settings = {
            "model": model,
            "source": hums,
            "label_column": "pitch",
            "train_split": "speaker=anna",
            "eval_split": "speaker=bob",
            "output_dir": tmp_path / output,
            "max_batch_seconds": 6,
            "learning_rate": 0.01,
            "max_steps": 6,
            "logging_steps": 1,
            "eval_steps": 3,
            "dataloader_num_workers": 0,
            "report_to": "none",
        }
        return ["finetune-classification", *(f"--{key}={value}" for key, value in (settings | keys).items())]

    return build


@pytest.fixture
def trained(arguments, tiny_encoder, tmp_path):
    """Directory of a trained convnet."""
    assert main(arguments("convnet", max_steps=12, eval_steps=6)) == 0
    return tmp_path / "out"


@pytest.mark.parametrize("kind", ["wav2vec2-layer", "wav2vec2-group", "wav2vec2-bert", "whisper", "ast", "convnet"])
def test_from_a_corpus_to_a_directory_that_plain_transformers_uses_alike(kind, arguments, tiny_encoder, hums, tmp_path):
    from transformers import pipeline

    assert main(arguments(tiny_encoder(kind))) == 0
    out = tmp_path / "out"
    figures = json.loads((out / "all_results.json").read_text())
    assert {"eval_accuracy", "eval_macro_f1", "eval_loss", "train_loss"} <= figures.keys()
    config = json.loads((out / "config.json").read_text())
    assert config["id2label"] == {"0": "high", "1": "low", "2": "mid"}
    assert task_of(out).name == "classification"

    plain, ours = pipeline("audio-classification", str(out)), Classifier(out, device="cpu")
    files = [hums / "0.wav", hums / "7.wav"]
    for file, found in zip(files, ours(files), strict=True):
        scores = {
            one["label"]: one["score"]
            for one in plain({"array": soundfile.read(file, dtype="float32")[0], "sampling_rate": RATE})
        }
        assert [label for label, _ in found] == list(scores)
        assert dict(found) == pytest.approx(scores, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "keys", "still"),
    [
        ("wav2vec2-layer", {"mask_time_prob": 0}, ("feature_extractor", "masked_spec_embed")),
        ("wav2vec2-layer", {"mask_time_prob": 0, "freeze_feature_encoder": False}, ("masked_spec_embed",)),
        ("wav2vec2-layer", {"freeze_encoder": True}, ("wav2vec2.",)),
        ("whisper", {}, ("embed_positions",)),
        ("whisper", {"freeze_encoder": True}, ("encoder.",)),
        ("whisper", {"freeze_encoder_steps": 100}, ("encoder.",)),
        ("ast", {"train": "head,encoder.layers.1-"}, (".embeddings", "layer.0.", "transformer.layernorm")),
        ("whisper", {"train": "[head, encoder.layers.top1]"}, ("layers.0", "conv", "embed", "encoder.layer_norm")),
        ("convnet", {}, ()),
    ],
)  # fmt: skip
def test_what_is_trained_moves_and_what_is_frozen_does_not(kind, keys, still, arguments, tiny_encoder, tmp_path):
    model = tiny_encoder(kind)
    assert main(arguments(model, "one", max_steps=1, learning_rate=0.0, **keys)) == 0
    assert main(arguments(model, max_steps=3, **keys)) == 0
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "out"))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        assert torch.equal(weight, after[name]) == any(part in name for part in still), name


def test_a_head_of_the_same_labels_is_kept(arguments, trained, tmp_path, caplog):
    caplog.set_level("INFO")
    assert main(arguments(trained, "again", max_steps=1, learning_rate=0.0)) == 0
    assert "the head is kept" in caplog.text
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "again"))
    assert torch.equal(before["classifier.weight"], after["classifier.weight"])
    figures = json.loads((tmp_path / "again" / "all_results.json").read_text())
    assert {name: figures[f"before_eval_{name}"] for name in ("accuracy", "macro_f1", "loss")} == {
        name: figures[f"eval_{name}"] for name in ("accuracy", "macro_f1", "loss")
    }
    assert "(difference +0.00, paired 95 % interval +0.00 to +0.00 over utterances)" in caplog.text
    assert "before_" not in (tmp_path / "out" / "all_results.json").read_text(), "there the head was new"
    assert (
        main(
            arguments(
                trained,
                "other",
                max_steps=1,
                learning_rate=0.0,
                label_column="speaker",
                train_split=":30",
                eval_split="[30:]",
            )
        )
        == 0
    )
    assert "2 labels; new weights, random until trained: classifier.weight, classifier.bias" in caplog.text


def test_resumed_it_learns_the_same(arguments, tmp_path):
    keys = {"augment": True, "class_weights": "balanced", "save_total_limit": 3}
    assert main(arguments("convnet", "whole", **keys)) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "checkpoint-6")
    for name in ("all_results.json", "model.safetensors", ".finished"):
        (tmp_path / "parts" / name).unlink(missing_ok=True)
    assert main(arguments("convnet", "parts", resume_from_checkpoint="true", **keys)) == 0
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_several_labels_per_clip(arguments, hums, tmp_path):
    rows = list(csv.DictReader((hums / "metadata.csv").open()))
    folder = shutil.copytree(hums, tmp_path / "several")
    with open(folder / "metadata.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "speaker", "pitch"])
        table.writerows([row["file_name"], row["speaker"], f"{row['pitch']}|{row['speaker']}"] for row in rows)
    keys = {"multi_label": True, "train_split": ":30", "eval_split": "[30:]", "class_weights": "balanced"}
    assert main(arguments("convnet", source=folder, **keys)) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["problem_type"], len(config["id2label"])) == ("multi_label_classification", 5)
    shares = Classifier(tmp_path / "out", device="cpu")(hums / "0.wav")
    assert len(shares) == 5
    assert all(0 < share < 1 for _, share in shares)


def test_card(trained):
    card = (trained / "README.md").read_text()
    for text in (
        "pipeline_tag: audio-classification",
        "fine-tuned for speech classification",
        "3 labels: high, low, mid.",
        "import sft_speech.tasks.classification.convnet",
        'pipeline("audio-classification"',
        "accuracy %",
        ".png)",
        "| low |",
    ):
        assert text in card
    assert "base_model" not in card, "a network of random weights has none"
    going = {file.path for file in uploads(trained, spec_of("classification"))}
    assert {"evaluation/speaker=bob.json", "evaluation/speaker=bob.png"} <= going
    assert not {"evaluation/speaker=bob.jsonl", "evaluation/speaker=bob.csv"} & going


def test_classify(trained, hums, tmp_path, capsys):
    (tmp_path / "broken.wav").write_text("no audio")
    files = [str(hums / "0.wav"), str(tmp_path / "broken.wav"), str(hums / "1.wav")]
    assert main(["classify", str(trained), *files, "--device=cpu"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == [files[0], files[2]]

    assert (
        main(["classify", str(trained), *files, "--format=jsonl", "--top=2", "-o", str(tmp_path / "found.jsonl")]) == 1
    )
    first, broken, _ = (json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines())
    assert first["audio"] == files[0]
    assert [one["label"] for one in first["labels"]] == [label for label, _ in Classifier(trained, "cpu")(files[0])[:2]]
    assert broken["error"]
    assert broken["labels"] == []

    assert main(["classify", str(trained), str(hums), "--format=csv", "--top=3"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert len(rows) == 3 * 36
    assert sum(float(row["probability"]) for row in rows[:3]) == pytest.approx(1, abs=1e-3)
    assert main(["classify", str(trained), str(tmp_path / "broken.wav")]) == 2


def test_classify_channels(trained, hums, tmp_path, monkeypatch, capsys):
    left, right = (soundfile.read(hums / f"{number}.wav")[0] for number in (0, 1))
    left, right = (channel[: min(len(left), len(right))] for channel in (left, right))
    soundfile.write(tmp_path / "call.wav", np.stack([left, right], 1), 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "mono.wav", left, 16000, subtype="FLOAT")

    def classify(*arguments, code=0):
        assert main(["classify", str(trained), str(tmp_path), "--device=cpu", *arguments]) == code
        return capsys.readouterr().out.splitlines()

    rows = [json.loads(line) for line in classify("--channel=split", "--format=jsonl")]
    assert [(Path(row["audio"]).name, row.get("channel")) for row in rows] == [
        ("call.wav", "left"),
        ("call.wav", "right"),
        ("mono.wav", None),
    ]
    assert rows[0]["labels"] == rows[2]["labels"]
    text = classify("--channel=right", code=1)  # mono.wav has no right channel
    assert [line.split("\t")[:2] for line in text] == [[str(tmp_path / "call.wav"), "right"]]
    table = list(csv.DictReader(classify("--channel=split", "--format=csv")))
    assert [row["channel"] for row in table] == ["left", "right", ""]
    assert "channel" not in classify("--format=csv")[0]

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "call.wav").read_bytes())))
    assert main(["classify", str(trained), "-", "--channel=left"]) == 2
    assert "all of standard input is mixed" in capsys.readouterr().err


def test_every_kind_of_audio_has_the_same_labels(trained, hums):
    classifier, file = Classifier(trained, device="cpu"), hums / "4.wav"
    array = soundfile.read(file, dtype="float32")[0]
    given = [
        file.read_bytes(),
        (array, RATE),
        {"array": array, "sampling_rate": RATE},
        {"path": str(file), "bytes": None},
        {"id": "4", "audio": {"path": str(file), "bytes": None}, "start": None, "seconds": len(array) / RATE},
        {"audio": {"path": str(file), "bytes": None}, "start": 0.0, "seconds": len(array) / RATE},
    ]
    wanted = classifier(str(file))
    for found in classifier(given):
        assert dict(found) == pytest.approx(dict(wanted), abs=1e-5)
    with pytest.raises(UserError):
        classifier(b"no audio")


def test_evaluate(trained, hums, tmp_path, capsys):
    command = ["evaluate", str(trained), "--source", str(hums), "--split", "speaker=bob"]  # run.yaml has the column
    assert main([*command, "-o", str(tmp_path), "--device", "cpu"]) == 0
    figures = json.loads((tmp_path / "evaluation" / "speaker=bob.json").read_text())
    trained_with = json.loads((trained / "all_results.json").read_text())
    assert figures["accuracy"] == pytest.approx(trained_with["eval_accuracy"])
    assert figures["loss"] == pytest.approx(trained_with["eval_loss"], rel=1e-4)
    assert "worst mistakes" in capsys.readouterr().out or figures["accuracy"] == 1
    assert main([*command[:4], "--label_column", "speaker"]) == 2


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"label_column": "nothing"}, "nothing"),
        ({"label_column": "file_name"}, "looks like an identifier or a transcript"),
        ({"label_column": "speaker"}, "a classifier needs two labels"),
        ({"encoder_seconds": 5}, "the encoder takes 4 s"),
        ({"feat_proj_dropout": 0.1}, "a whisper model has no such setting"),
        ({"freeze_encoder": True, "freeze_encoder_steps": 3}, "keep one of them"),
        ({"freeze_encoder": True, "train": ["head"]}, "keep one of them"),
        ({"freeze_encoder": True, "unfreeze_every_steps": 3}, "keep one of them"),
        ({"model": "a/missing/model"}, "there is no such directory"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(keys, why, arguments, tiny_encoder, capsys):
    import re

    assert main(arguments(**{"model": tiny_encoder("whisper"), **keys})) == 2
    assert re.search(why, capsys.readouterr().err)


def test_a_model_without_a_classifier_is_refused(tiny_encoder, tiny_directory):
    with pytest.raises(UserError, match="no trained classifier"):
        Classifier(tiny_encoder("wav2vec2-layer"))


def test_from_python_with_a_loaded_model(hums, tmp_path):
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    config = ASTConfig(num_hidden_layers=1, num_attention_heads=2, hidden_size=32, max_length=96, num_mel_bins=16)
    model, extractor = ASTForAudioClassification(config), ASTFeatureExtractor(num_mel_bins=16, max_length=96)
    train, held_out = (load_corpus(hums, f"speaker={name}", columns={"label": "pitch"}) for name in ("anna", "bob"))
    keys = {"max_steps": 2, "dataloader_num_workers": 0, "report_to": "none", "task": "classification"}
    out = tmp_path / "out"
    result = finetune(model, processor=extractor, train=train, eval=held_out, output_dir=out, **keys)
    assert 0 <= result.metrics["eval_accuracy"] <= 1
    assert model.config.num_labels == 2, "it is copied"
    assert [label for label, _ in Classifier(out, "cpu")(hums / "0.wav")] != []


def test_a_clip_longer_than_the_encoder_is_cut(arguments, tiny_encoder, tmp_path):
    assert main(arguments(tiny_encoder("whisper"), max_steps=1)) == 0
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * RATE).astype(np.float32)
    whole, cut = Classifier(tmp_path / "out", device="cpu")([(noise, RATE), (noise[:RATE], RATE)])
    assert dict(whole) == pytest.approx(dict(cut), abs=1e-3)


@pytest.mark.parametrize("kind", ["wav2vec2-group", "wavlm", "whisper", "ast"])
def test_lora_trains_updates_and_the_new_head(kind, arguments, tiny_encoder, tmp_path):
    base, heads = tiny_encoder(kind), ("classifier.", "projector.")
    keys = {"lora_rank": 2, "weighted_layers": "true"} if kind == "wav2vec2-group" else {"lora_rank": 2}
    assert main(arguments(base, **keys)) == 0
    weights = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    whole = {name.removeprefix("base_model.model.") for name in weights if ".lora_" not in name}
    assert {name for name in whole if not name.startswith(heads)} == (
        {"layer_weights"} if "weighted_layers" in keys else set()
    )
    assert any(name.startswith("classifier.") for name in whole)
    assert [name for name, one in weights.items() if not one.any()] == []
    assert main(["merge", str(tmp_path / "out" / "adapter"), "-o", str(tmp_path / "merged")]) == 0
    merged, saved = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "out"))
    torch.testing.assert_close(merged, saved, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "given"),
    [
        ({"lora_rank": 2}, "lora_rank 2"),
        ({"train": "[head, norms]"}, "train [head, norms]"),
        ({"freeze_encoder": "true"}, "freeze_encoder"),
    ],
)
def test_a_network_from_random_weights_is_trained_as_a_whole(arguments, capsys, keys, given):
    assert main(arguments("convnet", **keys)) == 2
    why = "convnet starts from random weights, and what is not trained would stay random."
    assert capsys.readouterr().err.splitlines()[-2:] == [f"{given}: {why}", f"-> leave {next(iter(keys))} out"]


def test_a_network_that_was_trained_may_be_trained_in_part(arguments, trained, tmp_path):
    assert main(arguments(trained, "again", train="[head]", max_steps=2)) == 0


def test_the_mean_of_the_layers_starts_even(settings, tiny_encoder):
    """In transformers 5.23 these weights start as whatever was in memory."""
    from sft_speech.tasks.classification.checkpoint import load_to_finetune
    from sft_speech.tasks.classification.labels import Labels

    base = tiny_encoder("wav2vec2-group")
    for _ in range(3):
        torch.full((3,), 9.0)  # freed at once, and so likely what the weights would be
        made = load_to_finetune(settings(base, weighted_layers=True), Labels(("a", "b")), 1.0)
        assert made.model.layer_weights.tolist() == pytest.approx([1 / 3] * 3)


def test_a_classifier_keeps_and_is_mixed(arguments, tiny_encoder, hums, tmp_path, capsys):
    """A second run starts from the first, so that it has the same labels."""
    assert main(arguments(tiny_encoder("wav2vec2-layer"), output="first")) == 0
    first = tmp_path / "first"
    keys = {"keep_splits": "[speaker=bob]", "interpolate": "auto", "learning_rate": 1e-3}
    assert main(arguments(first, **keys)) == 0
    figures = json.loads((tmp_path / "out" / "all_results.json").read_text())
    name = f"keep_{hums.name}_speaker=bob"
    assert figures["keep"][0]["before"] == figures[f"before_{name}_accuracy"]
    mixed = figures["interpolation"]
    good = [row["share"] for row in mixed["curve"] if row["difference"] <= row["standard_error"] * ROUNDING]
    assert mixed["share"] == min(good)
    assert main(arguments(tiny_encoder("wav2vec2-layer"), **keys, output="new")) == 2
    assert "keep_splits: the head of the model is new" in capsys.readouterr().err
    assert main(arguments("convnet", interpolate=0.5, output="new")) == 2
    assert "interpolate: all weights of the model are new" in capsys.readouterr().err


def test_trained_classifiers_are_mixed(arguments, tiny_encoder, hums, tmp_path, capsys):
    assert main(arguments(tiny_encoder("wav2vec2-layer"), output="first")) == 0
    assert main(arguments(tmp_path / "first", learning_rate=1e-3)) == 0
    pair = ["interpolate", str(tmp_path / "first"), str(tmp_path / "out"), "--source", str(hums)]
    label = ["--label_column", "pitch", "-o", str(tmp_path / "mixed"), "--split"]
    assert main([*pair, *label, "speaker=bob"]) == 0
    assert json.loads((tmp_path / "mixed" / "interpolation.json").read_text())["metric"] == "accuracy"
    Classifier(tmp_path / "mixed", device="cpu")


def test_two_sources_with_columns_of_their_own(arguments, hums, tmp_path):
    """Their labels together are those of the model; each has its loss."""
    other = shutil.copytree(hums, tmp_path / "other")
    table = other / "metadata.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0].replace("pitch", "height"), *lines[1:]]).replace("low", "deep") + "\n")
    tables = [
        {"source": str(hums), "split": "speaker=anna", "label_column": "pitch", "weight": 1},
        {"source": str(other), "split": "speaker=anna", "label_column": "height", "weight": 3},
    ]
    command = [one for one in arguments("convnet") if not one.startswith(("--source", "--train_split", "--label"))]
    keys = [f"--sources={json.dumps(tables)}", f"--eval_source={hums}", "--label_column=pitch"]
    assert main([*command, *keys]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert set(config["id2label"].values()) == {"high", "low", "mid", "deep"}
    figures = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert {"eval_accuracy", f"train_loss_{hums.name}", "train_loss_other"} <= figures.keys()
