"""Labels of a corpus: good ones, and those that cannot be learned."""

from __future__ import annotations

import pytest
from datasets import Dataset

from sft_speech.corpora.report import CorpusReport
from sft_speech.errors import UserError
from sft_speech.tasks.classification.labels import Labels, balanced_weights, find_labels, select_labelled


def rows(*labels, seconds=1.0):
    given = [seconds] * len(labels) if isinstance(seconds, float) else seconds
    return Dataset.from_dict({"id": [f"u{n}" for n in range(len(labels))], "label": list(labels), "seconds": given})


def dropped(report, split="train"):
    return {row.id: (row.reason, row.detail) for row in report.dropped(split)}


def test_labels_are_sorted_and_numbers_are_their_text(settings):
    assert find_labels(rows("b", "10", "b", "10", " a", "a"), settings("m")) == Labels(("10", "a", "b"))


def test_rows_that_cannot_be_trained_on_are_dropped_with_their_reasons(settings):
    corpus = rows("a", "a", "b", "b", "once", "", None, "a", "b", seconds=[1.0] * 7 + [99.0, 0.01])
    labels, report = find_labels(corpus, settings("m")), CorpusReport()
    assert labels.names == ("a", "b")
    kept = select_labelled(corpus, "train", report, labels, (0.1, 30.0))
    assert kept["id"] == ["u0", "u1", "u2", "u3"]
    found = dropped(report)
    assert found["u4"] == ("rare label", "once")
    assert found["u5"] == found["u6"] == ("empty label", "")
    assert (found["u7"][0], found["u8"][0]) == ("too long", "too short")
    assert report.to_dict()["train"]["kept"]["rows"] == 4


def test_labels_only_in_an_evaluation_are_dropped_there():
    report = CorpusReport()
    kept = select_labelled(rows("a", "new", "b", seconds=[1.0, 1.0, 99.0]), "dev", report, Labels(("a", "b")))
    assert kept["label"] == ["a", "b"]
    assert dropped(report, "dev") == {"u1": ("label not trained on", "new")}


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        (["a", "a", "a"], "only 'a'"),
        (["", "", None], "there is none"),
        ([f"id-{n}" for n in range(50)], "50 distinct values in 50 rows looks like an identifier or a transcript"),
        ([f"word {n // 2}" for n in range(20_100)], "10,050 distinct values in 20,100 rows looks like an identifier"),
    ],
)
def test_columns_that_are_no_labels_are_refused(settings, labels, why):
    with pytest.raises(UserError, match=why):
        find_labels(rows(*labels), settings("m"))


def test_a_corpus_without_any_label_of_the_model_is_refused():
    with pytest.raises(UserError, match="none of its rows"):
        select_labelled(rows("x", "y"), "dev", CorpusReport(), Labels(("a", "b")))


def test_several_labels_per_clip(settings):
    labels = find_labels(rows("b|a", "a", "b | c", "c"), settings("m", multi_label=True))
    assert labels == Labels(("a", "b", "c"), multi=True)
    assert labels.encode("c|a|c") == [0, 2]


def test_balanced_weights_have_a_mean_of_one_over_the_clips():
    weights = balanced_weights(["a", "a", "a", "b"], Labels(("a", "b")))
    assert weights.tolist() == pytest.approx([2 / 3, 2.0])
    assert balanced_weights(["a", "a|b", "a", "a"], Labels(("a", "b"), multi=True)).tolist() == pytest.approx(
        [0.01, 3.0]
    )
