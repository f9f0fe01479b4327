"""Batches out of a stream: what must hold for any number of shards, processes and workers."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections import Counter

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data._utils import worker as torch_worker
from torch.utils.data._utils.pin_memory import pin_memory

from sft_speech.audio.read import read
from sft_speech.corpora.report import CorpusReport, Dropped
from sft_speech.errors import UserError
from sft_speech.text.normalize import Normalized
from sft_speech.training import stream as streams
from sft_speech.training.stream import PooledBatches, Stream, noise
from sft_speech.training.stream_plan import StreamPlan

BUDGET = 10.0


def judge(row):
    bad = ("bad", row["text"]) if row["text"] == "BAD" else None
    return Normalized(row["text"].lower(), Counter(row["text"].count("7") * "7")), bad


class Utterances:
    """Of a row only what tells it from others."""

    def made_of(self, row, epoch, number):
        return {"id": row["id"], "text": row["text"], "seconds": row["seconds"], "seed": (epoch, number)}


def listed(utterances):
    return {"utterances": utterances}


def a_stream(seconds, shards, texts=None) -> Stream:
    """Utterances ``0``, ``1``, ... of such lengths, of 100 bytes a second."""
    rows = {
        "id": [str(number) for number in range(len(seconds))],
        "audio": [{"bytes": bytes(int(100 * length)), "path": None} for length in seconds],
        "text": texts or ["A"] * len(seconds),
        "seconds": [float(length) for length in seconds],
    }
    corpus = datasets.Dataset.from_dict(rows)
    return Stream(corpus.to_iterable_dataset(min(shards, len(seconds))), CorpusReport(), judge)


def a_plan(stream, *, batches=10**6, report=None, **kwargs) -> StreamPlan:
    return StreamPlan(stream, report or CorpusReport(), 0.05, BUDGET, max_seconds=4.0, batches=batches, **kwargs)


def loader(plan, workers=0):
    prefetch = {"prefetch_factor": 2} if workers else {}
    return plan.loader(Utterances(), collate_fn=listed, num_workers=workers, **prefetch)


def ids(batch) -> list[str]:
    return [utterance["id"] for utterance in batch["utterances"]]


def epoch_of(batch) -> int:
    (epoch,) = {utterance["seed"][0] for utterance in batch["utterances"]}
    return epoch


def taken(plan, workers=0, *, epochs: int) -> list[dict]:
    """The batches of so many epochs of one process."""
    batches = []
    with contextlib.closing(iter(loader(plan, workers))) as given:
        for batch in given:
            if plan.place.epoch == epochs:
                break
            batches.append(batch)
    return batches


@contextlib.contextmanager
def as_worker(number: int, count: int):
    """What runs within believes to be a loader's worker."""
    torch_worker._worker_info = torch_worker.WorkerInfo(id=number, num_workers=count, seed=0, dataset=None)
    try:
        yield
    finally:
        torch_worker._worker_info = None


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.floats(0.1, 12.0), min_size=1, max_size=60),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 2),
)
def test_every_row_comes_once_in_an_epoch_within_the_budget(seconds, shards, world, workers, epoch):
    def an_epoch():
        for rank in range(world):
            stream = a_stream(seconds, shards)
            batches = PooledBatches(stream, rank, world, Utterances().made_of, listed, BUDGET, seed=7)
            batches.set_out(epoch, [streams.Position()] * workers, -1)
            for number in range(workers):
                with as_worker(number, workers):
                    yield from [item.batch for item in batches if item.batch]

    batches = list(an_epoch())
    assert sorted(id for batch in batches for id in ids(batch)) == sorted(map(str, range(len(seconds))))
    for batch in batches:
        lengths = [utterance["seconds"] for utterance in batch["utterances"]]
        assert len(lengths) == 1 or len(lengths) * max(lengths) <= BUDGET
    assert batches == list(an_epoch()), "the same launch repeats exactly"


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("shards", [1, 5])
def test_epochs_of_a_loader_follow_each_other_whole(shards, workers, monkeypatch):
    """Workers whose shards are through wait for the others, or never have any."""
    monkeypatch.setattr(streams, "POOL_BATCHES", 2)
    plan = a_plan(a_stream(np.linspace(0.5, 4, 53), shards))
    batches = taken(plan, workers, epochs=3)
    epochs = [epoch_of(batch) for batch in batches]
    assert epochs == sorted(epochs)
    orders = []
    for epoch in range(3):
        orders.append([id for batch in batches if epoch_of(batch) == epoch for id in ids(batch)])
        assert sorted(orders[-1], key=int) == [str(number) for number in range(53)]
    assert orders[0] != orders[1] != orders[2]
    again = taken(a_plan(a_stream(np.linspace(0.5, 4, 53), shards)), workers, epochs=3)
    assert again == batches


def test_shards_come_in_another_order_in_every_epoch(monkeypatch):
    monkeypatch.setattr(streams, "POOL_BATCHES", 1)
    stream = a_stream([1.0] * 64, 32)
    batches = PooledBatches(stream, 0, 2, Utterances().made_of, listed, BUDGET, seed=3)
    firsts = []
    for epoch in range(4):
        batches.set_out(epoch, [streams.Position()], -1)
        firsts.append(sorted(ids(next(iter(batches)).batch), key=int))
    assert len(set(map(tuple, firsts))) == 4
    assert firsts[0] != [str(number) for number in range(10)]


def test_utterances_are_the_same_whoever_reads_them():
    """Their augmentation and masks depend on the epoch and their id; the transcript is the normalized one."""
    found = []
    for workers in (0, 2):
        batches = taken(a_plan(a_stream([1.0] * 12, 4)), workers, epochs=1)
        found.append({u["id"]: u for batch in batches for u in batch["utterances"]})
    assert found[0] == found[1]
    assert len({utterance["seed"] for utterance in found[0].values()}) == 12
    assert found[0]["3"]["text"] == "a"


@pytest.mark.parametrize(("workers", "shards"), [(0, 3), (2, 5), (3, 2)])
def test_taken_up_anywhere_it_goes_on_with_the_very_batch(workers, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "POOL_BATCHES", 3)

    def plan():
        return a_plan(a_stream(np.linspace(0.5, 4, 41), shards, ["A", "A", "BAD"][:1] * 40 + ["BAD"]))

    whole = taken(plan(), workers, epochs=2)
    first = plan()
    with contextlib.closing(iter(loader(first, workers))) as given:
        for number in range(len(whole)):
            next(given)
            if number % 5 in (0, 3) or number == len(whole) - 1:
                (tmp_path / str(number)).mkdir()
                first.save(tmp_path / str(number), number)
    for saved in tmp_path.iterdir():
        resumed = plan()
        resumed.resume(saved, int(saved.name) + 1)
        with contextlib.closing(iter(loader(resumed, workers))) as given:
            rest = [next(given) for _ in whole[int(saved.name) + 1 :]]
        assert rest == whole[int(saved.name) + 1 :]
        assert resumed.place.rows == 40
        assert [row.id for row in resumed.report.dropped("train")] == ["40"]


def test_with_another_number_of_readers_the_next_epoch_begins(tmp_path, caplog):
    first = a_plan(a_stream([1.0] * 30, 3))
    with contextlib.closing(iter(loader(first))) as given:
        next(given)
        first.save(tmp_path, 0)
    resumed = a_plan(a_stream([1.0] * 30, 3), rank=1, world=2)
    resumed.resume(tmp_path, 1)
    with contextlib.closing(iter(loader(resumed, 2))) as given:
        assert epoch_of(next(given)) == 1
    assert "resumed with 2 processes x 2 workers, before 1 x 1" in caplog.text
    assert resumed.place.rows == 0, "what the other one read is not counted again"


def test_a_checkpoint_of_a_run_that_was_not_streamed(tmp_path, caplog):
    plan = a_plan(a_stream([1.0] * 30, 3))
    plan.resume(tmp_path, 5)
    with contextlib.closing(iter(loader(plan))) as given:
        assert epoch_of(next(given)) == 0
    assert "the stream is read from its beginning" in caplog.text


def test_processes_share_whole_shards_where_they_are_many(caplog):
    stream = a_stream([1.0] * 50, 50)
    shares = [[row["id"] for row in stream.share(rank, 3)] for rank in range(3)]
    assert sorted(map(len, shares)) == [16, 17, 17]
    loader(a_plan(stream, rank=1, world=3))
    assert not caplog.records
    few = a_stream([1.0] * 50, 4)
    shares = [[row["id"] for row in few.share(rank, 3)] for rank in range(3)]
    assert shares[0][:3] == ["0", "3", "6"]
    loader(a_plan(few, rank=1, world=3))
    assert "4 shards cannot be dealt out to 3 processes" in caplog.text


def test_a_pool_is_bounded_in_seconds_and_in_bytes(monkeypatch):
    stream = a_stream([2.0] * 20, 1)
    batches = PooledBatches(stream, 0, 1, Utterances().made_of, listed, BUDGET, seed=0)
    monkeypatch.setattr(streams, "POOL_BATCHES", 1)
    assert [len(rows) for _, rows in batches.pools(None)] == [5, 5, 5, 5]
    monkeypatch.setattr(streams, "POOL_BYTES", 500)
    assert [len(rows) for _, rows in batches.pools(None)] == [3, 3, 3, 3, 3, 3, 2]


def test_padding_is_small():
    seconds = np.random.default_rng(0).gamma(6.0, 0.5, 2000).clip(0.5, 9)
    batches = taken(a_plan(a_stream(seconds, 4)), epochs=1)
    lengths = [[u["seconds"] for u in batch["utterances"]] for batch in batches]
    padded = sum(len(own) * max(own) for own in lengths)
    assert padded / seconds.sum() - 1 < 0.03
    assert lengths[0][0] != min(seconds), "the shortest don't come first"


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_dropped_is_counted_once_with_its_reason(workers):
    texts = ["A7"] * 39 + ["BAD"]
    plan = a_plan(a_stream([1.0] * 40, 4, texts), report=(report := CorpusReport()))
    assert len([id for batch in taken(plan, workers, epochs=2) for id in ids(batch)]) == 2 * 39
    assert report.dropped("train") == [("39", "bad", "BAD")]
    assert report.missing("train") == {"7": 39}
    assert report.to_dict()["train"]["kept"] == {"rows": 39, "hours": 39 / 3600}


def test_what_travels_with_a_batch_is_the_same_once_its_memory_is_pinned():
    stream = a_stream([1.0] * 12, 1, ["A7"] * 11 + ["BAD"])
    batches = PooledBatches(stream, 0, 1, Utterances().made_of, listed, BUDGET, seed=0)
    item = next(iter(batches))
    assert (item.read.missing, item.read.dropped[0].id) == ({"7": 11}, "11")
    assert pin_memory(item) == item
    assert isinstance(pin_memory(item).read.dropped[0], Dropped)


@pytest.mark.parametrize("shards", [1, 3])
def test_what_cannot_be_read_is_counted_by_one_process(shards):
    """Even where each reads all."""
    counted = []
    for rank in range(3):
        stream = a_stream([1.0] * 60, shards)
        stream = dataclasses.replace(stream, rows=stream.rows.map(Unreadable(stream.left_out), batched=True))
        plan = StreamPlan(stream, CorpusReport(), 0.9, BUDGET, max_seconds=4.0, batches=9, rank=rank, world=3)
        batches = taken(plan, epochs=1)
        counted += [row.id for row in plan.report.dropped("train")] + [id for batch in batches for id in ids(batch)]
    assert sorted(counted, key=int) == [str(number) for number in range(60)]


class Unreadable:
    """Leaves out every other row of a stream, as what can't be read is left out."""

    def __init__(self, report):
        self.report = report

    def __call__(self, rows):
        for id in rows["id"][::2]:
            self.report.drop("train", id, "unreadable")
        return {name: values[1::2] for name, values in rows.items()}


def test_too_much_that_cannot_be_used_ends_the_run(monkeypatch):
    texts = ["A"] * 90 + ["BAD"] * 10
    with pytest.raises(UserError, match=r"10 of 100 rows \(10.0%\) cannot be used"):
        taken(a_plan(a_stream([1.0] * 100, 1, texts)), epochs=2)
    monkeypatch.setattr(streams, "POOL_BATCHES", 1)
    monkeypatch.setattr("sft_speech.training.stream_plan.JUDGED_AFTER", 20)
    plan = a_plan(a_stream([1.0] * 100, 1, ["BAD", "A"] * 50))
    with pytest.raises(UserError, match="max_dropped_share"):
        taken(plan, epochs=2)
    assert plan.place.rows + len(plan.report.dropped("train")) < 40, "long before the end"


def test_a_stream_of_which_nothing_can_be_used(tmp_path):
    plan = a_plan(a_stream([1.0] * 8, 2, ["BAD"] * 8))
    with pytest.raises(UserError, match="no usable row of it is left for process 1 of 1"):
        taken(plan, epochs=1)
    lonely = a_plan(a_stream([1.0], 1), rank=1, world=2)
    with pytest.raises(UserError, match="process 2 of 2"):
        taken(lonely, epochs=1)


def test_what_the_trainer_asks_of_a_plan():
    plan = a_plan(a_stream([2.0] * 20, 2), batches=12, world=1)
    assert len(loader(plan)) == 12
    assert plan.epochs(3) == 0.0, "not known before the first one ends"
    taken(plan, epochs=1)
    assert plan.place.ends == [4]
    assert plan.epochs(4) == 1.0
    assert plan.epochs(6) == 1.5
    assert plan.hours(0) == pytest.approx(50 / 3600), "the batch after the first epoch was taken as well"
    assert len(plan.worst()) * plan.seconds[plan.worst()].max() == pytest.approx(BUDGET)
    assert plan.seconds.max() <= 4.0
    single = StreamPlan(plan.stream, CorpusReport(), 0.05, 10.0, max_seconds=30.0, batches=1)
    assert (single.worst(), single.seconds.tolist()) == ([0], [30.0])


def test_transcripts_for_a_vocabulary_are_the_first_ones(monkeypatch, caplog):
    monkeypatch.setattr(streams, "TRANSCRIPTS", 2)
    assert list(a_stream([1.0] * 3, 1, ["A", "B", "C"]).transcripts()) == ["A", "B"]
    assert "first 2 transcripts" in caplog.text


def test_opening_moves_what_is_known_already_into_the_report():
    report = CorpusReport()

    def load(*, streaming, min_shards, report):
        assert (streaming, min_shards) == (True, 48)
        report.drop("train", "a", "missing file")
        return "rows"

    opened = Stream.opened(load, "train", 3, report)
    assert opened.rows == "rows"
    assert [row.id for row in report.dropped("train")] == ["a"]
    assert opened.left_out.dropped("train") == []


def test_noise_is_a_row_that_can_be_read():
    row = noise(2.0, 100)
    waveform = read(row["audio"], 100, start=row["start"], seconds=row["seconds"])
    assert len(waveform) == 200
    assert waveform.std() == pytest.approx(0.1, rel=0.2)


def test_datasets_says_where_it_is_row_by_row():
    """What resuming rests on: the state after any row leads to the row that follows."""
    logging.getLogger("datasets").setLevel(logging.ERROR)
    rows = a_stream([1.0] * 20, 3).rows
    rows.set_epoch(5)
    states, order = [], []
    for row in rows:
        order.append(row["id"])
        states.append(rows.state_dict())
    for place, state in enumerate(states):
        rows.load_state_dict(state)
        assert [row["id"] for row in rows] == order[place + 1 :]
