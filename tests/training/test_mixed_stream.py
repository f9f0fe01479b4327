"""Several streams as one: exact shares for any number of processes and workers, and resumption."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter, defaultdict

import datasets
import pytest

from sft_speech.corpora.report import CorpusReport, Dropped
from sft_speech.errors import UserError
from sft_speech.options.keep import Place
from sft_speech.options.mixing import Part
from sft_speech.text.normalize import Normalized
from sft_speech.training import stream as streams
from sft_speech.training.mixed_stream import MixedStream, mixed_stream
from sft_speech.training.plan import REPEAT
from sft_speech.training.stream import Stream
from sft_speech.training.stream_plan import StreamPlan

LENGTHS = {"a": 1.0, "b": 4.0}  # seconds of the utterances of each source


def judge(row):
    return Normalized(row["text"], Counter()), ("bad", "") if row["text"] == "BAD" else None


class Utterances:
    def made_of(self, row, epoch, number):
        return {"id": row["id"], "source": row["source"], "seconds": row["seconds"], "seed": (epoch, number)}


def listed(utterances):
    return {"utterances": utterances}


def part(name: str, weight: float) -> Part:
    return Part(name, Place(name, None, None, {}, None), weight=weight)


def one(name: str, rows: int, shards: int, bad: int = 0) -> Stream:
    """A stream of so many utterances; every ``bad``-th one cannot be used."""
    seconds = LENGTHS[name]
    table = {
        "id": [str(number) for number in range(rows)],
        "audio": [{"bytes": bytes(10), "path": None}] * rows,
        "text": ["BAD" if bad and number % bad == 0 else "A" for number in range(rows)],
        "seconds": [seconds] * rows,
    }
    return Stream(datasets.Dataset.from_dict(table).to_iterable_dataset(shards), CorpusReport())


def mix(a: int = 48, b: int = 48, weights=(3, 1), shards: int = 12, bad: int = 0) -> MixedStream:
    parts = [part("a", weights[0]), part("b", weights[1])]
    mixed = mixed_stream(parts, [one("a", a, shards, bad), one("b", b, shards, bad)])
    return dataclasses.replace(mixed, judge=judge)


def plan_of(stream: MixedStream, rank: int = 0, world: int = 1, report: CorpusReport | None = None) -> StreamPlan:
    given = {"max_seconds": 4.0, "batches": 10**6, "rank": rank, "world": world}
    return StreamPlan(stream, report or CorpusReport(), 1.0, 12.0, **given)


def loader(plan: StreamPlan, workers: int = 0):
    prefetch = {"prefetch_factor": 2} if workers else {}
    return plan.loader(Utterances(), collate_fn=listed, num_workers=workers, **prefetch)


def taken(plan: StreamPlan, workers: int = 0, epochs: int = 1) -> list[dict]:
    batches = []
    with contextlib.closing(iter(loader(plan, workers))) as given:
        for batch in given:
            if plan.place.epoch == epochs:
                break
            batches.append(batch)
    return batches


def seconds_of(batches: list[dict]) -> dict[str, float]:
    found: dict[str, float] = defaultdict(float)
    for batch in batches:
        for utterance in batch["utterances"]:
            found[utterance["source"]] += utterance["seconds"]
    return found


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_shares_are_exact_for_any_processes_and_workers(world, workers):
    """48 s of a and 192 s of b, 3 to 1: an epoch ends when b, the slower one, was read, and a came 12 times by then."""
    stream, whole = mix(), defaultdict(float)
    readers = world * max(1, workers)
    for rank in range(world):
        own = seconds_of(taken(plan_of(stream, rank, world), workers))
        for name, seconds in own.items():
            whole[name] += seconds
    assert whole["b"] == 192, "all of it, once"
    assert whole["a"] == 576 + readers, "three times as much, and one more of each reader, before it finds that b ends"


def test_an_utterance_that_comes_again_has_other_seeds():
    batches = taken(plan_of(mix()))
    seeds = [(utterance["id"], *utterance["seed"]) for batch in batches for utterance in batch["utterances"]]
    assert len(set(seeds)) == len(seeds)
    first = sorted(seed for id, seed, _ in seeds if id == "a/0")
    assert first == [again * REPEAT for again in range(len(first))]
    assert len(first) in (12, 13)
    assert Counter(id for id, *_ in seeds if id.startswith("b/")) == {f"b/{number}": 1 for number in range(48)}


def test_rows_that_cannot_be_used_do_not_change_the_shares():
    """Half of the rows are bad: the shares are those of the rest."""
    report = CorpusReport()
    found = seconds_of(taken(plan_of(mix(bad=2), report=report), 0))
    assert found["b"] == 96
    assert found["a"] == pytest.approx(288, abs=12)


def test_dropped_rows_name_their_source():
    report, stream = CorpusReport(), mix(bad=24)
    stream.streams[0].left_out.drop("a", "lost", "unreadable")
    taken(plan_of(stream, report=report))
    names = {row.id for row in report.dropped("train")}
    assert {"a/lost", "a/0", "a/24", "b/0", "b/24"} <= names
    assert stream.left_out.take("train")[0] == []
    stream.streams[1].left_out.drop("b", "x", "unreadable", "why")
    assert stream.left_out.take("train")[0] == [Dropped("b/x", "unreadable", "why")]


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_anywhere_it_goes_on_with_the_very_batch(workers, tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "POOL_BATCHES", 2)
    whole = taken(plan_of(mix(12, 12, shards=6)), workers, epochs=2)
    assert len(whole) > 20
    for done in (1, 5, 9, len(whole) - 2):
        first = plan_of(mix(12, 12, shards=6))
        with contextlib.closing(iter(loader(first, workers))) as given:
            for _ in range(done):
                next(given)
        folder = tmp_path / f"{done}"
        folder.mkdir()
        first.save(folder, done)
        again = plan_of(mix(12, 12, shards=6))
        again.resume(folder, done)
        assert taken(again, workers, epochs=2) == whole[done:]
        assert again.place.sources == pytest.approx(dict(seconds_of(whole)), abs=13)


def test_too_few_shards_for_the_workers_are_refused_with_the_number_that_works():
    with pytest.raises(UserError, match="sources: a: it has shards for 3 of 4 workers") as error:
        loader(plan_of(mix(shards=3)), 4)
    assert error.value.do == "set --dataloader_num_workers 3"
    taken(plan_of(mix(shards=3)), 2)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_source_without_usable_rows_is_named_and_not_waited_for(workers):
    stream = mix()
    rows = dataclasses.replace(mix(bad=1).streams[0])
    with pytest.raises(UserError, match="sources: a: no row of it that a worker reads can be used"):
        taken(plan_of(dataclasses.replace(stream, streams=(rows, stream.streams[1]))), workers)


def test_rows_have_the_language_of_their_source_and_transcripts_come_from_all():
    german = dataclasses.replace(one("a", 4, 1), language="de")
    mixed = mixed_stream([part("a", 1), part("b", 1)], [german, one("b", 4, 1)])
    rows = list(mixed.share(0, 1))
    assert {row.get("language") for row in rows if row["source"] == "a"} == {"de"}
    assert {row.get("language") for row in rows if row["source"] == "b"} == {None}
    assert mixed.first_texts(6) == ["A"] * 6
