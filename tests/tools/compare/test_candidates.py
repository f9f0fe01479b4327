"""The candidates' options are checked before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft_speech.errors import UserError
from sft_speech.tasks import spec_of
from sft_speech.tools.compare.candidates import base_of, candidates_of, check_models, metric_of
from sft_speech.tools.compare.grid import plan_of

ASR = spec_of("asr")
BASE = {"model": "m", "source": "s", "train_split": "train", "eval_split": "dev", "test_splits": ["test"]}


def made(*vary: str, strategies: tuple[str, ...] = (), most: int = 64, **base):
    plan = plan_of(ASR, None, BASE | base, vary, strategies)
    return candidates_of(plan, ASR, Path("out"), most)


def refused(*vary: str, strategies: tuple[str, ...] = (), **more) -> str:
    with pytest.raises(UserError) as caught:
        made(*vary, strategies=strategies, **more)
    return str(caught.value)


def test_options_of_candidates():
    one, other = made("learning_rate=1e-5,5e-5")
    assert (one.name, one.config.learning_rate, other.config.learning_rate) == ("learning_rate=1e-5", 1e-5, 5e-5)
    assert one.config.source == "s"
    base = base_of([one, other])
    assert base["source"] == "s"
    assert "learning_rate" not in base
    assert "output_dir" not in base


def test_equal_values_are_one_candidate():
    assert [one.name for one in made("learning_rate=1e-5,0.00001,2e-5")] == ["learning_rate=1e-5", "learning_rate=2e-5"]
    assert "all varied values mean the same" in refused("learning_rate=1e-5,0.00001")


def test_a_grid_of_a_thousand_runs_is_refused():
    values = ",".join(map(str, range(1000)))
    assert refused(f"seed={values}") == (
        "1000 runs: more than 64 are refused.\n-> vary fewer values, or raise --max_runs to 1000"
    )
    assert len(made(f"seed={values}", most=1000)) == 1000


def test_all_wrong_candidates_are_named_at_once():
    message = refused("learning_rate=1e-5,fast,slow", "seed=1,2")
    assert message.startswith("candidates: 4 of 6 cannot run\n")
    assert "learning_rate=fast seed=1: learning_rate: fast: it must be a number" in message
    assert "learning_rate=slow seed=1: learning_rate: slow: it must be a number" in message


def test_an_error_of_all_candidates_is_told_once():
    assert refused("seed=1,2", update_seconds=8, gradient_accumulation_steps=2).startswith(
        "both update_seconds and gradient_accumulation_steps"
    )


def test_an_unknown_option_in_a_strategy():
    message = refused(strategies=("a={learning_rat: 1}", "b={}"))
    assert message == "a: unknown key 'learning_rat': there is no such option.\n-> did you mean learning_rate?"


@pytest.mark.parametrize("varied", ["eval_split=dev,test", "test_splits=[a],[b]", "normalizer=basic,none"])
def test_different_test_sets(varied):
    assert "two candidates with different test sets cannot be compared" in refused(varied)


def test_the_training_corpus_may_vary_if_the_evaluation_does_not():
    assert "two candidates with different test sets" in refused("source=a,b")
    assert len(made("source=a,b", eval_source="s")) == 2
    assert len(made("train_split=train[:10],train[:20]")) == 2


def test_nothing_to_compare():
    assert "there is nothing to compare it with" in refused("seed=1")
    assert refused("seed=1,2", eval_split=None, test_splits=[]).startswith("no eval_split: nothing would decide")
    assert "a comparison uploads nothing" in refused("seed=1,2", push_to_hub=True)
    assert "every run of a comparison has its own" in refused("output_dir=a,b")


def test_models_that_do_not_exist_are_found_early(tmp_path):
    candidates = made(f"model={tmp_path}/a,{tmp_path}/b", "seed=1,2")
    with pytest.raises(UserError) as caught:
        check_models(candidates, ASR)
    assert str(caught.value).count("there is no such directory") == 2


def test_the_metric_that_decides():
    (one, _), (by_loss, _), (by_cer, _) = (
        made("seed=1,2"),
        made("seed=1,2", metric_for_best_model="loss"),
        made("seed=1,2", metric_for_best_model="cer"),
    )
    assert metric_of(ASR, one.config).name == "wer"
    assert metric_of(ASR, one.config, unspaced=True).name == "cer"
    assert metric_of(ASR, by_loss.config).name == "wer", "losses of architectures are not comparable"
    assert metric_of(ASR, by_cer.config).name == "cer"
