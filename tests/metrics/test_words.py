from __future__ import annotations

import os
import subprocess
import sys

import jiwer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_speech.metrics import words as metrics
from sft_speech.metrics.words import Errors

PAIRS = [
    ("the cat sat", "the cat sat"),
    ("the cat sat", "the bat sat on"),
    ("a b c d", ""),
    ("", "x y"),
    ("", ""),
    ("one two three four", "one three four"),
]
words = st.lists(st.sampled_from(["a", "b", "c", "the"]), max_size=6).map(" ".join)


def test_counts_of_each_utterance_are_literal():
    references, hypotheses = zip(*PAIRS, strict=True)
    assert metrics.word_errors(references, hypotheses) == [
        Errors(hits=3),
        Errors(hits=2, substitutions=1, insertions=1),
        Errors(deletions=4),
        Errors(insertions=2),
        Errors(),
        Errors(hits=3, deletions=1),
    ]


def test_rate_is_a_ratio_of_sums_not_a_mean_of_rates():
    counts = metrics.word_errors(["a", "a b c d e f g h i"], ["x", "a b c d e f g h i"])
    assert metrics.sum_errors(counts).rate == 0.1
    assert np.mean([c.rate for c in counts]) == 0.5  # what it must not be


def test_insertions_on_an_empty_reference_count():
    total = metrics.sum_errors(metrics.word_errors(["", "a b"], ["um", "a b"]))
    assert (total.insertions, total.reference, total.rate) == (1, 2, 0.5)


def test_a_set_without_reference_words_has_a_finite_rate():
    assert metrics.sum_errors(metrics.word_errors([""], [""])).rate == 0
    assert metrics.sum_errors(metrics.word_errors([""], ["x y"])).rate == 2


def test_no_utterance_is_no_error():
    assert metrics.word_errors([], []) == []
    assert metrics.character_errors([], []) == []
    assert metrics.sum_errors([]).rate == 0


def test_different_numbers_of_texts_are_refused():
    with pytest.raises(ValueError, match="lengths must match"):
        metrics.word_errors(["a", "b"], ["a"])


def test_space_runs_are_no_character_errors():
    assert metrics.character_errors(["a b"], [" a  b "]) == [Errors(hits=3)]


@settings(deadline=None)  # a busy machine is no error
@given(st.lists(st.tuples(words, words), min_size=1, max_size=8))
def test_sums_agree_with_jiwer_over_the_whole_set_however_it_is_split(pairs):
    references, hypotheses = (list(texts) for texts in zip(*pairs, strict=True))
    whole = jiwer.process_words(references, hypotheses)
    middle = len(pairs) // 2
    parts = metrics.word_errors(references[:middle], hypotheses[:middle]) + metrics.word_errors(
        references[middle:], hypotheses[middle:]
    )
    total = metrics.sum_errors(parts)
    assert total == Errors(whole.hits, whole.substitutions, whole.deletions, whole.insertions)
    assert total.rate == pytest.approx(whole.wer)


def test_confusions_name_the_words():
    found = metrics.confusions(["the cat sat down", "the cat"], ["a cat sat", "a cat too"])
    assert found == {("the", "a"): 2, ("down", ""): 1, ("", "too"): 1}


def test_interval_is_seeded_and_holds_the_rate():
    rng = np.random.default_rng(1)
    errors = [Errors(hits=10 - int(n), substitutions=int(n)) for n in rng.binomial(10, 0.2, 400)]
    found = metrics.interval(errors)
    assert found == metrics.interval(errors)
    assert found.over == "utterances"
    rate = metrics.sum_errors(errors).rate
    assert found.low < rate < found.high
    # 4000 independent words at 20 %: the normal interval is 0.2 +- 1.96 sqrt(.2 * .8 / 4000) = +- 0.0124
    assert found.high - found.low == pytest.approx(2 * 0.0124, rel=0.15)


def test_interval_over_speakers_is_wider_where_speakers_differ():
    speakers = [f"s{n % 6}" for n in range(120)]
    errors = [Errors(hits=10) if n % 6 < 3 else Errors(substitutions=10) for n in range(120)]
    by_speaker, by_utterance = metrics.interval(errors, speakers), metrics.interval(errors)
    assert (by_speaker.over, by_utterance.over) == ("speakers", "utterances")
    assert by_speaker.high - by_speaker.low > 2 * (by_utterance.high - by_utterance.low)


@pytest.mark.parametrize("speakers", [["a"] * 30 + ["b"] * 30, [f"s{n % 9}" for n in range(59)] + [""], None])
def test_interval_is_over_utterances_with_few_or_unknown_speakers(speakers):
    assert metrics.interval([Errors(hits=1, insertions=n % 2) for n in range(60)], speakers).over == "utterances"


def test_interval_of_nothing_and_of_empty_references():
    assert np.isnan(metrics.interval([]).low)
    assert metrics.interval([Errors()] * 3).high == 0


def test_metric_loads_offline_and_sums_its_batches(tmp_path):
    code = """
import sys, evaluate
metric = evaluate.load(sys.argv[1])
metric.add_batch(predictions=["x"], references=["a"])
metric.add_batch(predictions=["a b c d e f g h i", ""], references=["a b c d e f g h i", ""])
found = metric.compute()
assert found["wer"] == 0.1 and found["substitutions"] == 1 and found["words"] == 10, found
assert 0 < found["cer"] < 0.1, found
"""
    settings = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-c", code, metrics.METRIC_PATH]
    subprocess.run(command, check=True, env={**os.environ, **settings}, timeout=300)
