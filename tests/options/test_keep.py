"""Options against forgetting: tables of splits, their names, and what is refused."""

from __future__ import annotations

import argparse

import pytest

from sft_speech.errors import UserError
from sft_speech.options.keep import keep_places
from sft_speech.options.settings import add_config_arguments, config_from_arguments, load_config, save_config
from sft_speech.tasks.asr.config import FinetuneAsrConfig
from sft_speech.tasks.classification.config import FinetuneClassificationConfig
from sft_speech.tasks.vc.config import FinetuneVcConfig

NEEDED = {"model": "m", "source": "digits", "output_dir": "o", "train_split": "train", "eval_split": "dev"}


def make(config=FinetuneAsrConfig, **values):
    return load_config(config, None, NEEDED | values)


def parse(value: str) -> FinetuneAsrConfig:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_config_arguments(parser, FinetuneAsrConfig)
    words = [f"--{key}={one}" for key, one in (NEEDED | {"keep_splits": value}).items()]
    return config_from_arguments(FinetuneAsrConfig, parser.parse_args(words))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("test", [{"split": "test"}]),
        ("test,other", [{"split": "test"}, {"split": "other"}]),
        ("[150:]", [{"split": "[150:]"}]),
        ("speaker=a,b", [{"split": "speaker=a,b"}]),
        ("{source: a/b.csv}", [{"source": "a/b.csv"}]),
        ("[test, {source: a, split: 10}]", [{"split": "test"}, {"source": "a", "split": "10"}]),
        ("null", []),
    ],
)
def test_forms_of_the_command_line(given, meant):
    assert parse(given).keep_splits == meant


def test_a_saved_run_has_the_same_tables(tmp_path):
    config = make(keep_splits=["test", {"source": "other", "channel": "left", "text_column": "words"}])
    save_config(config, tmp_path / "run.yaml")
    assert load_config(FinetuneAsrConfig, str(tmp_path / "run.yaml"), {}) == config


def test_names_are_of_the_corpus_and_the_split_and_never_the_same():
    tables = ["test", {"source": "a/digits", "split": "test"}, {"source": "b/my digits.csv"}, "speaker=anna,bob[9:]"]
    tables += [{"source": "org/LJSpeech-1.1", "source_config": "clean", "split": "dev"}]
    config = make(keep_splits=tables)
    names = ["digits_test", "digits_test_2", "my_digits", "digits_speaker=anna,bob_9", "LJSpeech-1.1_clean_dev"]
    assert list(keep_places(config)) == [f"keep_{name}" for name in names]
    assert config.corpora["keep_digits_test_2"] == ("a/digits", "test")
    assert config.reported == ["eval", *(f"keep_{name}" for name in names)]
    assert [config.title(role) for role in config.reported[:2]] == ["dev", "keep_digits_test"]


def test_a_test_split_of_that_name_keeps_it():
    config = make(keep_splits=["test"], test_splits=["keep_digits_test", "digits_test"])
    assert list(config.corpora)[2:] == ["keep_digits_test", "digits_test", "keep_digits_test_2"]


def test_columns_are_those_of_the_corpus():
    """Another corpus has other columns; labels have the name of the run's."""
    other = {"source": "other", "text_column": "words", "source_config": "small"}
    config = make(FinetuneClassificationConfig, label_column="word", text_column="said", keep_splits=["test", other])
    first, second = keep_places(config).values()
    assert first.columns == {"text": "said", "label": "word"}
    assert (second.columns, second.config) == ({"text": "words", "label": "word"}, "small")
    unlabelled = make(FinetuneVcConfig, from_source="x", keep_splits=["test"])
    assert keep_places(unlabelled)["keep_digits_test"].columns == {"text": None}


def test_a_split_to_select_by():
    config = make(interpolate="auto", keep_splits=[{"source": "other", "split": "test", "select": "dev"}])
    assert config.corpora["select_other_dev"] == ("other", "dev")
    assert config.reported == ["eval", "keep_other_test"]
    tables = [{"source": "other", "split": split, "select": "dev"} for split in ("test", "dev")]
    config = make(interpolate="auto", keep_splits=tables)
    roles = [role for role in config.corpora if "other" in role]
    assert roles == ["keep_other_test", "select_other_dev", "keep_other_dev"], "one split is evaluated once"


@pytest.mark.parametrize(("given", "meant"), [("auto", "auto"), ("0.5", 0.5), (1, 1.0), ("null", None), (None, None)])
def test_forms_of_interpolate(given, meant):
    assert make(interpolate=None if given == "null" else given).interpolate == meant


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"keep_splits": [{"sorce": "a"}]}, "keep_splits: sorce: a table has no such key.\n-> did you mean source?"),
        ({"keep_splits": [{"weight": 1}]}, "keep_splits: weight: a table has no such key.\n-> use source, split"),
        ({"keep_splits": [{"source": ["a"]}]}, "keep_splits: source: .*it must be text"),
        ({"keep_splits": [{"source": "a", "channel": "middle"}]}, "keep_splits: channel: middle: there is no such"),
        ({"keep_splits": [{"source": None}]}, "it names no corpus"),
        ({"keep_splits": [""]}, "it names no corpus"),
        ({"keep_splits": 3}, "keep_splits: 3: it must be a list"),
        ({"keep_splits": ["test", {"split": "test"}]}, "it is listed twice"),
        ({"keep_splits": [{"source": "~nobody_here/a"}]}, "there is no such home directory"),
        ({"keep_splits": ["test"], "from_scratch": True}, "random weights have nothing to forget"),
        (
            {"keep_splits": ["test"], "train_split": None, "eval_split": None},
            "the utterances to keep would be trained on",
        ),
        ({"keep_splits": [{"source": "a", "select": "dev"}]}, "select: nothing is selected without it"),
        ({"keep_splits": [{"source": "a", "select": "dev"}], "interpolate": 0.5}, "select: the share is given, 0.5"),
        ({"interpolate": "auto", "eval_split": None}, "auto without eval_split: the share is chosen on it"),
        ({"interpolate": "some"}, "interpolate: some: it must be a number"),
        ({"interpolate": 1.5}, "interpolate 1.5: it is a share"),
        ({"interpolate": -0.1}, "interpolate -0.1: it is a share"),
        ({"interpolate": 0.5, "from_scratch": True}, "the weights at the start are random"),
    ],
)
def test_what_is_refused(values, message):
    with pytest.raises(UserError, match=message):
        make(**values)


def test_conversion_keeps_splits_of_its_own_corpus_only():
    with pytest.raises(UserError, match="keep_splits of another corpus: the recordings to convert"):
        make(FinetuneVcConfig, keep_splits=[{"source": "other"}])
