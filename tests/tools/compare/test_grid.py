"""The grid of a comparison, from the command line and YAML."""

from __future__ import annotations

import pytest

from sft_speech.errors import UserError
from sft_speech.tasks import spec_of
from sft_speech.tools.compare.grid import plan_of

ASR = spec_of("asr")


def cells(*vary: str, strategies: tuple[str, ...] = ()) -> dict[str, dict]:
    return {one.label: one.options for one in plan_of(ASR, None, {}, vary, strategies).cells()}


def test_the_product_of_two_options():
    assert cells("learning_rate=1e-5,5e-5", "seed=1,2") == {
        "learning_rate=1e-5 seed=1": {"learning_rate": "1e-5", "seed": 1},
        "learning_rate=1e-5 seed=2": {"learning_rate": "1e-5", "seed": 2},
        "learning_rate=5e-5 seed=1": {"learning_rate": "5e-5", "seed": 1},
        "learning_rate=5e-5 seed=2": {"learning_rate": "5e-5", "seed": 2},
    }


def test_repeated_keys_are_joined_and_duplicates_removed():
    assert list(cells("seed=1,2", "seed=2,3")) == ["seed=1", "seed=2", "seed=3"]


def test_lists_are_values():
    found = cells("test_splits=[a],[a, b],[]")
    assert list(found.values()) == [{"test_splits": ["a"]}, {"test_splits": ["a", "b"]}, {"test_splits": []}]
    assert list(found) == ["test_splits=[a]", "test_splits=[a, b]", "test_splits=[]"]


def test_a_model_may_bring_options_of_its_own():
    assert cells("model=some/a,{model: other/b, new_vocabulary: true}") == {
        "a": {"model": "some/a"},
        "b new_vocabulary=true": {"model": "other/b", "new_vocabulary": True},
    }


def test_paths_are_as_long_as_needed_to_tell_them_apart():
    assert list(cells("model=x/one/a,x/two/a,b")) == ["one/a", "two/a", "b"]


def test_text_that_yaml_takes_for_a_truth_value_stays_text():
    assert [one["language"] for one in cells("language=no,de").values()] == ["no", "de"]


def test_splits_and_quoted_values_may_have_brackets_and_commas():
    found = cells("train_split=train[:10],train[10:20],'speaker=a,b'")
    assert [one["train_split"] for one in found.values()] == ["train[:10]", "train[10:20]", "speaker=a,b"]


def test_strategies_are_combined_with_all_values():
    assert cells("seed=1,2", strategies=("head={freeze_encoder_steps: 9, augment: true}", "all={}")) == {
        "seed=1 head": {"seed": 1, "freeze_encoder_steps": 9, "augment": True},
        "seed=1 all": {"seed": 1},
        "seed=2 head": {"seed": 2, "freeze_encoder_steps": 9, "augment": True},
        "seed=2 all": {"seed": 2},
    }


def test_a_model_may_change_what_a_strategy_sets():
    found = cells(
        "model=a,{model: b, language: en, strategies: {all: {learning_rate: 1e-3, augment: true}}}",
        strategies=("head={train: [head], learning_rate: 1e-2}", "all={learning_rate: 1e-4}"),
    )
    assert found == {
        "a head": {"model": "a", "train": ["head"], "learning_rate": "1e-2"},
        "a all": {"model": "a", "learning_rate": "1e-4"},
        "b language=en head": {"model": "b", "language": "en", "train": ["head"], "learning_rate": "1e-2"},
        "b language=en all": {"model": "b", "language": "en", "learning_rate": "1e-3", "augment": True},
    }


def test_a_model_may_not_set_in_two_places():
    with pytest.raises(UserError, match="b seed=1 all: seed is set by two of them"):
        cells("model={model: b, seed: 1, strategies: {all: {seed: 2}}}", strategies=("all={}",))


@pytest.mark.parametrize(
    ("written", "strategies", "message"),
    [
        ("{al: {seed: 1}}", ("all={}",), "b: strategies: al: there is no such strategy.\n-> the strategies are all"),
        ("{all: {seed: 1}}", (), "b: strategies: all: there is no such strategy.\n-> define it with --strategy"),
        ("{all: 3}", ("all={}",), "b: strategies: all: it must have a table of options"),
        ("[all]", ("all={}",), "b: strategies: .* it must be a table"),
    ],
)
def test_strategies_of_a_model_that_are_wrong(written, strategies, message):
    with pytest.raises(UserError, match=message):
        cells(f"model=a,{{model: b, strategies: {written}}}", strategies=strategies)


def test_settings_name_the_strategy():
    plan = plan_of(ASR, None, {}, ["model=x/a,x/b"], ["head={augment: true}", "all="])
    assert [one.shown for one in plan.cells()][:2] == [
        {"model": "x/a", "strategy": "head"},
        {"model": "x/a", "strategy": "all"},
    ]


def test_yaml_of_a_comparison(tmp_path):
    (tmp_path / "run.yaml").write_text("model: m\n")
    file = tmp_path / "compare.yaml"
    file.write_text("base: run.yaml\nvary:\n  seed: [1, 2]\nstrategies:\n  slow: {learning_rate: 1e-5}\n  fast: {}\n")
    plan = plan_of(ASR, str(file), {"model": "n"}, ["seed=3"], [])
    assert (plan.file, plan.base) == (str(tmp_path / "run.yaml"), {"model": "n"})
    assert [one.label for one in plan.cells()] == [
        *("seed=1 slow", "seed=1 fast", "seed=2 slow", "seed=2 fast", "seed=3 slow", "seed=3 fast"),
    ]


def test_yaml_with_a_table_of_base_options(tmp_path):
    file = tmp_path / "compare.yaml"
    file.write_text("base: {model: m, seed: 5}\nvary: {augment: [true, false]}\n")
    plan = plan_of(ASR, str(file), {"seed": 6}, [], [])
    assert (plan.file, plan.base) == (None, {"model": "m", "seed": 6})


@pytest.mark.parametrize(
    ("vary", "strategies", "message"),
    [
        ([], [], "nothing to compare: no option varies"),
        (["seed"], [], "--vary seed: it has no `=`"),
        (["seed="], [], "it has no values"),
        (["seed=1,,2"], [], "it has no values"),
        (["seed=[1"], [], "it must be valid YAML"),
        (["model={model: a,, b}"], [], "{model: a,, b} is not valid YAML"),
        (["sed=1,2"], [], "there is no such option.\n-> did you mean seed?"),
        ([], ["a=[1]"], "its options are not a table in YAML"),
        ([], ["a"], "it has no `=`"),
        (["seed=1,2"], ["a={seed: 3}"], "seed is set by two of them"),
    ],
)
def test_refused(vary, strategies, message):
    with pytest.raises(UserError) as caught:
        plan_of(ASR, None, {}, vary, strategies).cells()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: a.yaml\nmodel: m\n", "model: it isn't a part of a comparison.\n-> options of the runs belong below"),
        ("vary: [1]\n", "it must be a table"),
        ("vary: {seed: 1}\n", "it must have a list of values"),
        ("strategies: {a: 1}\n", "it must have a table of options"),
    ],
)
def test_refused_yaml(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        plan_of(ASR, str(tmp_path / "a.yaml"), {}, [], [])
    assert message in str(caught.value)
