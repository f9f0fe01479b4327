"""Adapters as peft writes and reads them, and files that cannot be used."""

from __future__ import annotations

import json
import shutil
import warnings

import pytest
import torch
from peft import AutoPeftModel, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_lora import adapted, batch_of, randomize
from transformers import AutoConfig, AutoModelForCTC

from sft_speech.errors import UserError
from sft_speech.models.adapt import head_names
from sft_speech.models.adapter_files import read_adapter
from sft_speech.models.lora import lora_layers, merge


def same(one, other):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def logits(model):
    with torch.no_grad():
        return model.eval()(**batch_of(model)).logits


@pytest.mark.parametrize("kind", [{}, {"use_dora": True}, {"use_rslora": True}])
@pytest.mark.parametrize("family", ["wav2vec2-layer", "wav2vec2-bert", "parakeet"])
def test_peft_loads_what_was_saved(tiny_directory, tmp_path, family, kind):
    """With a new head of another size than that of the base."""
    base = str(tiny_directory(family))
    config = AutoConfig.from_pretrained(base)
    model = AutoModelForCTC.from_pretrained(base, vocab_size=9, ignore_mismatched_sizes=True)
    heads = head_names(model)
    randomize(adapted(model, heads, **kind))
    unmerged = logits(model)
    merge(model).save(tmp_path / "adapter", base)
    same(logits(model), unmerged)

    plain = AutoModelForCTC.from_pretrained(base, vocab_size=9, ignore_mismatched_sizes=True)
    loaded = PeftModel.from_pretrained(plain, str(tmp_path / "adapter"))
    same(logits(loaded), unmerged)
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == base
    assert settings["modules_to_save"] == sorted({name.rpartition(".")[0] for name in heads})
    assert settings["task_type"] is None
    assert config.vocab_size != 9
    named = {name for name in load_file(tmp_path / "adapter" / "adapter_model.safetensors") if ".lora_" not in name}
    assert named == {f"base_model.model.{name}" for name in heads}


def test_the_card_of_an_adapter_runs(tiny_directory, tmp_path, monkeypatch):
    base = str(tiny_directory("hubert"))
    model = AutoModelForCTC.from_pretrained(base, vocab_size=9, ignore_mismatched_sizes=True)
    randomize(adapted(model, head_names(model)))
    merge(model).save(tmp_path, base)
    card = (tmp_path / "README.md").read_text()
    assert "base_model_relation: adapter" in card
    assert "Low-rank updates (rank 4, alpha 8)" in card
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(card.split("```python\n")[1].split("```")[0], names)
    same(logits(names["model"]), logits(model))


def test_without_a_new_head_the_base_is_found_by_peft(tiny_directory, tmp_path):
    base = str(tiny_directory("hubert"))
    model = randomize(adapted(AutoModelForCTC.from_pretrained(base)))
    merge(model).save(tmp_path, base)
    same(logits(AutoPeftModel.from_pretrained(str(tmp_path))), logits(model))


def test_weights_that_are_no_modules_are_saved_too(tiny_directory, tmp_path):
    base = str(tiny_directory("wav2vec2-layer"))
    model = AutoModelForCTC.from_pretrained(base)
    adapted(model, ["wav2vec2.masked_spec_embed"])
    with torch.no_grad():
        model.wav2vec2.masked_spec_embed.fill_(3.0)
    adapter = merge(model)
    adapter.save(tmp_path, base)
    assert adapter.whole == []
    loaded = PeftModel.from_pretrained(AutoModelForCTC.from_pretrained(base), str(tmp_path))
    assert torch.equal(loaded.base_model.model.wav2vec2.masked_spec_embed, model.wav2vec2.masked_spec_embed)


@pytest.fixture
def foreign(tiny_directory, tmp_path):
    """An adapter that peft itself made and saved, with the logits of its model."""

    def make(family="wav2vec2-layer", **settings):
        base = str(tiny_directory(family))
        model = get_peft_model(
            AutoModelForCTC.from_pretrained(base),
            LoraConfig(**{"r": 2, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]} | settings),
        )
        randomize(model)
        if settings.get("modules_to_save"):
            torch.nn.init.normal_(model.base_model.model.lm_head.modules_to_save["default"].weight)
        model.save_pretrained(tmp_path / "foreign")
        return tmp_path / "foreign", base, logits(model)

    return make


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_dora": True},
        {"use_rslora": True, "rank_pattern": {"layers.1.attention.q_proj": 3}},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": r".*layers\.1\..*(q|k)_proj", "lora_dropout": 0.1},
        {"lora_bias": True},
        {"init_lora_weights": "gaussian"},
    ],
)
def test_somebodys_adapter_is_continued(foreign, settings):
    folder, base, wanted = foreign(**settings)
    model = adapted(AutoModelForCTC.from_pretrained(base), lora_rank=0, adapter=str(folder), model=base)
    same(logits(model), wanted)
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    heads = {"lm_head.weight", "lm_head.bias"} if "modules_to_save" in settings else set()
    assert {name for name in trained if ".lora_" not in name} == heads
    assert trained - heads
    rank = 2
    assert {layer.lora_A["default"].out_features for _, layer in lora_layers(model)} <= {rank, 3}
    merge(model)
    same(logits(model), wanted)


def test_it_is_continued_at_its_own_rank_only(foreign, caplog):
    folder, base, _ = foreign()
    with pytest.raises(UserError) as error:
        adapted(AutoModelForCTC.from_pretrained(base), lora_rank=4, adapter=str(folder))
    assert f"lora_rank 4: {folder} has rank 2" in str(error.value)
    adapted(AutoModelForCTC.from_pretrained(base), lora_rank=2, adapter=str(folder), model="me/another")
    assert f"was trained on {base}, and this run starts from me/another" in caplog.text


def test_an_adapter_of_another_base(foreign, tiny_model):
    folder, base, _ = foreign(modules_to_save=["lm_head"])
    for model, why in (
        (tiny_model("hubert"), "the model has no layer wav2vec2.encoder.layers.0.attention.q_proj of that size"),
        (tiny_model("wav2vec2-layer", hidden_size=48), "the model has no layer wav2vec2.encoder"),
        (tiny_model("wav2vec2-layer", vocab_size=9), "its lm_head.bias is 32, that of the model 9"),
    ):
        with pytest.raises(UserError) as error:
            adapted(model, lora_rank=0, adapter=str(folder))
        assert f"adapter {folder}: it belongs to another base ({why}" in str(error.value)
        assert f"use it with its base, {base}" in str(error.value)


def test_updates_that_would_have_no_effect_are_not_continued(foreign):
    folder, base, _ = foreign("wavlm")
    with pytest.raises(UserError, match="q_proj cannot be trained: the module around it reads its weight"):
        adapted(AutoModelForCTC.from_pretrained(base), lora_rank=0, adapter=str(folder))


def changed(folder, **settings):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "IA3"}, "it is IA3, not LoRA"),
        ({"peft_type": "PREFIX_TUNING", "r": None}, "it is PREFIX_TUNING, not LoRA"),
        ({"r": "many"}, "its adapter_config.json has values that cannot be used (invalid literal for int()"),
        ({"r": 0}, "its adapter_config.json has values that cannot be used (rank 0)"),
        ({"init_lora_weights": "pissa"}, "its start (pissa) changed the weights of its base"),
        ({"layer_replication": [[0, 1]]}, "it uses layer_replication, which is not supported"),
        ({"something_of_tomorrow": {"a": 1}}, "it uses something_of_tomorrow, which is not supported"),
    ],
)
def test_other_adapters_are_refused(foreign, settings, message):
    folder, _, _ = foreign()
    changed(folder, **settings)
    with pytest.raises(UserError) as error:
        read_adapter(str(folder))
    assert f"adapter {folder}: {message}" in str(error.value)


def test_pickled_adapters_must_be_allowed(foreign):
    folder, _, _ = foreign()
    wanted = read_adapter(str(folder)).weights
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match="its weights are pickled"):
        read_adapter(str(folder))
    assert read_adapter(str(folder), allow_pickle=True).weights.keys() == wanted.keys()
    (folder / "adapter_model.bin").write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
    with pytest.raises(UserError, match="it cannot be loaded"):
        read_adapter(str(folder), allow_pickle=True)


def test_damaged_and_missing_files(foreign, tmp_path):
    folder, _, _ = foreign()
    weights = folder / "adapter_model.safetensors"
    run = tmp_path / "run"
    shutil.copytree(folder, run / "adapter")
    with pytest.raises(UserError) as error:
        read_adapter(str(run))
    assert f"give {run / 'adapter'}" in str(error.value)
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match="it cannot be loaded"):
        read_adapter(str(folder))
    save_file({"base_model.model.lm_head.bias": torch.ones(2)}, weights)
    with pytest.raises(UserError, match="it holds no LoRA weights"):
        read_adapter(str(folder))
    weights.unlink()
    with pytest.raises(UserError, match=r"it holds no adapter_model\.safetensors"):
        read_adapter(str(folder))
    with pytest.raises(UserError, match="there is no such directory"):
        read_adapter(str(tmp_path / "nowhere"))
    (folder / "adapter_config.json").write_text("[")
    with pytest.raises(UserError, match=r"its adapter_config.json cannot be read"):
        read_adapter(str(folder))


def test_loading_warns_of_nothing(foreign):
    folder, base, _ = foreign()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapted(AutoModelForCTC.from_pretrained(base), lora_rank=0, adapter=str(folder), model=base)
