"""The options of self-training, and the sources of its students."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft_speech.errors import UserError
from sft_speech.tools.self_train.options import Plan, RoundOptions, plan_of

PRESET = Path(__file__).parents[3] / "configs/self_training/own_corpus.yaml"
RUN = {"model": "m", "eval_source": "e", "eval_split": "dev", "output_dir": "out"}
TWO = [{"source": "a", "weight": 1}, {"source": "b", "weight": 3}]


def plan(**more) -> Plan:
    table = {"unlabelled": ["clips"], **{key: more.pop(key) for key in list(more) if key == "labelled_share"}}
    return plan_of(None, RUN | more | {"self_train": table})


def test_the_preset():
    found = plan_of(str(PRESET), {"self_train": {"rounds": 5}})
    assert (found.settings.rounds, found.settings.first, found.parsed.keep_share) == (5, 0, 0.8)
    student = found.student(1, Path("before"), Path("pseudo.jsonl"))
    assert (student.model, student.augment, found.run.augment) == (found.run.model, True, False)
    assert student.eval_source == found.run.source


def test_the_share_of_the_labels_is_divided_by_their_weights():
    mixed = plan(sources=TWO, labelled_share=0.2).mix(Path("p"))
    assert [(one["source"], one["weight"]) for one in mixed] == [
        ("a", pytest.approx(0.05)),
        ("b", pytest.approx(0.15)),
        ("p", pytest.approx(0.8)),
    ]
    assert plan(sources=[{"source": "a", "temperature": 2}]).mix(Path("p"))[1] == {"source": "p"}


def test_a_baseline_beside_a_teacher():
    firsts = [
        RoundOptions(["clips"], **more).first for more in ({}, {"teacher": "t"}, {"teacher": "t", "labels_only": True})
    ]
    assert firsts == [0, 1, 0]


def test_the_language_of_the_run_is_that_of_the_recordings():
    assert plan(source="a", language="de").labelling == ["--language", "de"]
    several = plan(sources=[{"source": "a", "language": "de"}, {"source": "b", "language": "fr"}])
    assert several.mix(Path("p"))[2] == {"source": "p", "language_column": "language"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"sources": TWO}, "sources: weight: the share of the pseudo-labels is not known"),
        ({"sources": [{"source": "a"}, {"source": "b"}], "labelled_share": 0.5}, "divided by the weights of sources"),
        ({"source": "a", "labelled_share": 2}, "labelled_share: 2.0: it is out of range"),
        ({"source": "a", "streaming": True, "max_steps": 3}, "pseudo-labels are mixed with stored rows"),
    ],
)
def test_shares_that_are_not_known(more, message):
    with pytest.raises(UserError, match=message):
        plan(**more)
