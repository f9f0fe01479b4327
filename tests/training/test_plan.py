"""Batch plans: literal ones first, then what must hold for any."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_speech.errors import UserError
from sft_speech.training import plan as module
from sft_speech.training.plan import BatchPlan, epoch_plan

lengths = st.lists(st.floats(0.1, 40.0), min_size=4, max_size=200).map(np.array)


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
    with pytest.raises(ValueError, match="3 utterances cannot be shared among 4"):
        epoch_plan(np.ones(3), 10.0, seed=0, epoch=0, world=4)


# ---- resumed with another split

SPLITS = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from([5.0, 20.0, 60.0]), st.integers(0, 25)), min_size=1, max_size=4
)


def run_of_splits(seconds, splits, folder, epochs):
    """A run that is resumed again and again: (world, budget, batches until it is stopped); the last one is not.

    Gives the batches of every rank, as lists of (epoch, utterance).
    """
    came, done = [], 0
    for number, (world, budget, batches) in enumerate([*splits, (*splits[0][:2], None)]):
        plans = [BatchPlan(seconds, budget, batches=10**6, seed=5, rank=rank, world=world) for rank in range(world)]
        for plan in plans if number else []:
            plan.resume(folder, done)
        for plan in plans:
            given = iter(plan)
            if batches is None:
                came += itertools.takewhile(lambda batch: min(epoch for epoch, _ in batch) < epochs, given)
            else:
                came += itertools.islice(given, batches)
        if batches is not None:
            done += batches
            plans[0].save(folder, done)
    return came


@settings(deadline=None, max_examples=60)
@given(lengths, SPLITS)
def test_whatever_number_of_processes_takes_over_every_epoch_stays_whole(tmp_path_factory, seconds, splits):
    folder = tmp_path_factory.mktemp("run")
    came = run_of_splits(seconds, splits, folder, epochs=30)
    counts = Counter(item for batch in came for item in batch)
    everything = {(epoch, index) for epoch in range(25) for index in range(len(seconds))}
    assert everything <= set(counts)
    for batch in came:
        longest = max(seconds[index] for _, index in batch)
        assert len(batch) == 1 or len(batch) * longest <= 60.0
        if any(counts[item] > 1 for item in batch):
            assert len(batch) == 1, "an utterance comes twice only where there is nothing to split"


def test_the_rest_of_an_epoch_comes_once_under_the_new_split(tmp_path, caplog):
    """A literal one: 16 utterances of a second in batches of two; one process has done three of eight."""
    seconds = np.ones(16)
    before = BatchPlan(seconds, 2.0, batches=8, seed=1)
    trained = [index for batch in itertools.islice(before, 3) for _, index in batch]
    before.save(tmp_path, 3)
    plans = [BatchPlan(seconds, 2.0, batches=8, seed=1, rank=rank, world=2, accumulation=2) for rank in (0, 1)]
    for plan in plans:
        plan.resume(tmp_path, 3)
    rest = [list(itertools.islice(plan, 3)) for plan in plans]
    assert [[len(batch) for batch in own] for own in rest] == [[2, 2, 1], [2, 2, 1]]
    assert sorted(index for own in rest for batch in own for _, index in batch) == sorted(set(range(16)) - set(trained))
    assert {epoch for own in rest for batch in own for epoch, _ in batch} == {0}
    assert caplog.messages == [
        "resumed with another split (processes x batches: 2 x 2 s, before 1 x 2 s): each of the 10 utterances left in "
        "this epoch comes once, in a new order; an optimizer step has up to 8 s of audio, before 2 s"
    ]
    assert [plans[0].epochs(batches) for batches in (3, 6, 10)] == pytest.approx([6 / 16, 1.0, 2.0])


def test_fewer_utterances_than_processes_left_join_the_next_epoch(tmp_path):
    seconds = np.ones(5)
    before = BatchPlan(seconds, 1.0, batches=9)
    (last,) = {0, 1, 2, 3, 4} - {index for batch in itertools.islice(before, 4) for _, index in batch}
    before.save(tmp_path, 4)
    plans = [BatchPlan(seconds, 1.0, batches=7, rank=rank, world=3) for rank in range(3)]
    for plan in plans:
        plan.resume(tmp_path, 4)
    items = [item for plan in plans for batch in itertools.islice(plan, 2) for item in batch]
    assert sorted(items) == sorted([(0, last), *((1, index) for index in range(5))])


def test_the_same_split_resumes_at_the_same_place_after_another_one(tmp_path, caplog):
    """The file of a checkpoint is all that it takes; the second split is told once, when it begins."""
    seconds = np.random.default_rng(0).uniform(1, 9, 40)

    def plan(world, rank, done=None):
        plan = BatchPlan(seconds, 20.0, batches=100, seed=2, rank=rank, world=world)
        if done is not None:
            plan.resume(tmp_path, done)
        return plan

    plan(1, 0).save(tmp_path, 4)
    begun = plan(2, 1, done=4)
    whole = list(itertools.islice(begun, 20))
    plan(2, 0, done=4).save(tmp_path, 9)
    assert len(caplog.messages) == 1
    assert list(itertools.islice(plan(2, 1, done=9), 15)) == whole[5:]
    assert len(caplog.messages) == 1
    assert json.loads((tmp_path / "batch_plan.json").read_text()) == [
        {"world": 1, "seed": 2, "accumulation": 1, "batches": 4, "max_batch_seconds": 20.0},
        {"world": 2, "seed": 2, "accumulation": 1, "batches": 5, "max_batch_seconds": 20.0},
    ]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_run_of_epochs_ends_with_its_last_epoch_however_it_is_split(tmp_path, accumulation):
    seconds = np.random.default_rng(0).uniform(1, 9, 200)
    one = BatchPlan(seconds, 20.0, batches=0, max_epochs=2.0)
    one.save(tmp_path, one.per_epoch // 2)
    two = BatchPlan(seconds, 20.0, batches=0, world=2, accumulation=accumulation, max_epochs=2.0)
    two.resume(tmp_path, done := one.per_epoch // 2 * accumulation)
    assert two.epochs(two.batches) == pytest.approx(2.0, abs=accumulation / two.per_epoch)
    assert (two.batches - done) % accumulation == 0
    two.save(tmp_path, later := done + 10 * accumulation)
    again = BatchPlan(seconds, 20.0, batches=0, world=2, accumulation=accumulation, max_epochs=2.0)
    again.resume(tmp_path, later)
    assert again.batches == two.batches


@pytest.mark.parametrize("text", ["{", "3", "[{}]", '[{"world": 0}]', "[null]"])
def test_a_file_of_splits_that_is_something_else(tmp_path, text):
    (tmp_path / "batch_plan.json").write_text(text)
    with pytest.raises(UserError, match="it is not what a run writes"):
        BatchPlan(np.ones(4), 2.0, batches=1).resume(tmp_path, 1)
