"""How many utterances may become unreadable while a run goes on."""

from __future__ import annotations

import pytest

from sft_speech.errors import UserError
from sft_speech.training.skipped_audio import WINDOW, SkippedAudio, WithContents, check_evaluation


def test_a_batch_tells_what_it_is_made_of():
    batch = WithContents(lambda utterances: {"size": len(utterances)})([{"id": "a"}, None, {"id": "b"}])
    assert batch == {"size": 3, "contents": {"ids": ["a", "b"], "skipped": 1}}


def test_a_disk_that_goes_away_ends_even_a_long_run():
    skipped_audio = SkippedAudio(0.05, corpus=100_000)
    for _ in range(1000):
        skipped_audio.judge(100, 1)  # 1 %
    for _ in range(50):
        skipped_audio.judge(1, 1)
    with pytest.raises(UserError, match=r"51 of the last 51 utterances.*max_dropped_share = 5.0%"):
        skipped_audio.judge(1, 1)


def test_of_a_small_corpus_the_share_is_that_of_an_epoch():
    skipped_audio = SkippedAudio(0.05, corpus=40)
    for _ in range(100):
        skipped_audio.judge(20, 0)
        skipped_audio.judge(20, 2)
    with pytest.raises(UserError, match="3 of the last 20"):
        skipped_audio.judge(20, 3)


def test_one_lost_utterance_does_not_end_a_run_at_its_beginning():
    skipped_audio = SkippedAudio(0.05, corpus=10 * WINDOW)
    skipped_audio.judge(1, 1)
    assert (skipped_audio.asked, skipped_audio.skipped) == (1, 1)


def test_an_evaluation_of_what_is_left():
    check_evaluation(100, 5, 0.05)
    with pytest.raises(UserError, match="6 of its 100 utterances cannot be read any more"):
        check_evaluation(100, 6, 0.05)
    with pytest.raises(UserError, match="none of its utterances"):
        check_evaluation(3, 3, 1.0)
