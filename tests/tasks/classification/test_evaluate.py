from __future__ import annotations

import json
import math

import numpy as np
import pytest
from matplotlib import image

from sft_speech.errors import UserError
from sft_speech.tasks.classification.evaluate import ClassificationResult, Utterance, f1
from sft_speech.tasks.classification.labels import Labels
from sft_speech.tasks.classification.picture import confusion_picture

LABELS = Labels(("cat", "dog", "emu", "fox"))


def utterance(id, expected, predicted, confidence=0.9, speaker="", loss=0.5):
    top = ((predicted, confidence), ((predicted + 1) % 4, 1 - confidence))
    return Utterance(id, speaker, 1.5, (expected,), (predicted,), top, loss)


@pytest.fixture
def result():
    """Three cats of which one is taken for a dog, one dog, and one dog that is taken for an emu."""
    return ClassificationResult(
        LABELS,
        [
            utterance("u0", 0, 0),
            utterance("u1", 0, 1, 0.6),
            utterance("u2", 0, 0),
            utterance("u3", 1, 1, loss=1.0),
            utterance("u4", 1, 2, 0.8),
        ],
        {"u5": "it is cut"},
    )


def test_metrics(result):
    assert result.metrics() == pytest.approx({"accuracy": 0.6, "loss": 0.6, "macro_f1": (0.8 + 0.5 + 0.0) / 3})


def test_summary(result):
    found = result.summary()
    assert found["confusion"] == {"labels": ["cat", "dog", "emu"], "counts": [[2, 1, 0], [0, 1, 1], [0, 0, 0]]}
    cat, dog, emu = found["classes"]
    assert [cat[name] for name in ("precision", "recall", "f1")] == pytest.approx([1, 2 / 3, 0.8])
    assert [dog[name] for name in ("precision", "recall", "f1")] == pytest.approx([0.5, 0.5, 0.5])
    assert (emu["utterances"], emu["f1"]) == (0, 0)
    assert (found["utterances"], found["hours"], found["failed"]) == (5, 7.5 / 3600, {"u5": "it is cut"})
    low, high = found["accuracy_interval"]
    assert 0.1 < low < 0.6 < high <= 1
    assert found["interval_over"] == "utterances"
    low, high = cat["recall_interval"]
    assert low < 2 / 3 < high


def test_figures_are_compared_with_those_of_an_earlier_evaluation(result, tmp_path):
    result.save(tmp_path, "test")  # lines in another order than the corpus
    rows = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    before = [row | {"predicted": "none of them", "loss": row["loss"] + 1} for row in rows]
    assert result.compare(before, "accuracy").difference == pytest.approx(result.accuracy)
    assert result.compare(before, "loss").difference == pytest.approx(-1)
    assert result.compare(before, "macro_f1") is None


def test_intervals_are_over_speakers_where_there_are_enough_of_them():
    spread = [utterance(f"u{n}", 0, n % 2, speaker=f"s{n % 6}") for n in range(60)]
    found = ClassificationResult(LABELS, spread).summary()
    assert (found["interval_over"], found["speakers"]) == ("speakers", 6)
    assert found["accuracy_interval"] == [pytest.approx(1 / 6), pytest.approx(5 / 6)]


def test_a_result_of_two_processes_is_that_of_one(result):
    parts = [
        ClassificationResult(LABELS, result.utterances[:2]),
        ClassificationResult(LABELS, result.utterances[2:], result.failed),
    ]
    assert ClassificationResult.merge(parts) == result


def test_files(result, tmp_path):
    written = result.save(tmp_path / "evaluation", "train:0.1", source="pets")
    assert written.name == "train_0.1.json"
    assert json.loads(written.read_text())["source"] == "pets"
    rows = [json.loads(line) for line in written.with_suffix(".jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["u4", "u1", "u0", "u2", "u3"], "worst mistakes first, then in their order"
    assert rows[0] == {
        "id": "u4",
        "expected": "dog",
        "predicted": "emu",
        "seconds": 1.5,
        "loss": 0.5,
        "top": [["emu", 0.8], ["fox", 0.2]],
    }
    assert written.with_suffix(".csv").read_text().splitlines() == [
        "expected \\ predicted,cat,dog,emu",
        "cat,2,1,0",
        "dog,0,1,1",
        "emu,0,0,0",
    ]
    assert image.imread(written.with_suffix(".png")).shape[2] == 4


def test_table(result):
    lines = result.table("dev").splitlines()
    assert lines[0] == "dev: 5 utterances, 0.00 h, loss 0.6000"
    assert lines[1].startswith("accuracy  60.00 %")
    assert "u4: dog taken for emu (0.800)" in lines
    assert lines.index("u4: dog taken for emu (0.800)") < lines.index("u1: cat taken for dog (0.600)")
    assert "1 utterance could not be read" in lines[3]


def test_nothing_that_is_undefined_is_written_as_a_number():
    empty = ClassificationResult(LABELS)
    assert empty.metrics() == {}
    assert empty.summary()["accuracy_interval"] == [None, None]
    assert math.isnan(empty.accuracy)


def test_several_labels_per_clip(tmp_path):
    labels = Labels(("a", "b"), multi=True)
    both = Utterance("u0", "", 1.0, (0, 1), (0,), ((0, 0.9), (1, 0.4)), 0.3)
    result = ClassificationResult(labels, [both, Utterance("u1", "", 1.0, (1,), (1,), ((1, 0.9), (0, 0.1)), 0.1)])
    assert result.metrics() == pytest.approx({"accuracy": 0.5, "loss": 0.2, "macro_f1": (1 + 2 / 3) / 2})
    assert result.summary()["confusion"] is None
    written = result.save(tmp_path, "dev")
    assert json.loads(written.with_suffix(".jsonl").read_text().splitlines()[0])["expected"] == "a|b"
    assert not written.with_suffix(".png").exists()


def test_of_very_many_classes_there_are_only_the_figures():
    labels = Labels(tuple(f"class {n:03}" for n in range(300)))
    result = ClassificationResult(labels, [utterance(f"u{n}", n, n) for n in range(300)])
    found = result.summary()
    assert (found["accuracy"], found["macro_f1"], found["macro_f1_interval"], found["confusion"]) == (1, 1, None, None)
    assert found["classes"][7]["f1_interval"] is None
    assert "and 240 classes with a higher F1" in result.table()


def test_a_folder_that_cannot_be_written(result, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        result.save(tmp_path / "taken", "dev")


def test_f1_of_nothing_is_zero():
    assert f1(np.array([[0, 0, 0], [1, 1, 1]])).tolist() == [0, 0.5]


@pytest.mark.parametrize("classes", [2, 12, 60, 200])
def test_pictures_of_few_and_of_many_classes(classes, tmp_path):
    counts = np.diag(np.full(classes, 7)) + np.eye(classes, k=1, dtype=int)
    (tmp_path / "picture.png").write_bytes(confusion_picture([f"label {n}" for n in range(classes)], counts))
    height, width, _ = image.imread(tmp_path / "picture.png").shape
    assert 300 < height < 2000
    assert 300 < width < 2000
