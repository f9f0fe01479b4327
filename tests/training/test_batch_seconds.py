"""The largest batch that fits: the search with made-up memory, the trial with a small model, and whole runs."""

from __future__ import annotations

import gc
import json
import logging
import random
import weakref
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import toy_task
import yaml
from accelerate import PartialState
from accelerate.utils import memory

from sft_speech.cli import main
from sft_speech.corpora import load_corpus
from sft_speech.errors import UserError
from sft_speech.tasks import TASKS
from sft_speech.training import batch_seconds
from sft_speech.training.batch_seconds import Trial, largest_that_fits, settle
from sft_speech.training.rows import StoredRows

GIB = 2**30


def search(used, *, room=80 * GIB, hard=90 * GIB, unit=30.0, most=1e5):
    """Return the seconds that were found, and those that were tried; beyond `hard` memory runs out."""
    tried = []

    def measure(seconds):
        tried.append(seconds)
        return None if used(seconds) > hard else int(used(seconds))

    return largest_that_fits(measure, unit, most, room), tried


def test_memory_that_grows_with_the_seconds_is_predicted():
    found, tried = search(lambda seconds: (10 + 0.05 * seconds) * GIB)
    assert 1400 * 0.97 <= found <= 1400
    assert len(tried) <= 6
    assert found in tried


def test_memory_that_grows_with_their_square_is_bisected():
    found, tried = search(lambda seconds: (10 + 70 * (seconds / 1000) ** 2) * GIB)
    assert 1000 * 0.93 <= found <= 1000
    assert found in tried


def test_fragmented_memory_costs_measurements_but_fits():
    noise = np.random.default_rng(0)
    for _ in range(50):
        extra = noise.uniform(0, 6 * GIB, 10_000)

        def used(seconds, extra=extra):
            return (10 + 0.05 * seconds) * GIB + extra[int(seconds / 30)]

        found, tried = search(used)
        assert used(found) <= 80 * GIB
        assert found >= 1100
        assert len(tried) <= batch_seconds.MEASUREMENTS


def test_memory_in_steps_is_not_overrun():
    found, _ = search(lambda seconds: (10 + 20 * (seconds // 300)) * GIB)
    assert 870 <= found < 1200


def test_no_more_is_tried_than_makes_sense():
    assert search(lambda seconds: GIB, most=100.0) == (100.0, [30.0, 60.0, 120.0])
    found, tried = search(lambda seconds: GIB, unit=1.0, most=100.0)
    assert found == 100.0
    assert tried == [1, 2, 8, 32, 100]
    assert search(lambda seconds: GIB, most=10.0) == (30.0, [30.0])


def test_a_single_utterance_may_be_too_much():
    assert search(lambda seconds: 85 * GIB) == (None, [30.0])
    assert search(lambda seconds: 95 * GIB) == (None, [30.0])


class Statistics(torch.nn.Module):
    """Counts the batches that it has seen in training, as a batch norm does."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, bands):
        self.seen += self.training
        return bands


class Counting(toy_task.Toy):
    """A model with a buffer that changes in training, and with dropout."""

    def load(self, rows):
        super().load(rows)
        self.model.head = torch.nn.Sequential(Statistics(), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))


@pytest.fixture
def noise(tmp_path):
    """A manifest of noise: 40 recordings of 0.5 to 1 s."""
    rng, lines = np.random.default_rng(0), []
    for number in range(40):
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * rng.normal(size=8000 + 205 * number), 16000)
        lines.append(json.dumps({"audio": f"{number}.wav", "text": "noise"}) + "\n")
    (tmp_path / "noise.jsonl").write_text("".join(lines))
    return tmp_path / "noise.jsonl"


@pytest.fixture
def made(noise, tmp_path):
    """Make a task, its options and its rows."""

    def make(kind=Counting, **options):
        keys = {"model": "none", "source": str(noise), "output_dir": str(tmp_path), "max_batch_seconds": "auto"}
        config = toy_task.ToyConfig(**keys, **options)
        rows, task = StoredRows(load_corpus(str(noise), name="train")), kind(config)
        task.load(rows)
        return config, task, rows, PartialState(cpu=True)

    return make


def test_the_trial_leaves_no_trace(made, caplog):
    config, task, rows, processes = made()
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    with caplog.at_level(logging.INFO):
        settle(config, task, rows, processes)
    after = task.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items()), "statistics too"
    assert all(parameter.grad is None for parameter in task.model.parameters())
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    total = sum(rows.costs(None))
    assert config.batch_seconds == pytest.approx(total), "the whole corpus fits"
    assert config.max_batch_seconds == "auto"
    assert "the whole corpus" in caplog.text


def test_on_a_cpu_a_hundred_seconds_are_enough(made):
    config, task, rows, processes = made()
    many = StoredRows(rows.table.select([*range(40)] * 10))
    trial = Trial(config, task, many, processes)
    assert (trial.most, trial.reason) == (100.0, "on a CPU, larger batches are not faster")
    config.update_seconds = 12.0
    assert Trial(config, task, many, processes).most == 12.0


def test_the_memory_of_a_step_is_seen(made):
    class Hungry(toy_task.Toy):
        def load(self, rows):
            super().load(rows)
            self.criterion.loss = self.loss

        def loss(self, model, batch):
            size = len(batch["loudness"]) * 2**24  # bytes, 16 MiB for each utterance
            held = torch.ones(size // 4)
            return toy_task.LossOutput(model(batch["bands"]).sum() + 0.0 * held.sum())

    config, task, rows, processes = made(Hungry)
    trial = Trial(config, task, rows, processes)
    one, ten = trial.measure(trial.unit), trial.measure(10 * trial.unit)
    assert ten - one == pytest.approx(9 * 2**24, rel=0.2)


def test_errors_that_are_not_about_memory_stay(made):
    config, task, rows, processes = made()
    task.criterion.loss = lambda model, batch: 1 / 0
    with pytest.raises(ZeroDivisionError):
        settle(config, task, rows, processes)


def out_of_memory(model, batch):
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_too_little_memory_is_said_with_advice(made):
    config, task, rows, processes = made()
    task.criterion.loss = out_of_memory
    with pytest.raises(UserError, match="a single utterance") as said:
        settle(config, task, rows, processes)
    assert said.value.do == "lower max_seconds, or set gradient_checkpointing"


def test_a_sharded_model_is_refused(made, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="give a number"):
        settle(*made())


def test_a_resumed_run_has_the_same_batches(noise, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(TASKS, "toy", "toy_task")
    sizes = iter((4.0, 8.0))
    monkeypatch.setattr(batch_seconds, "largest_that_fits", lambda measure, *args: measure(8.0) and next(sizes))
    keys = {"model": "none", "source": noise, "output_dir": tmp_path / "out", "max_batch_seconds": "auto"}
    keys |= {"dataloader_num_workers": 0, "report_to": "none", "max_steps": 6, "eval_steps": 2, "save_total_limit": 9}
    command = ["finetune-toy", *(f"--{key}={value}" for key, value in keys.items())]
    assert main(command) == 0
    whole = (tmp_path / "out/model.safetensors").read_bytes()
    assert yaml.safe_load((tmp_path / "out/run.yaml").read_text())["max_batch_seconds"] == "auto"
    again = [*command, f"--output_dir={tmp_path / 'again'}"]
    with caplog.at_level(logging.INFO):
        assert main([*again, f"--resume_from_checkpoint={tmp_path / 'out/checkpoint-2'}"]) == 0
    assert "4 s, as measured when the run began" in caplog.text
    assert (tmp_path / "again/model.safetensors").read_bytes() == whole
    starts = json.loads((tmp_path / "again/provenance.json").read_text())["starts"]
    assert [start["max_batch_seconds"] for start in starts] == [4.0]
    # A checkpoint of a run with a number is resumed with auto, which is measured.
    assert main([*command, f"--output_dir={tmp_path / 'number'}", "--max_batch_seconds=3"]) == 0
    last = tmp_path / "number/checkpoint-2"
    more = [*command, f"--output_dir={tmp_path / 'more'}", f"--resume_from_checkpoint={last}"]
    assert main(more) == 0
    state = json.loads((tmp_path / "more/checkpoint-6/trainer_state.json").read_text())
    assert state["stateful_callbacks"]["MeasuredBatch"]["attributes"] == {"seconds": 8.0}


def test_a_checkpoint_from_elsewhere_is_refused(tmp_path):
    kept = {"stateful_callbacks": {"MeasuredBatch": {"attributes": {"seconds": -1}}}}
    (tmp_path / "trainer_state.json").write_text(json.dumps(kept))
    with pytest.raises(UserError, match="not what a run writes"):
        batch_seconds.read(tmp_path)


class Held:
    """Memory of a fake GPU."""


class FakeCuda:
    """A GPU of 80 GiB with torch's caching allocator, of which tensors are only numbers.

    Memory that is freed stays reserved, until it is asked for again, the cache is emptied, or memory runs out. The
    first step loads libraries, which take memory outside the allocator.
    """

    def __init__(self, patch: pytest.MonkeyPatch, libraries: int = GIB) -> None:
        self.outside, self.libraries = GIB // 2, libraries
        self.allocated = self.reserved = self.peak = 0
        self.sizes: list[int] = []
        self.error: Callable[[int], Exception | None] = lambda size: None
        for name in ("mem_get_info", "memory_reserved", "max_memory_reserved", "reset_peak_memory_stats"):
            patch.setattr(torch.cuda, name, lambda device, name=name: getattr(self, name)())
        patch.setattr(torch.cuda, "empty_cache", self.empty_cache)
        patch.setattr(memory, "is_cuda_available", lambda: True)
        patch.setattr(batch_seconds, "trial_step", self.trial_step)

    def mem_get_info(self) -> tuple[int, int]:
        return 80 * GIB - self.outside - self.reserved, 80 * GIB

    def memory_reserved(self) -> int:
        return self.reserved

    def max_memory_reserved(self) -> int:
        return self.peak

    def reset_peak_memory_stats(self) -> None:
        self.peak = self.reserved

    def empty_cache(self) -> None:
        self.reserved = self.allocated

    def allocate(self, size: int) -> Held:
        """Return an object that holds so many bytes."""
        if self.outside + max(self.reserved, self.allocated + size) > 80 * GIB:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.allocated += size
        self.reserved = max(self.reserved, self.allocated)
        self.peak = max(self.peak, self.reserved)
        held = Held()
        weakref.finalize(held, self.free, size)
        return held

    def free(self, size: int) -> None:
        self.allocated -= size

    def to(self, device: object) -> None:
        """Receive weights of 4 GiB."""
        self.weights = self.allocate(4 * GIB)

    def trial_step(self, model, criterion, make_batch, device, *, copies, autocast) -> None:
        """Allocate 4 GiB per copy of the weights, and 256 MiB for each utterance."""
        self.outside, self.libraries = self.outside + self.libraries, 0
        size = len(make_batch()["loudness"])
        self.sizes.append(size)
        held = [self.allocate(4 * copies * GIB)]
        try:
            for _ in range(size):
                held.append(self.allocate(GIB // 4))
            if error := self.error(size):
                raise error
        except Exception as error:
            error.held = (error, held)  # as frames that refer to an error do
            raise


@pytest.fixture
def fits_on(made):
    """Return the number of utterances that `settle` finds for a fake GPU; there are 400 of about a second."""
    gc.disable()  # so that it does not depend on chance when cycles are freed

    def find(cuda: FakeCuda, **options) -> int:
        config, task, rows, _ = made(toy_task.Toy, **options)
        task.model.to = cuda.to
        many = StoredRows(rows.table.select([*range(40)] * 10))
        settle(config, task, many, SimpleNamespace(device=torch.device("cuda"), num_processes=1))
        return round(config.batch_seconds / float(many.costs(None).max()))

    yield find
    gc.enable()


@pytest.mark.parametrize(
    ("options", "copies"),
    [
        ({}, 2),
        ({"optim": "adafactor"}, 0),
        ({"gradient_accumulation_steps": 2}, 3),
        ({"update_seconds": 1000.0}, 3),
    ],
)
def test_the_memory_of_a_gpu_is_filled_but_for_a_reserve(fits_on, monkeypatch, caplog, options, copies):
    """1.5 GiB are taken by the context and by libraries, and 4 GiB by each copy of the weights."""
    cuda = FakeCuda(monkeypatch)
    cuda.allocate(75 * GIB)  # is freed at once, and stays in the cache
    with caplog.at_level(logging.INFO):
        found = fits_on(cuda, **options)
    most = int((0.92 * 78.5 - 4 - 4 * copies) * 4)
    assert 0.97 * most - 1 <= found <= most
    assert f"of {78.5:.1f} GiB" in caplog.text
    assert cuda.allocated == 4 * GIB == cuda.reserved, "nothing is left but the weights"


def test_libraries_that_the_first_step_loads_are_not_memory_for_batches(fits_on, monkeypatch):
    cuda = FakeCuda(monkeypatch, libraries=8 * GIB)
    assert fits_on(cuda) <= (0.92 * 71.5 - 12) * 4


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported", 2),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("Expected canUse32BitIndexMath(input) && canUse32BitIndexMath(output) to be true, but got false."),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-"),
    ],
)  # fmt: skip
def test_what_fails_with_large_batches_does_not_fit(fits_on, monkeypatch, error):
    cuda = FakeCuda(monkeypatch)
    cuda.error = lambda size: type(error)(*error.args) if size > 100 else None
    assert 97 <= fits_on(cuda) <= 100
    assert max(cuda.sizes) <= 400


def test_an_error_of_a_single_utterance_is_not_about_the_size(fits_on, monkeypatch):
    cuda = FakeCuda(monkeypatch)
    cuda.error = lambda size: RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED.")
    with pytest.raises(RuntimeError, match="NOT_SUPPORTED"):
        fits_on(cuda)


def test_other_devices_are_refused(made):
    config, task, rows, _ = made()
    with pytest.raises(UserError, match="max_batch_seconds auto: the memory of a device mps can't be measured"):
        settle(config, task, rows, SimpleNamespace(device=torch.device("mps"), num_processes=1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_measured_batch_trains(made):
    config, task, rows, _ = made()
    processes = SimpleNamespace(device=torch.device("cuda"), num_processes=1)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    settle(config, task, rows, processes)
    after = task.model.state_dict()
    assert all(torch.equal(value, after[name].cpu()) for name, value in before.items())
    assert config.batch_seconds > 1
