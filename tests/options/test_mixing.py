"""The option ``sources``, a list of tables: its forms, and what is refused."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from sft_speech.errors import UserError
from sft_speech.options.mixing import parts_of
from sft_speech.options.settings import add_config_arguments, config_from_arguments, load_config, save_config
from sft_speech.tasks.asr.config import FinetuneAsrConfig
from sft_speech.tasks.classification.config import FinetuneClassificationConfig
from sft_speech.tasks.tts.config import FinetuneTtsConfig
from sft_speech.tasks.vc.config import FinetuneVcConfig

NEEDED = {"model": "m", "output_dir": "o"}
A, B = {"source": "a", "split": "train"}, {"source": "b", "split": "train"}


def make(*tables: object, config=FinetuneAsrConfig, **values: object):
    return load_config(config, None, NEEDED | {"sources": list(tables)} | values)


def parse(value: str) -> FinetuneAsrConfig:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_config_arguments(parser, FinetuneAsrConfig)
    words = [f"--{key}={one}" for key, one in (NEEDED | {"sources": value}).items()]
    return config_from_arguments(FinetuneAsrConfig, parser.parse_args(words))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (
            "[{source: a, weight: 3}, {source: b, weight: 1e0}]",
            [{"source": "a", "weight": 3.0}, {"source": "b", "weight": 1.0}],
        ),
        ("{source: a, max_hours: 5}", [{"source": "a", "max_hours": 5.0}]),
        ('[{"source": "a", "split": "[100:]"}]', [{"source": "a", "split": "[100:]"}]),
        ("[{source: a, split: 10, weight: null}]", [{"source": "a", "split": "10"}]),
        ("[{source: a, temperature: '2'}, {source: b}]", [{"source": "a", "temperature": 2.0}, {"source": "b"}]),
    ],
)  # fmt: skip
def test_flow_yaml_of_the_command_line(given, meant):
    assert parse(given).sources == meant


def test_a_list_of_tables_in_yaml_is_saved_as_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "run.yaml"
    file.write_text(
        "model: m\noutput_dir: o\nsources:\n"
        "- source: ~/digits\n  split: train\n  weight: 3\n  eval_split: dev\n"
        "- {source: org/news, source_config: de, text_column: words, channel: left, weight: 1}\n"
    )
    config = load_config(FinetuneAsrConfig, str(file), {})
    assert config.sources[0] == {"source": f"{tmp_path}/digits", "split": "train", "weight": 3.0, "eval_split": "dev"}
    digits, news = parts_of(config)
    assert (digits.name, digits.weight, digits.eval_split) == ("digits", 3.0, "dev")
    assert (news.name, news.place.config, news.place.columns, news.place.channel) == (
        "news_de", "de", {"text": "words"}, "left"
    )  # fmt: skip
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(FinetuneAsrConfig, str(tmp_path / "saved.yaml"), {}) == config


def test_the_roles_of_a_mix():
    config = make(A | {"eval_split": "dev"}, B | {"eval_split": "dev"})
    assert config.corpora == {"train": ("a + b", None), "eval_a": ("a", "dev"), "eval_b": ("b", "dev")}
    assert config.selecting == ["eval_a", "eval_b"]
    assert [config.title(role) for role in config.reported] == ["eval_a", "eval_b"], "both splits are called dev"
    config = make(A | {"eval_split": "dev"}, B, eval_source="c", eval_split="test")
    assert config.corpora["eval"] == ("c", "test")
    assert config.selecting == ["eval"]
    assert config.place("eval_a").split == "dev"


def test_splits_of_one_source_are_named_apart_and_share_its_evaluation_split():
    config = make({"source": "x/Libri", "split": "clean"}, {"source": "x/Libri", "split": "other"}, eval_split="dev")
    assert [part.name for part in parts_of(config)] == ["Libri_clean", "Libri_other"]
    assert config.corpora["eval"] == ("x/Libri", "dev")
    two = make({"source": "x/Libri", "split": "clean"}, {"source": "y/Libri", "split": "clean"})
    assert [part.name for part in parts_of(two)] == ["Libri_clean", "Libri_clean_2"]


def test_a_language_and_columns_of_its_own():
    config = make(A | {"language": "German"}, B | {"language": "fr"})
    assert config.several_languages
    assert [part.place.language for part in parts_of(config)] == ["de", "fr"]
    assert (
        make(A | {"label_column": "word"}, B, config=FinetuneClassificationConfig).sources[0]["label_column"] == "word"
    )


WEIGHTED = {"weight": 1}


@pytest.mark.parametrize(
    ("tables", "values", "said"),
    [
        ([A | {"weigth": 1}], {}, r"sources: weigth: a table has no such key.*\n-> did you mean weight\?"),
        ([A | {"language": "de"}], {"config": FinetuneTtsConfig}, "sources: language: a table has no such key"),
        ([A | {"weight": "much"}, B], {}, "sources: weight: much: it must be a number"),
        ([A | {"weight": -1}, B | WEIGHTED], {}, "sources: a: weight -1: it must be 0 or more"),
        ([A | {"weight": 0}, B | {"weight": 0}], {}, "sources: weight: the weights sum to nothing"),
        ([A | {"weight": 0}, B | WEIGHTED], {}, "sources: a: weight 0: nothing of it would be trained on"),
        ([A | WEIGHTED, B], {}, "sources: b without weight: others have one"),
        ([A | WEIGHTED, B | {"weight": 1, "temperature": 2}], {}, "sources: weight and temperature"),
        ([A | {"temperature": 2}, B | {"temperature": 3}], {}, "sources: temperature: there is one for all sources"),
        ([A | {"temperature": 0}, B], {}, "sources: a: temperature 0: it must be above 0"),
        ([A | {"max_hours": 0}], {}, "sources: a: max_hours 0: it must be above 0"),
        ([A, B, A], {}, "it is listed twice"),
        ([A | WEIGHTED, A | {"weight": 2}], {}, r"sources: a train: it is listed twice"),
        ([{"split": "train"}], {}, "it names no source"),
        ([A, B], {"source": "c"}, "sources and source: both name what is trained on"),
        ([A, B], {"train_split": "train"}, "sources and train_split"),
        ([A, B], {"eval_split": "dev"}, "eval_split: there are several sources, and it does not say of which"),
        ([A, B], {"test_splits": ["test"]}, "test_splits: there are several sources"),
        ([A, B], {"keep_splits": ["test"]}, "keep_splits: there are several sources"),
        ([{"source": "a"}], {"eval_split": "dev"}, "sources: a without split: the evaluation utterances"),
        ([{"source": "a", "eval_split": "dev"}, B], {}, "sources: a without split"),
        ([A, B], {"streaming": True, "max_steps": 5}, "sources without weight, with streaming"),
        ([A | {"max_hours": 1}], {"streaming": True, "max_steps": 5}, "sources: max_hours with streaming"),
        ([A | {"language": "de"}, B], {}, "sources: b without language: others have one"),
        ([A | {"language": "de"}], {"language": "fr"}, "language and sources: language"),
        ([A | {"language": "klingonese"}], {}, "klingonese"),
        ([A | {"weight": float("nan")}], {}, "sources: weight: nan: it must be a finite number.\n-> correct it$"),
        ([A, B], {"early_stopping_patience": 1}, "early_stopping_patience without eval_split"),
        ([A, B], {"config": FinetuneVcConfig}, "sources: the recordings to convert are those of one source"),
    ],
)  # fmt: skip
def test_what_is_refused(tables, values, said):
    with pytest.raises(UserError, match=said):
        make(*tables, **values)


def test_the_same_folder_by_another_name_is_the_same_source(tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="it is listed twice"):
        make({"source": "digits"}, {"source": str(Path("digits").absolute())})


def test_weights_in_the_loss_are_those_of_what_is_trained_on():
    tables = (A | {"weight_column": "trust", "eval_split": "dev"}, B)
    config = make(*tables, weight_column="w")
    assert [part.place.columns for part in parts_of(config)] == [{"weight": "trust"}, {"weight": "w"}]
    assert config.place("eval_a").columns == {}
    alone = load_config(FinetuneAsrConfig, None, NEEDED | {"source": "a", "weight_column": "w", "train_split": "x"})
    assert alone.place("train").columns == {"weight": "w"}
    with pytest.raises(UserError, match="weight_column"):
        make(A | {"weight_column": "w"}, B, config=FinetuneClassificationConfig)
