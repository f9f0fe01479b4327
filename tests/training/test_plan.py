"""Batch plans: literal ones first, then what must hold for any."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_speech.training import plan as module
from sft_speech.training.plan import BatchPlan, cut, epoch_plan, sorted_batches

lengths = st.lists(st.floats(0.1, 40.0), min_size=4, max_size=200).map(np.array)


def test_cut_counts_padding():
    # two of 3 s cost 6; a third one of 4 s would make it 3 x 4 = 12
    assert cut([0, 1, 2, 3], np.array([3.0, 3.0, 4.0, 4.0]), 8.0) == [[0, 1], [2, 3]]


def test_cut_gives_an_overlong_utterance_its_own_batch():
    assert cut([0, 1, 2], np.array([1.0, 50.0, 1.0]), 10.0) == [[0], [1], [2]]


def test_sorted_batches_start_with_the_longest():
    assert sorted_batches([1.0, 5.0, 2.0, 4.0], 8.0) == [[1], [3, 2], [0]]
    assert sorted_batches([], 8.0) == []


def test_epoch_plan_is_a_literal():
    plan = epoch_plan(np.array([1.0, 2.0, 3.0, 4.0]), 6.0, seed=0, epoch=0, world=1)
    assert sorted(sorted(batch) for (batch,) in plan) == [[0, 1], [2], [3]]
    seconds = np.array([3.0, 1.0, 2.0, 5.0, 4.0, 1.5, 2.5, 6.0])
    plan = epoch_plan(seconds, 8.0, seed=3, epoch=1, world=2)
    assert list(plan) == [[[1], [5, 2]], [[6, 0], [4]], [[3], [7]]]
    assert plan.padded(seconds).tolist() == [[1.0, 4.0], [6.0, 4.0], [5.0, 6.0]]


@settings(deadline=None)
@given(lengths, st.floats(1.0, 100.0), st.integers(1, 4), st.integers(0, 3))
def test_no_utterance_is_lost_and_no_budget_exceeded(seconds, budget, world, epoch):
    plan = epoch_plan(seconds, budget, seed=1, epoch=epoch, world=world)
    assert all(len(step) == world for step in plan), "every process has a batch in every step"
    batches = [batch for step in plan for batch in step]
    planned = sorted(index for batch in batches for index in batch)
    assert sorted(set(planned)) == list(range(len(seconds)))
    if any(len(batch) > 1 for batch in batches):
        assert len(planned) == len(seconds), "an utterance comes twice only where there is nothing to split"
    for batch in batches:
        assert batch
        assert len(batch) == 1 or len(batch) * seconds[batch].max() <= budget


@settings(deadline=None)
@given(lengths, st.integers(1, 3), st.integers(1, 30), st.integers(0, 31))
def test_a_run_is_the_same_wherever_it_is_taken_up(seconds, world, batches, done):
    def plan(rank):
        return BatchPlan(seconds, 20.0, batches=batches, seed=3, rank=rank, world=world)

    whole = list(plan(0))
    assert len(whole) == batches == len(plan(0))
    resumed = plan(0)
    resumed.done = done
    assert list(resumed) == whole[done:]
    assert [len(list(plan(rank))) for rank in range(world)] == [batches] * world


def test_ranks_share_nothing_within_an_epoch():
    seconds = np.linspace(1, 10, 64)
    plans = [BatchPlan(seconds, 20.0, batches=10**6, seed=0, rank=rank, world=2) for rank in (0, 1)]
    steps = len(plans[0].epoch(0))
    seen = [
        {index for _, batch in zip(range(steps), plan, strict=False) for epoch, index in batch if epoch == 0}
        for plan in plans
    ]
    assert not seen[0] & seen[1]
    assert seen[0] | seen[1] == set(range(64))


def test_epochs_differ_in_order_and_company():
    seconds = np.random.default_rng(0).uniform(1, 15, 500)
    first, second = (epoch_plan(seconds, 60.0, seed=0, epoch=epoch) for epoch in (0, 1))
    assert list(first) != list(second)


def test_ranks_cost_nearly_the_same():
    seconds = np.random.default_rng(0).uniform(1, 16, 5000)
    plan = epoch_plan(seconds, 100.0, seed=0, epoch=0, world=4)
    costs = np.array([[len(batch) * seconds[batch].max() for batch in step] for step in plan])
    assert np.median(costs.min(1) / costs.max(1)) > 0.95


def test_padding_is_small_where_lengths_are_those_of_read_speech():
    seconds = np.random.default_rng(0).gamma(6.0, 2.0, 5000).clip(1, 35)
    plan = BatchPlan(seconds, 160.0, batches=1)
    assert plan.padding() < 0.02


def test_an_epoch_is_planned_once_and_those_that_are_done_are_not_dealt_out(monkeypatch):
    planned = []
    monkeypatch.setattr(
        module,
        "epoch_plan",
        lambda *args, epoch, **kwargs: planned.append(epoch) or epoch_plan(*args, epoch=epoch, **kwargs),
    )
    plan = BatchPlan(np.linspace(1, 10, 64), 20.0, batches=1000)
    steps = len(plan.epoch(0))
    plan.padding()
    plan.worst()
    next(iter(plan))
    assert planned == [0]
    plan.done = 3 * steps
    monkeypatch.setattr(module.EpochPlan, "__getitem__", lambda plan, step: planned.append("dealt out") or [[0]])
    next(iter(plan))
    assert planned[:4] == [0, 1, 2, 3]
    assert planned[4:] == ["dealt out"]


def test_a_plan_takes_few_bytes_per_utterance():
    plan = epoch_plan(np.random.default_rng(0).gamma(6.0, 2.0, 5000).clip(1, 35), 160.0, seed=0, epoch=0)
    assert (plan.order.nbytes + plan.spans.nbytes) / 5000 < 6


def test_worst_batch_is_the_costliest():
    plan = BatchPlan(np.array([1.0, 1.0, 9.0, 4.0, 4.0]), 10.0, batches=1)
    assert plan.worst() == [2]


@settings(deadline=None)
@given(lengths, st.floats(10.0, 100.0), st.integers(1, 3))
def test_the_costliest_batch_comes_first(seconds, budget, world):
    plan = BatchPlan(seconds, budget, batches=1, world=world)
    costs = [[len(batch) * seconds[batch].max() for batch in step] for step in plan.epoch(0)]
    assert round(max(costs[0])) == round(max(map(max, costs)))
    assert plan.worst() in plan.epoch(0)[0]
    assert round(len(plan.worst()) * seconds[plan.worst()].max()) == round(max(costs[0]))


def test_fewer_utterances_than_processes():
    with pytest.raises(ValueError, match="3 utterances can't be shared among 4"):
        epoch_plan(np.ones(3), 10.0, seed=0, epoch=0, world=4)
