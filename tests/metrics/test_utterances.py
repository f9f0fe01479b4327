"""What an utterance contributes to each metric, from the lines of every task."""

from __future__ import annotations

import pytest

from sft_speech.errors import UserError
from sft_speech.metrics.utterances import SPEECH_LOSSES, measured, read_lines
from sft_speech.tasks.speech.loss import PARTS


def value(lines, metric):
    units, statistic = measured([{str(n): line for n, line in enumerate(lines)}], metric)
    return float(statistic(units[0].sum(0, keepdims=True))[0])


def test_the_loss_of_speech_is_weighted_by_frames():
    parts = {"before": 1.0, "after": 2.0, "stop": 0.5, "guided": 0.5}
    lines = [{"frames": 10} | parts, {"frames": 30} | dict.fromkeys(parts, 0.0)]
    assert value(lines, "loss") == 1.0
    assert set(SPEECH_LOSSES) == PARTS.keys()


def test_measured_speech_and_the_loss_of_a_classifier():
    assert value([{"speech": {"mcd": 4.0}}, {"speech": {"mcd": 6.0}}], "speech_mcd") == 5.0
    assert value([{"loss": 0.5}, {"loss": 1.5}], "loss") == 1.0


def test_macro_f1_of_several_labels():
    pairs = [("a|b", "a"), ("b", "b"), ("", "a")]
    lines = [{"expected": expected, "predicted": predicted} for expected, predicted in pairs]
    # a: 1 hit, 1 wrong: F1 2/3; b: 1 hit, 1 missed: F1 2/3
    assert value(lines, "macro_f1") == pytest.approx(2 / 3)


def test_lines_without_what_a_metric_needs():
    assert measured([{"u": {"id": "u"}}], "wer") is None
    assert measured([{"u": {"id": "u"}}], "unknown") is None


@pytest.mark.parametrize(
    ("text", "why"), [("{", "JSONDecodeError"), ("[1]", "TypeError"), ('{"id": 1}\n{"id": 1}', "the same id")]
)
def test_files_that_no_evaluation_writes(tmp_path, text, why):
    (tmp_path / "dev.jsonl").write_text(text)
    with pytest.raises(UserError, match=why):
        read_lines(tmp_path, "dev")
    assert read_lines(tmp_path, "test") == {}
