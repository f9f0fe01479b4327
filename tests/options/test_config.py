"""Options from a YAML file and the command line: what is accepted, converted and refused."""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from sft_speech.errors import UserError
from sft_speech.options.settings import (
    add_config_arguments,
    config_from_arguments,
    load_config,
    save_config,
)
from sft_speech.tasks.asr.config import FinetuneAsrConfig

NEEDED = {"model": "m", "source": "s", "output_dir": "o"}
NEEDED_WORDS = ("--model", "m", "--source", "s", "--output_dir", "o")


def make(**values: object) -> FinetuneAsrConfig:
    return load_config(FinetuneAsrConfig, None, NEEDED | values)


def parse(*words: str) -> FinetuneAsrConfig:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_config_arguments(parser, FinetuneAsrConfig)
    return config_from_arguments(FinetuneAsrConfig, parser.parse_args(list(words)))


def write(tmp_path: Path, text: str) -> str:
    file = tmp_path / "run.yaml"
    file.write_text("model: m\nsource: s\noutput_dir: o\n" + text, encoding="utf-8")
    return str(file)


@pytest.mark.parametrize(
    ("key", "meant"), [("learnin_rate", "learning_rate"), ("max_update", "update_seconds"), ("qqq", "--help")]
)
def test_an_unknown_key_is_an_error_that_suggests(key, meant, tmp_path):
    with pytest.raises(UserError) as error:
        load_config(FinetuneAsrConfig, write(tmp_path, f"{key}: 1\n"), {})
    assert repr(key) in error.value.given
    if key != "max_update":  # no near name is promised, only an answer
        assert meant in error.value.do


def test_a_key_that_is_no_text_is_unknown(tmp_path):
    with pytest.raises(UserError, match="unknown key 1"):
        load_config(FinetuneAsrConfig, write(tmp_path, "1: 2\n"), {})


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("learning_rate", "fast", "a number"),
        ("learning_rate", True, "a number"),
        ("learning_rate", [1.0], "a number"),
        ("learning_rate", None, "a number"),
        ("learning_rate", float("nan"), "a finite number"),
        ("learning_rate", ".inf", "a number"),
        ("max_steps", float("inf"), "a finite number"),
        ("max_steps", 1.5, "a whole number"),
        ("max_steps", "ten", "a number"),
        ("augment", 1, "true or false"),
        ("augment", "yes please", "true or false"),
        ("bf16", "fp16", "true or false"),
        ("model", ["a", "b"], "text"),
        ("run_name", {"a": 1}, "text"),
        ("test_splits", 3, "a list"),
        ("test_splits", {"a": 1}, "a list"),
        ("test_splits", [["a"]], "text"),
    ],
)
def test_a_wrong_type_is_an_error_that_names_the_right_one(key, value, wanted):
    with pytest.raises(UserError) as error:
        make(**{key: value})
    assert error.value.given.startswith(f"{key}: ")
    assert wanted in error.value.why


@pytest.mark.parametrize(
    ("key", "value", "bounds"),
    [
        ("learning_rate", -1e-4, "of at least 0.0"),
        ("mask_time_prob", 1.01, "from 0.0 to 1.0"),
        ("layerdrop", -0.1, "from 0.0 to 1.0"),
        ("max_batch_seconds", 0, "of at least 0.1"),
        ("update_seconds", 0, "of at least 0.1"),
        ("eval_steps", 0, "of at least 1e-06"),
        ("gradient_accumulation_steps", 0, "of at least 1"),
        ("max_steps", -2, "of at least -1"),
        ("mask_time_length", 0, "of at least 1"),
        ("layerwise_lr_decay", 1.5, "from 0.1 to 1.0"),
    ],
)
def test_a_value_out_of_range_is_an_error_that_names_the_range(key, value, bounds):
    with pytest.raises(UserError, match="out of range") as error:
        make(**{key: value})
    assert error.value.do == f"use a value {bounds}"


def test_both_ends_of_a_range_belong_to_it():
    config = make(mask_time_prob=1.0, layerdrop=0, max_steps=-1, gradient_accumulation_steps=1)
    assert (config.mask_time_prob, config.layerdrop, config.max_steps) == (1.0, 0.0, -1)


def test_a_word_that_is_none_of_the_choices_is_an_error_that_lists_them():
    with pytest.raises(UserError, match="use one of wer, cer, loss"):
        make(metric_for_best_model="accuracy")


@pytest.mark.parametrize("key", ["model", "source", "output_dir"])
@pytest.mark.parametrize("value", ["", None])
def test_what_every_run_needs_is_asked_for(key, value):
    given = {name: text for name, text in NEEDED.items() if name != key}
    with pytest.raises(UserError, match=f"no {key}|{key}: None"):
        load_config(FinetuneAsrConfig, None, given if value is None else given | {key: value})


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"update_seconds": 1600, "gradient_accumulation_steps": 4}, "gradient_accumulation_steps"),
        ({"min_seconds": 5, "max_seconds": 4}, "min_seconds 5.0"),
        ({"warmup_steps": 0.7}, "hold_share 0.4"),
        ({"warmup_steps": 80, "max_steps": 100}, "warmup_steps 80 and hold_share 0.4"),
        ({"warmup_steps": 200, "max_steps": 100, "lr_scheduler_type": "linear"}, "warmup_steps 200"),
        ({"warmup_steps": 10.5}, "warmup_steps: 10.5"),
        ({"eval_steps": 2.5}, "eval_steps: 2.5"),
        ({"max_steps": 0}, "no steps"),
        ({"num_train_epochs": 0}, "no steps"),
        ({"eval_split": "dev"}, "eval_split without train_split"),
        ({"test_splits": ["test"]}, "test_splits without train_split"),
        ({"streaming": True}, "streaming without max_steps"),
        ({"early_stopping_patience": 3}, "early_stopping_patience without eval_split"),
        ({"train": ["head"], "from_scratch": True}, "train and from_scratch"),
    ],
)
def test_keys_that_contradict_each_other_are_an_error(values, named):
    with pytest.raises(UserError) as error:
        make(**values)
    assert named in error.value.given


@pytest.mark.parametrize(
    "values",
    [
        {"update_seconds": 50, "max_batch_seconds": 100},
        {"warmup_steps": 0.6, "hold_share": 0.4},
        {"warmup_steps": 60, "hold_share": 0.4, "max_steps": 100},
        {"warmup_steps": 0.7, "lr_scheduler_type": "linear"},
        {"warmup_steps": 3000, "num_train_epochs": 3},  # how long the run is, the corpus will tell
        {"num_train_epochs": 0, "max_steps": 5},
        {"eval_source": "other", "eval_split": "dev", "test_splits": ["test"]},
        {"train_split": "train", "eval_split": "dev", "test_splits": ["test"]},
        {"streaming": True, "max_steps": 5},
        {"early_stopping_patience": 3, "train_split": "train", "eval_split": "dev"},
    ],
)
def test_keys_that_go_together_are_none(values):
    assert vars(make(**values)).items() >= values.items()


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001", "'1e-4'", "1E-4"])
def test_a_number_is_one_however_it_is_written(text, tmp_path):
    """YAML 1.1 reads 1e-4 as text, since it has no point."""
    assert load_config(FinetuneAsrConfig, write(tmp_path, f"learning_rate: {text}\n"), {}).learning_rate == 1e-4


@pytest.mark.parametrize(
    ("text", "language"),
    [("no", "no"), ("NO", "no"), ("'no'", "no"), ("german", "de"), ("pt-BR", "pt_BR"), ("null", None), ("''", None)],
)
def test_a_language_in_yaml_is_what_it_says(text, language, tmp_path):
    config = load_config(FinetuneAsrConfig, write(tmp_path, f"language: {text}\ntarget_lang: no\naugment: no\n"), {})
    assert (config.language, config.target_lang, config.augment) == (language, "no", False)
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(FinetuneAsrConfig, str(tmp_path / "saved.yaml"), {}) == config


@pytest.mark.parametrize("text", ["on", "off", "true", "False", "jp", "42"])
def test_what_is_no_language_is_refused(text, tmp_path):
    with pytest.raises(UserError, match=f"language {text}: there is no such language"):
        load_config(FinetuneAsrConfig, write(tmp_path, f"language: {text}\n"), {})


def test_values_become_what_their_field_holds():
    config = make(
        max_steps="1e3", max_seconds=20, run_name=7, revision=1.5, test_splits="dev, test-clean,", train_split="t"
    )
    assert config.max_steps == 1000
    assert isinstance(config.max_steps, int)
    assert isinstance(config.max_seconds, float)
    assert (config.run_name, config.revision) == ("7", "1.5")
    assert config.test_splits == ["dev", "test-clean"]
    assert make(test_splits="speaker=anna,bob", train_split="t").test_splits == ["speaker=anna,bob"]
    assert make(resume_from_checkpoint=True).resume_from_checkpoint == "true"
    assert make(bf16=None, eval_split="").eval_split is None


def test_lists_are_not_shared_between_configurations():
    make().test_splits.append("dev")
    assert make().test_splits == []


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        load_config(FinetuneAsrConfig, str(tmp_path / "none.yaml"), {})
    with pytest.raises(UserError, match="Is a directory"):
        load_config(FinetuneAsrConfig, str(tmp_path), {})


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"model: m\nsource: [s\noutput_dir: o\n", "line 3"),
        (b"model: m\n\tsource: s\n", "line 2"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "not valid YAML"),
        ("model: müde".encode("latin-1"), "not valid YAML"),
        (b"- model\n- source\n", "not a table"),
        (b"wav2vec2-base", "not a table"),
        (b"model: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_what_is_no_table_in_yaml_is_an_error(content, why, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_config(FinetuneAsrConfig, str(file), dict(NEEDED))
    assert why in error.value.why


def test_a_key_set_twice_is_an_error(tmp_path):
    with pytest.raises(UserError, match="max_steps: it is set twice"):
        load_config(FinetuneAsrConfig, write(tmp_path, "max_steps: 10\nseed: 1\nmax_steps: 20\n"), {})


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n"])
def test_an_empty_file_leaves_the_defaults(text, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    assert load_config(FinetuneAsrConfig, str(file), dict(NEEDED)) == make()


def test_the_command_line_goes_over_the_file(tmp_path):
    config = parse("--config", write(tmp_path, "seed: 1\nlearning_rate: 1e-3\n"), "--learning_rate", "1e-4")
    assert (config.model, config.seed, config.learning_rate) == ("m", 1, 1e-4)


def test_words_of_the_command_line_mean_what_they_seem_to():
    config = parse(
        *("--model", "m", "--source", "s", "--output_dir", "o", "--train_split", "1:30", "--run_name", "2026-01-01"),
        *("--revision", "null", "--bf16", "false", "--augment", "--max_steps", "-1", "--resume_from_checkpoint"),
        *("--test_splits", "dev,test", "--text_column", "{", "--source_config", "on"),
    )
    assert (config.train_split, config.run_name, config.revision) == ("1:30", "2026-01-01", None)
    assert (config.bf16, config.augment, config.max_steps, config.resume_from_checkpoint) == (False, True, -1, "true")
    assert (config.test_splits, config.text_column, config.source_config) == (["dev", "test"], "{", "on")
    listed = parse(
        *(word for key in NEEDED for word in (f"--{key}", "x")), "--train_split", "t", "--test_splits", '["a,b", c]'
    )
    assert listed.test_splits == ["a,b", "c"]


@pytest.mark.parametrize(("text", "splits"), [("[150:]", ["[150:]"]), ("[1:30]", ["[1:30]"]), ("null", [])])
def test_a_range_of_rows_is_one_split(text, splits):
    assert parse(*NEEDED_WORDS, "--train_split", ":150", "--test_splits", text).test_splits == splits


@pytest.mark.parametrize("words", [("--seed", "{"), ("--seed",), ("--learning_rate", "low"), ("--learning_rate", "")])
def test_a_wrong_word_of_the_command_line_is_an_error(words):
    with pytest.raises(UserError, match=words[0].removeprefix("--")):
        parse(*NEEDED_WORDS, *words)


def test_a_saved_configuration_repeats_the_run(tmp_path):
    config = make(
        learning_rate=1e-7,
        train_split="train+other",
        test_splits=["no", "1:30", "speaker=a,b"],
        run_name="true",
        revision="0123",
        source="Größe",
        bf16=False,
    )
    save_config(config, tmp_path / "run.yaml")
    assert load_config(FinetuneAsrConfig, str(tmp_path / "run.yaml"), {}) == config
    for field in dataclasses.fields(config):  # every key stands there, so that later defaults change nothing
        assert f"\n{field.name}:" in "\n" + (tmp_path / "run.yaml").read_text()


def test_columns_are_those_that_were_named():
    assert make().columns == {}
    assert make(text_column="sentence", speaker_column="client_id").columns == {
        "text": "sentence",
        "speaker": "client_id",
    }


def test_corpora_have_roles_that_no_name_of_a_split_can_take():
    assert make().corpora == {"train": ("s", None)}
    config = make(train_split="t", eval_source="other", test_splits=["train", "eval", "dev+test"])
    assert config.corpora == {
        "train": ("s", "t"),
        "eval": ("other", None),
        "test_train": ("other", "train"),
        "test_eval": ("other", "eval"),
        "dev+test": ("other", "dev+test"),
    }


def test_help_needs_none_of_the_large_packages():
    code = (
        "import argparse, sys\n"
        "from sft_speech.tasks.asr.config import FinetuneAsrConfig\n"
        "from sft_speech.options.settings import add_config_arguments\n"
        "parser = argparse.ArgumentParser()\n"
        "add_config_arguments(parser, FinetuneAsrConfig)\n"
        "text = parser.format_help()\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'accelerate'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print(text)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for field in dataclasses.fields(FinetuneAsrConfig):
        assert f"--{field.name} " in answer
    assert "[3.0e-05]" in answer


def test_every_key_has_one_sentence_of_help():
    for field in dataclasses.fields(FinetuneAsrConfig):
        assert 0 < len(field.metadata["help"]) <= 110, field.name


def test_the_seconds_of_a_batch_are_a_number_or_a_word(tmp_path):
    def load(text):
        (tmp_path / "run.yaml").write_text(f"model: m\nsource: s\noutput_dir: o\nmax_batch_seconds: {text}\n")
        return load_config(FinetuneAsrConfig, str(tmp_path / "run.yaml"), {})

    assert (load("auto").max_batch_seconds, load("1e1").max_batch_seconds, load("5").batch_seconds) == ("auto", 10.0, 5)
    with pytest.raises(UserError, match="only a run measures it"):
        _ = load("auto").batch_seconds
    for text, message in (("full", "full: it must be a number or auto"), ("0", "out of range"), ("[1]", "a number")):
        with pytest.raises(UserError, match=message):
            load(text)


@pytest.mark.parametrize(
    ("keys", "given"),
    [
        ({"license": "CC BY 4.0"}, "license CC BY 4.0"),
        ({"hub_strategy": "every_save"}, "hub_strategy every_save"),
        ({"push_to_hub": True, "hub_strategy": "sometimes"}, "hub_strategy: sometimes"),
    ],
)
def test_uploads_that_could_not_work(keys, given):
    with pytest.raises(UserError) as error:
        make(**keys)
    assert error.value.given == given


@pytest.mark.parametrize("flag", ["-o", "--output", "--output_dir"])
def test_the_output_directory_has_one_name_in_all_verbs(flag):
    assert parse("--model", "m", "--source", "s", flag, "there").output_dir == "there"


def test_the_regularization_of_the_checkpoint_stays_unless_an_option_is_set():
    names = "hidden_dropout activation_dropout attention_dropout feat_proj_dropout final_dropout layerdrop "
    names += "mask_time_prob mask_time_length mask_feature_prob mask_feature_length"
    assert {name: getattr(make(), name) for name in names.split()} == dict.fromkeys(names.split())
    given = make(hidden_dropout="1e-1", mask_time_length=3.0, layerdrop=0)
    assert (given.hidden_dropout, given.mask_time_length, given.layerdrop) == (0.1, 3, 0.0)


def test_how_a_run_was_started_is_known_but_is_no_option(tmp_path):
    config = make()
    config.started_by(["finetune-asr", "--seed", "3"], "a.yaml")
    assert (config.command_line, config.preset) == (("finetune-asr", "--seed", "3"), "a.yaml")
    save_config(config, tmp_path / "saved.yaml")
    assert "finetune-asr" not in (tmp_path / "saved.yaml").read_text()
