"""The utterances of each epoch of a mix: literal ones first, then what must hold for any."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_speech.options.keep import Place
from sft_speech.options.mixing import Part
from sft_speech.training.draw import MixedDraw, Portion, are_plain, shares_of, subset
from sft_speech.training.plan import REPEAT, BatchPlan

lengths = st.lists(st.floats(0.1, 40.0), min_size=1, max_size=60).map(np.array)


def part(name: str, **more: float) -> Part:
    return Part(name, Place(name, None, None, {}, None), **more)


def mixed(*shares: float, sizes: tuple[int, ...] = (4, 8), seed: int = 0) -> MixedDraw:
    """A mix of sources whose utterances all have a second."""
    names = [f"s{number}" for number in range(len(sizes))]
    return MixedDraw(names, [np.ones(size) for size in sizes], np.array(shares), seed)


def test_shares_are_weights_or_grow_with_a_root_of_the_hours():
    assert shares_of([part("a", weight=3), part("b", weight=1)], [10.0, 90.0]).tolist() == [0.75, 0.25]
    assert shares_of([part("a"), part("b")], [10.0, 90.0]).tolist() == [0.1, 0.9]
    both = [part("a", temperature=2), part("b", temperature=2)]
    assert shares_of(both, [10.0, 90.0]) == pytest.approx([0.25, 0.75])
    assert shares_of([part("a", temperature=1e9), part("b")], [10.0, 90.0]) == pytest.approx([0.5, 0.5])
    assert [are_plain(one) for one in ([part("a"), part("b")], both)] == [True, False]


def test_a_source_with_more_than_its_hours_is_repeated_and_the_rest_is_drawn():
    """12 s: three quarters are 9 s of 4 s, two passes and one utterance more; a quarter is 3 s of 8 s."""
    draw = mixed(0.75, 0.25)
    assert draw.passes.tolist() == [2.25, 0.375]
    assert draw.copies == 3
    for epoch in range(8):
        keys = draw.keys(epoch)
        times = Counter((keys % 12).tolist())
        assert sorted(times[index] for index in range(4)) == [2, 2, 2, 3]
        assert sum(times[index] for index in range(4, 12)) == 3
        assert {key // 12 for key in keys.tolist() if key % 12 < 4} == {0, 1, 2}
        assert len(set(keys.tolist())) == 12


def test_what_is_drawn_is_a_literal():
    draw = mixed(0.75, 0.25)
    assert [draw.keys(epoch).tolist() for epoch in (0, 1)] == DRAWN


DRAWN = [
    [0, 1, 2, 3, 7, 9, 10, 12, 13, 14, 15, 27],
    [0, 1, 2, 3, 6, 8, 11, 12, 13, 14, 15, 25],
]


def test_a_portion_repeats_nothing_before_all_was_drawn():
    """3 of 8 s an epoch: the third epoch begins the second pass, without what it has drawn already."""
    portion = Portion(np.ones(8), 3.0, (0,))
    drawn = [portion.draw(epoch).tolist() for epoch in range(8)]
    assert [len(one) for one in drawn] == [3] * 8
    assert all(len(set(one)) == 3 for one in drawn)
    assert Counter(index for one in drawn for index in one) == dict.fromkeys(range(8), 3)
    assert sorted([*drawn[0], *drawn[1], *drawn[2][:2]]) == list(range(8))


@settings(deadline=None)
@given(lengths, st.floats(0.0, 1.0, exclude_max=True), st.integers(0, 3))
def test_portions_are_exact_and_distinct(seconds, share, seed):
    wanted = share * seconds.sum()
    portion, total = Portion(seconds, wanted, (seed,)), 0.0
    for epoch in range(12):
        drawn = portion.draw(epoch)
        assert len(set(drawn.tolist())) == len(drawn)
        own = seconds[drawn].sum()
        total += own
        assert abs(own - wanted) <= seconds.max() + 1e-6
        assert abs(total - (epoch + 1) * wanted) <= seconds.max() / 2 + 1e-6, "nothing is lost over epochs"


@settings(deadline=None)
@given(lengths, st.floats(0.05, 0.95), st.integers(0, 3))
def test_no_utterance_is_two_passes_ahead_of_another(seconds, share, seed):
    portion, times = Portion(seconds, share * seconds.sum(), (seed,)), np.zeros(len(seconds), int)
    for epoch in range(20):
        times[portion.draw(epoch)] += 1
        assert np.ptp(times) <= 1


@settings(deadline=None)
@given(
    st.lists(lengths, min_size=2, max_size=4),
    st.lists(st.floats(0.01, 100.0), min_size=4, max_size=4),
    st.integers(0, 5),
)
def test_shares_are_exact_to_within_an_utterance_and_counts_are_floor_or_ceil(seconds, weights, epoch):
    shares = np.array(weights[: len(seconds)]) / sum(weights[: len(seconds)])
    draw = MixedDraw([f"s{number}" for number in range(len(seconds))], seconds, shares, 7)
    whole, keys = np.concatenate(seconds), draw.keys(epoch)
    assert len(set(keys.tolist())) == len(keys)
    assert keys.max() < draw.copies * len(whole)
    times = np.bincount(keys % len(whole), minlength=len(whole))
    for own, share, begin in zip(seconds, shares, draw.begins[:-1], strict=True):
        mine = times[begin : begin + len(own)]
        assert abs((mine * own).sum() - share * whole.sum()) <= own.max() + 1e-6
        passes = share * whole.sum() / own.sum()
        assert set(mine.tolist()) <= {int(passes + 1e-9), int(passes + 1e-9) + 1}


def test_an_epoch_is_the_same_in_any_order_of_asking_and_another_with_another_seed():
    draw = mixed(0.6, 0.4)
    asked = [draw.keys(epoch).tolist() for epoch in (5, 0, 3, 5, 1)]
    assert asked[0] == asked[3] == mixed(0.6, 0.4).keys(5).tolist()
    assert asked[1] == mixed(0.6, 0.4).keys(0).tolist()
    assert asked[0] != mixed(0.6, 0.4, seed=1).keys(5).tolist()


def planned(world: int, draw: MixedDraw, epochs: int) -> list[list[tuple[int, int]]]:
    """Return the batches of all processes in the first epochs."""
    batches = []
    for rank in range(world):
        plan = BatchPlan(np.ones(12), 3.0, batches=10**6, seed=0, rank=rank, world=world, draw=draw)
        count = sum(len(plan.epoch(epoch)) for epoch in range(epochs))
        batches += [batch for _, batch in zip(range(count), plan, strict=False)]
    return batches


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_plan_of_any_number_of_processes_has_what_is_drawn(world):
    draw = mixed(0.75, 0.25)
    for epochs in (1, 3):
        found = sorted(one for batch in planned(world, draw, epochs) for one in batch)
        drawn = [(epoch + key // 12 * REPEAT, key % 12) for epoch in range(epochs) for key in draw.keys(epoch).tolist()]
        assert found == sorted(drawn), "the same utterance in one epoch has another epoch for its seeds each time"


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(0, 41), st.floats(0.05, 0.95))
def test_a_run_on_a_mix_is_the_same_wherever_it_is_resumed(world, batches, done, share):
    def plan():
        draw = mixed(share, 1 - share)
        return BatchPlan(np.ones(12), 2.0, batches=batches, seed=3, world=world, draw=draw)

    whole, resumed = list(plan()), plan()
    resumed.done = done
    assert list(resumed) == whole[done:]


@pytest.mark.parametrize("worlds", [(1, 2), (2, 1), (2, 3), (3, 4)])
def test_another_number_of_processes_goes_on_with_the_rest_of_the_epoch(worlds, tmp_path):
    draw, steps = mixed(0.75, 0.25), 2
    plans = [
        [BatchPlan(np.ones(12), 1.0, batches=10**6, seed=0, rank=rank, world=world, draw=draw) for rank in range(world)]
        for world in worlds
    ]
    seen = [one for plan in plans[0] for _, batch in zip(range(steps), plan, strict=False) for one in batch]
    plans[0][0].save(tmp_path, steps)
    for plan in plans[1]:
        plan.resume(tmp_path, steps)
        seen += [one for _, batch in zip(range(plan.first_whole - steps), plan, strict=False) for one in batch]
    expected = {(key // 12 * REPEAT, key % 12) for key in draw.keys(0).tolist()}
    assert {one for one in seen if one[0] % REPEAT == 0} == expected


def test_a_mix_without_weights_has_every_utterance_once():
    plain = BatchPlan(np.ones(12), 3.0, batches=20, seed=0)
    assert sorted(plain.draw.keys(3).tolist()) == list(range(12))


def test_a_random_subset_is_the_same_every_time_and_counts_what_can_be_used():
    seconds, usable = np.full(100, 36.0), np.arange(100) % 2 == 0
    chosen = subset("digits", seconds, np.ones(100, bool), 0.5, 0)
    assert len(chosen) == 50
    assert chosen.tolist() == subset("digits", seconds, np.ones(100, bool), 0.5, 0).tolist() == sorted(chosen.tolist())
    assert chosen.tolist() != subset("digits", seconds, np.ones(100, bool), 0.5, 1).tolist()
    assert chosen.tolist() != subset("other", seconds, np.ones(100, bool), 0.5, 0).tolist()
    half = subset("digits", seconds, usable, 0.25, 0)
    assert usable[half].sum() == 25
    assert 20 < (~usable[half]).sum() < 30, "rows that cannot be used are left out in proportion"
    assert len(subset("digits", seconds, np.ones(100, bool), 5.0, 0)) == 100
