"""Fine-tuning with LoRA by the real commands: what is trained and saved, resuming, merging, the Hub."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sft_speech.cli import main

SCRIPT = str(Path(__file__).parents[2] / "scripts" / "finetune_asr.py")
LORA = {"lora_rank": 4, "lora_dropout": 0.1, "layerwise_lr_decay": 0.9, "weight_decay": 0.01}


def command(tones: Path, model: Path, output: Path, **keys: object) -> list[str]:
    """Return the command of a run of eight steps with every source of randomness, and a checkpoint after four."""
    settings = {
        "model": model,
        "source": tones,
        "train_split": "train-tones",
        "eval_split": "dev-tones",
        "output_dir": output,
        "max_batch_seconds": 6,
        "max_steps": 8,
        "eval_steps": 4,
        "logging_steps": 1,
        "learning_rate": 1e-2,
        "metric_for_best_model": "loss",
        "mask_time_prob": 0.2,
        "mask_time_length": 2,
        "layerdrop": 0.2,
        "augment": True,
        "dataloader_num_workers": 0,
        "report_to": "none",
    }
    return ["finetune-asr", *(part for key, value in (settings | keys).items() for part in (f"--{key}", str(value)))]


@pytest.fixture(scope="module", params=["lora", "dora"])
def kind(request) -> dict[str, object]:
    return LORA | {"use_dora": request.param == "dora"}


@pytest.fixture(scope="module")
def done(tones, small, tmp_path_factory, kind) -> Path:
    """The output of a run; no test changes it."""
    output = tmp_path_factory.mktemp("lora") / "out"
    assert main(command(tones, small, output, **kind)) == 0
    return output


def history(output: Path) -> list[dict[str, float]]:
    logged = json.loads((output / "log_history.json").read_text())["log_history"]
    return [{key: entry[key] for key in ("loss", "grad_norm", "eval_loss") if key in entry} for entry in logged]


def test_a_plain_model_is_saved_in_which_the_layers_moved(done, small):
    before, after = load_file(small / "model.safetensors"), load_file(done / "model.safetensors")
    assert before.keys() == after.keys()
    moved = {name for name, weights in before.items() if not torch.equal(weights, after[name])}
    ends = ("_proj.weight", "_dense.weight")
    assert moved == {name for name in before if ".encoder.layers." in name and name.endswith(ends)}


def test_its_adapter_is_the_same_model_on_the_base(done, small):
    from peft import AutoPeftModel
    from transformers import AutoModelForCTC

    loaded = AutoPeftModel.from_pretrained(str(done / "adapter"))
    assert loaded.peft_config["default"].base_model_name_or_path == str(small)
    merged = AutoModelForCTC.from_pretrained(done)
    clip = torch.randn(1, 8000)
    torch.testing.assert_close(loaded.eval()(clip).logits, merged(clip).logits, rtol=1e-4, atol=1e-4)
    updates = load_file(done / "adapter" / "adapter_model.safetensors")
    assert all(one.any() for one in updates.values())
    assert len(updates) in (2 * 12, 3 * 12)


def test_resumed_after_a_kill_it_ends_with_the_same_weights(done, tones, small, tmp_path, kind, faulty_run):
    output = tmp_path / "out"
    line = command(tones, small, output, **kind)
    killed = faulty_run(line, faults=[("step", "after 6", "kill", "")])
    assert killed.exit_code() == -signal.SIGKILL, killed.output()
    assert main([*line, "--resume_from_checkpoint", "auto"]) == 0
    assert history(output) == history(done)
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        assert (output / name).read_bytes() == (done / name).read_bytes()


def test_a_checkpoint_is_not_a_model_yet(done, capsys, tones):
    clip = next(tones.rglob("*.flac"))
    assert main(["transcribe", str(done / "checkpoint-8"), str(clip)]) == 2
    assert "its weights hold the updates of LoRA apart" in capsys.readouterr().err


def test_a_new_vocabulary_and_two_adapters_after_another(tones, small, tmp_path):
    """The head is new, trained fully and part of the adapter, which is continued by a second run."""
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCTC, AutoProcessor

    one, two = tmp_path / "one", tmp_path / "two"
    assert main(command(tones, small, one, **LORA, new_vocabulary=True)) == 0
    adapter = one / "adapter"
    assert json.loads((adapter / "adapter_config.json").read_text())["modules_to_save"] == ["lm_head"]
    assert len(AutoProcessor.from_pretrained(adapter).tokenizer) == AutoConfig.from_pretrained(one).vocab_size
    assert main(command(tones, small, two, new_vocabulary=True, adapter=adapter, learning_rate=1e-3)) == 0
    first, second = (load_file(path / "adapter" / "adapter_model.safetensors") for path in (one, two))
    assert first.keys() == second.keys()
    assert not any(torch.equal(tensor, second[name]) for name, tensor in first.items())

    base = AutoModelForCTC.from_pretrained(small, config=AutoConfig.from_pretrained(two), ignore_mismatched_sizes=True)
    loaded, clip = PeftModel.from_pretrained(base, str(two / "adapter")), torch.randn(1, 8000)
    merged = AutoModelForCTC.from_pretrained(two)(clip).logits
    torch.testing.assert_close(loaded.eval()(clip).logits, merged, rtol=1e-4, atol=1e-4)


def test_a_whisper(tones, tiny_seq2seq, tmp_path, faulty_run):
    """Only the updates are trained, with gradient checkpointing; killed and resumed."""
    from peft import PeftModel
    from transformers import AutoModelForSpeechSeq2Seq

    base, one, two = tiny_seq2seq("whisper"), tmp_path / "one", tmp_path / "two"
    keys = LORA | {"language": "de", "max_batch_seconds": 12, "mask_feature_length": 2, "gradient_checkpointing": True}
    del keys["layerwise_lr_decay"]
    killed = faulty_run(command(tones, base, one, **keys), faults=[("step", "after 6", "kill", "")])
    assert killed.exit_code() == -signal.SIGKILL, killed.output()
    assert main([*command(tones, base, one, **keys), "--resume_from_checkpoint", "auto"]) == 0
    assert main(command(tones, base, two, **keys)) == 0
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    before, after = load_file(base / "model.safetensors"), load_file(one / "model.safetensors")
    moved = {name for name, weights in before.items() if not torch.equal(weights, after[name])}
    assert moved == {name for name in before if name.endswith(("_proj.weight", "fc1.weight", "fc2.weight"))}
    loaded = PeftModel.from_pretrained(AutoModelForSpeechSeq2Seq.from_pretrained(base), str(one / "adapter")).eval()
    inputs = {"input_features": torch.randn(1, 16, 400), "decoder_input_ids": torch.tensor([[3, 4, 5]])}
    merged = AutoModelForSpeechSeq2Seq.from_pretrained(one)(**inputs).logits
    torch.testing.assert_close(loaded(**inputs).logits, merged, rtol=1e-4, atol=1e-4)


def test_steps_that_skip_the_only_trained_layer(tones, small, tmp_path):
    """LayerDrop skips the only layer that is trained in many steps."""
    keys = {"lora_rank": 4, "lora_targets": r"[.*layers\.1\..*q_proj]", "layerdrop": 0.7}
    assert main(command(tones, small, tmp_path, **keys)) == 0
    assert len(load_file(tmp_path / "adapter" / "adapter_model.safetensors")) == 2


@pytest.mark.slow
def test_a_sharded_model_trains_like_a_whole_one(tones, small, tmp_path, two_processes, two_pieces):
    """With DoRA, which has the matrices of LoRA and a vector of magnitudes."""
    keys = LORA | {"lora_dropout": 0.0, "gradient_accumulation_steps": 2, "max_batch_seconds": 1.5, "augment": False}
    keys |= {"eval_split": "dev-tones:11", "use_dora": True, "new_vocabulary": True}
    whole, cut, resumed = (tmp_path / name for name in ("whole", "cut", "resumed"))
    two_processes(SCRIPT, *command(tones, small, whole, **keys)[1:])
    two_pieces(SCRIPT, *command(tones, small, cut, **keys, gradient_checkpointing=True)[1:])
    assert history(cut) == [pytest.approx(entry, rel=1e-3) for entry in history(whole)]
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        one, other = load_file(cut / name), load_file(whole / name)
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    keys |= {"resume_from_checkpoint": cut / "checkpoint-4", "gradient_checkpointing": True}
    two_pieces(SCRIPT, *command(tones, small, resumed, **keys)[1:])
    assert history(resumed) == [pytest.approx(entry, rel=1e-4) for entry in history(cut)]


def test_the_model_and_its_adapter_are_uploaded(done, small, hub, tmp_path, monkeypatch):
    from huggingface_hub import snapshot_download
    from peft import PeftModel
    from transformers import AutoModelForCTC

    assert main(["push", str(done), "me/model"]) == 0
    files = hub.repos["me/model"].files
    assert {name for name in files if name.startswith("adapter")} == {
        f"adapter/{name}" for name in ("README.md", "adapter_config.json", "adapter_model.safetensors", "config.json")
    }
    card = files["README.md"].decode()
    assert re.search(r"Trained with (LoRA|DoRA) of rank 4, alpha 8\. The weights here are merged", card)
    assert "base_model_relation" not in card
    assert not [name for name, content in files.items() if str(small).encode() in content]
    monkeypatch.chdir(tmp_path)
    base = AutoModelForCTC.from_pretrained(small)
    there = snapshot_download("me/model")  # peft's own client was made for the real Hub
    loaded = PeftModel.from_pretrained(base, there, subfolder="adapter").eval()
    clip = torch.randn(1, 8000)
    merged = AutoModelForCTC.from_pretrained("me/model")(clip).logits
    torch.testing.assert_close(loaded(clip).logits, merged, rtol=1e-4, atol=1e-4)


def test_only_the_adapter_is_uploaded(done, small, tones, hub, tmp_path, monkeypatch, capsys):
    before = (done / "README.md").read_text()
    assert main(["push", str(done), "me/adapter", "--adapter_only"]) == 0
    assert (done / "README.md").read_text() == before
    files = hub.repos["me/adapter"].files
    named = {"README.md", "adapter_config.json", "adapter_model.safetensors", "config.json", ".gitattributes"}
    assert {name for name in files if not name.startswith("plots/")} == named
    card = files["README.md"].decode()
    assert "base_model_relation: adapter\n" in card
    assert "library_name: peft\n" in card
    assert 'ADAPTER = "me/adapter"' in card
    assert "This repository holds only the adapter." in card
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == small.name
    monkeypatch.chdir(tmp_path)
    assert main(["merge", "me/adapter", "-o", "merged", "--base", str(small)]) == 0
    one, other = (load_file(path / "model.safetensors") for path in (tmp_path / "merged", done))
    torch.testing.assert_close(one, other)
    assert main(["push", str(small), "me/small", "--adapter_only"]) == 2


def test_a_run_without_lora_has_no_adapter_to_upload(done, tmp_path, capsys):
    copy = shutil.copytree(done, tmp_path / "copy", ignore=shutil.ignore_patterns("adapter", "checkpoint-*"))
    assert main(["push", str(copy), "me/model", "--adapter_only", "--dry_run"]) == 2
    assert "it has no adapter: the run did not use LoRA" in capsys.readouterr().err
