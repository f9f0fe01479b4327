"""Several stored corpora as one: ids, speakers, reports, and shares that a real loader hands out."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from sft_speech.corpora.report import CorpusReport
from sft_speech.corpora.rows import column_of, corpus_of
from sft_speech.errors import UserError
from sft_speech.options.keep import Place
from sft_speech.options.mixing import Part
from sft_speech.tasks.asr.config import FinetuneAsrConfig
from sft_speech.training.by_source import BySource
from sft_speech.training.loss import LossOutput
from sft_speech.training.mix import MixedRows
from sft_speech.training.plan import REPEAT
from sft_speech.training.rows import StoredRows

SECONDS = {"digits": np.linspace(0.5, 1.5, 20), "news": np.linspace(4.0, 16.0, 40)}


def part(name: str, source: str = "", **more: float) -> Part:
    return Part(name, Place(source or name, None, None, {}, None), **more)


def rows(seconds: np.ndarray, speaker: str = "1", **more: list[str]):
    """Return rows whose ids are their numbers."""
    count = len(seconds)
    audio = [pa.nulls(count, pa.binary()), pa.array([f"{number}.wav" for number in range(count)])]
    columns = {
        "id": [str(number) for number in range(count)],
        "audio": pa.StructArray.from_arrays(audio, ["bytes", "path"]),
        "text": [f"text {number}" for number in range(count)],
        "speaker": [speaker] * count,
        "seconds": seconds,
        "start": pa.nulls(count, pa.float64()),
    }
    return corpus_of(pa.table(columns | more))


def mixed(*weights: float | None) -> MixedRows:
    parts = [part(name, weight=weight) for name, weight in zip(SECONDS, weights, strict=True)]
    return MixedRows.apart(parts, [rows(seconds) for seconds in SECONDS.values()])


class Keys:
    """A dataset that gives the keys of its utterances."""

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, int]:
        return key


def as_it_is(batch: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return batch


@dataclasses.dataclass
class Processes:
    process_index: int
    num_processes: int


def planned(mix: MixedRows, rank: int = 0, world: int = 1, epochs: float = 3.0):
    config = FinetuneAsrConfig(
        model="m", source="s", output_dir="o", max_batch_seconds=40.0, num_train_epochs=epochs, seed=5
    )
    return mix.plan(config, Processes(rank, world), CorpusReport(), None, 1.0)[0]


def handed_out(mix: MixedRows, world: int, workers: int) -> list[list[int]]:
    """Return the indices of the utterances that real loaders of all processes hand out, by epoch, for three epochs."""
    read: list[tuple[int, int]] = []
    for rank in range(world):
        plan = planned(mix, rank, world)
        loader = plan.loader(Keys(), collate_fn=as_it_is, num_workers=workers)
        ends = np.cumsum([len(plan.epoch(epoch)) for epoch in range(3)])
        read += [key for _, batch in zip(range(ends[-1]), loader, strict=False) for key in batch]
    assert len(set(read)) == len(read), "each time that an utterance comes, it has another seed"
    return [sorted(index for key, index in read if key % REPEAT == epoch) for epoch in range(3)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_shares_over_an_epoch_are_exact_for_any_processes_and_workers(world, workers):
    """Weights 3 to 1 of 420 s: 315 s of the 20 s of digits, and 105 of the 400 s of news, in each epoch."""
    lengths = np.concatenate(list(SECONDS.values()))
    for own in handed_out(mixed(3, 1), world, workers):
        seconds = {name: sum(lengths[index] for index in own if (index < 20) == (name == "digits")) for name in SECONDS}
        assert seconds["digits"] == pytest.approx(315, abs=1.5)
        assert seconds["news"] == pytest.approx(105, abs=16)
        times = Counter(own)
        assert {times[index] for index in range(20)} == {15, 16}


# Options of sources of 20, 40 and 10 utterances of a second, and how many of each three epochs of 70 s have.
COUNTS = [
    ([{"weight": 4}, {"weight": 2}, {"weight": 1}], [[40, 20, 10]] * 3),
    ([{"weight": 1}, {"weight": 1}, {"weight": 5}], [[10, 10, 50]] * 3),
    ([{"temperature": 2}] * 3, [[22, 32, 16], [23, 31, 16], [22, 32, 16]]),  # of 22.4, 31.7 and 15.9 s
    ([{}, {}, {}], [[20, 40, 10]] * 3),
]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize(("options", "counts"), COUNTS)
def test_an_epoch_has_so_many_utterances_of_each_source(options, counts, world, workers):
    sizes = (20, 40, 10)
    parts = [part(name, **more) for name, more in zip("abc", options, strict=True)]
    mix = MixedRows.apart(parts, [rows(np.ones(size)) for size in sizes])
    found = handed_out(mix, world, workers)
    assert found == handed_out(mix, 1, 0), "the same utterances, whoever reads them"
    for own, wanted in zip(found, counts, strict=True):
        times = np.split(np.bincount(own, minlength=70), [20, 60])
        assert [int(one.sum()) for one in times] == wanted
        assert all(np.ptp(one) <= 1 for one in times), "none comes twice more often than another of its source"


def test_the_batches_do_not_depend_on_the_workers_and_are_resumed_at_any_step(tmp_path):
    mix = mixed(3, 1)
    whole = list(planned(mix).loader(Keys(), collate_fn=as_it_is, num_workers=0))
    assert list(planned(mix).loader(Keys(), collate_fn=as_it_is, num_workers=2)) == whole
    for done in (1, 7, len(whole) - 1):
        folder = tmp_path / str(done)
        folder.mkdir()
        planned(mix).save(folder, done)
        resumed = planned(mix)
        resumed.resume(folder, done)
        assert list(resumed) == whole[done:]


def test_without_weights_the_batches_are_those_of_one_corpus():
    mix = mixed(None, None)
    alone = planned(mix)
    as_one = StoredRows(mix.table).plan(
        FinetuneAsrConfig(model="m", source="s", output_dir="o", max_batch_seconds=40.0, seed=5),
        Processes(0, 1),
        CorpusReport(),
        None,
        1.0,
    )[0]
    assert list(alone) == list(as_one)


def test_the_hours_of_a_run_are_those_of_its_audio_whatever_a_clip_costs(caplog):
    """A Whisper also computes some of the silence after each clip."""
    config = FinetuneAsrConfig(model="m", source="s", output_dir="o", max_batch_seconds=40.0, num_train_epochs=1)
    stored = StoredRows(rows(np.full(90, 2.0)), lambda seconds: seconds + 1.28)
    with caplog.at_level("INFO"):
        stored.plan(config, Processes(0, 1), CorpusReport(), None, 1.0)
    assert "train: 90 utterances, 0.05 h, 0.0 % padding; 8 steps of 1 x 1 batch of 40 s = 1.0 epochs" in caplog.text


def test_other_weights_are_another_corpus_when_resumed(tmp_path, caplog):
    caplog.set_level("WARNING", "sft_speech")
    planned(mixed(3, 1)).save(tmp_path, 1)
    planned(mixed(3, 1)).resume(tmp_path, 1)
    assert not caplog.text
    planned(mixed(2, 1)).resume(tmp_path, 1)
    assert "the training corpus has changed" in caplog.text
    assert "other shares of the sources" in caplog.text


def test_the_table_of_sources(caplog):
    with caplog.at_level("INFO"):
        planned(mixed(3, 1))
    lines = next(one.message for one in caplog.records if one.message.startswith("source")).splitlines()
    assert [line.split() for line in lines] == [
        ["source", "utterances", "hours", "weight", "share", "passes", "per", "epoch"],
        ["digits", "20", "0.01", "3", "75.00%", "15.75"],
        ["news", "40", "0.11", "1", "25.00%", "0.26"],
    ]


def test_ids_and_speakers_of_different_corpora_are_kept_apart():
    parts = [part("a"), part("b"), part("c", source="a")]
    seconds = np.ones(2)
    mix = MixedRows.apart(parts, [rows(seconds), rows(seconds), rows(seconds, speaker="")])
    assert column_of(mix.table, "id").to_pylist() == ["a/0", "a/1", "b/0", "b/1", "c/0", "c/1"]
    assert column_of(mix.table, "speaker").to_pylist() == ["a/1", "a/1", "b/1", "b/1", "", ""]
    same = MixedRows.apart([parts[0], parts[2]], [rows(seconds), rows(seconds)])
    assert column_of(same.table, "speaker").to_pylist() == ["1"] * 4, "splits of one source have the same speakers"
    assert [one["id"] for _, own in mix.each() for one in own.table] == column_of(mix.table, "id").to_pylist()
    assert mix.first_texts(3) == ["text 0"] * 3, "of every corpus"


def test_columns_that_only_one_corpus_has():
    mix = MixedRows.apart([part("a"), part("b")], [rows(np.ones(1)), rows(np.ones(1), language=["de"])])
    assert [row["language"] for row in mix.table] == [None, "de"]


def test_each_corpus_is_judged_and_reported_alone():
    mix, report = mixed(1, 1), CorpusReport()

    def long(rows, report):
        seconds = column_of(rows.table, "seconds").to_numpy()
        for place in np.flatnonzero(seconds < 1):
            report.drop("train", rows.table[int(place)]["id"], "too short")
        report.keep("train", int((seconds >= 1).sum()), float(seconds[seconds >= 1].sum()))
        return StoredRows(rows.table.select(np.flatnonzero(seconds >= 1)))

    usable = mix.usable(long, report)
    assert usable.sizes == (10, 40)
    assert [row.id for row in report.dropped("digits")] == [f"digits/{number}" for number in range(10)]
    assert report.to_dict()["news"]["kept"]["rows"] == 40

    def nothing(rows, report):
        return StoredRows(rows.table.select([]))

    with pytest.raises(UserError, match="sources: digits: no row of it can be used"):
        mix.usable(nothing, CorpusReport())


def test_utterances_of_a_split_that_are_trained_on_are_counted_in_their_own_source():
    mix = MixedRows.apart([part("a"), part("b")], [rows(np.ones(3)), rows(np.ones(5))])
    held_out = column_of(rows(np.ones(4)), "id")
    assert mix.shared(lambda source: source == "b", held_out) == 4
    assert mix.shared(lambda source: source == "a", held_out) == 3
    assert mix.shared(lambda source: source == "c", held_out) == 0


def test_losses_by_source_are_exact():
    import torch

    class Labels:
        def count(self, batch):
            return int((batch["labels"] != -100).sum())

    own, device = BySource(["a", "b", "c"]), torch.device("cpu")
    labels = torch.tensor([[1, 2, -100], [3, -100, -100], [4, 5, 6]])
    batch = {"labels": labels, "x": 1}
    sums = own.begin(batch, ["a/1", "b/1", "a/x/2"], Labels(), device)
    assert {name: float(value) for name, value in sums.items()} == {"count a": 5, "count b": 1, "count c": 0}
    inputs, sources = own.taken(batch)
    assert set(inputs) == {"labels", "x"}
    each = torch.tensor([2.0, 7.0, 8.0])
    sums |= own.losses(LossOutput(each.sum(), {}, each), sources)
    assert own.report({name: float(value) for name, value in sums.items()}) == {"loss_a": 2.0, "loss_b": 7.0}
    silence = {"labels": torch.full((1, 1), -100)}
    assert {float(one) for one in own.begin(silence, [], Labels(), device).values()} == {0.0}
    assert {float(one) for one in own.losses(LossOutput(each[0], {}, each[:1]), None).values()} == {0.0}
    assert BySource([]).begin(batch, ["1", "2", "3"], Labels(), device) == {}


def test_weighted_losses_by_source_are_means_of_their_own_utterances():
    import torch

    from sft_speech.tasks.asr.ctc.loss import CtcCriterion

    own, device = BySource(["a", "b"]), torch.device("cpu")
    weights = torch.tensor([0.5, 1.0, 2.0])
    batch = {"labels": torch.tensor([[1, 2, -100], [3, -100, -100], [4, 5, 6]]), "weights": weights}
    sums = own.begin(batch, ["a/1", "b/1", "a/2"], CtcCriterion(0), device)
    assert {name: float(value) for name, value in sums.items()} == {"count a": 7.0, "count b": 1.0}
    each = torch.tensor([2.0, 7.0, 8.0]) * weights
    sums |= own.losses(LossOutput(each.sum(), {}, each), batch["sources"])
    assert own.report({name: float(value) for name, value in sums.items()}) == {"loss_a": 17 / 7, "loss_b": 7.0}
