"""Rounds, probes, budgets and continued comparisons, with a runner that trains nothing."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sft_speech.errors import Stopped, UserError
from sft_speech.tasks import spec_of
from sft_speech.tools.compare.candidates import Candidate, candidates_of
from sft_speech.tools.compare.engine import Budget, Engine, check_rounds, lasting, probes_of
from sft_speech.tools.compare.grid import plan_of
from sft_speech.tools.compare.processes import Ending, Job
from sft_speech.tools.compare.runs import Run
from sft_speech.tools.compare.state import State

ASR = spec_of("asr")
BASE = {"model": "m", "source": "s", "train_split": "train", "eval_split": "dev", "test_splits": ["test"]}
BASE |= {"max_steps": 80}


class FakeRunner:
    """Writes what runs would write, without training.

    Args:
        wer: the WER of a run.
        failing: the errors of runs, by the name of their candidate.
        stop_after: a signal arrives after so many runs.
    """

    def __init__(
        self, wer: Callable[[Job], float], failing: dict[str, str] | None = None, stop_after: int = 10**6
    ) -> None:
        self.wer, self.failing, self.left = wer, failing or {}, stop_after
        self.jobs: list[Job] = []

    def __call__(self, jobs: Sequence[Job], done: Callable[[Job, Ending], None]) -> None:
        for job in jobs:
            if self.left == 0:
                raise Stopped
            self.left -= 1
            self.jobs.append(job)
            if job.name in self.failing:
                done(job, Ending(2, self.failing[job.name], 1.0))
                continue
            folder = Path(job.config.output_dir)
            (folder / "checkpoint-1").mkdir(parents=True)
            figures = {"updates": job.config.max_steps, "seconds_per_update": 0.5, "eval_wer": self.wer(job)}
            if job.config.eval_split is None:
                del figures["eval_wer"]
            (folder / "all_results.json").write_text(json.dumps(figures))
            done(job, Ending(0, "", 2.0))

    @property
    def done(self) -> list[tuple[str, int]]:
        """What was run: (seed, max_steps)."""
        return [(job.name, job.config.max_steps) for job in self.jobs]


@pytest.fixture(autouse=True)
def finished_runs(monkeypatch):
    """Read only the figures of a finished run: there is no model."""

    def begin(self: Run, path: Path, name: str) -> None:
        self.path, self.name, self.spec, self.values = path, name, ASR, {}
        self.figures = json.loads((path / "all_results.json").read_text())
        self.splits = {"eval": "dev"}

    monkeypatch.setattr(Run, "__init__", begin)


def grid(folder: Path, *vary: str, **base) -> list[Candidate]:
    return candidates_of(plan_of(ASR, None, BASE | base, vary, []), ASR, folder)


def engine(folder: Path, candidates: list[Candidate], budget: Budget, runner: FakeRunner) -> Engine:
    return Engine(ASR, State(folder, "asr", "", candidates, budget.key()), budget, runner, candidates[0].config)


def by_seed(job: Job) -> float:
    """The candidate of seed 5 is the best."""
    return abs(job.config.seed - 5) / 10


def test_all_are_trained_once(tmp_path):
    candidates, runner = grid(tmp_path, "seed=1,2"), FakeRunner(by_seed)
    outcomes = engine(tmp_path, candidates, Budget(), runner).run(candidates)
    assert runner.done == [("seed=1", 80), ("seed=2", 80)]
    assert runner.jobs[0].config.test_splits == ["test"]
    assert [(one.name, one.status, one.settings, one.seconds_per_update) for one in outcomes] == [
        ("seed=1", "finished", {"seed": 1}, 0.5),
        ("seed=2", "finished", {"seed": 2}, 0.5),
    ]
    assert outcomes[0].folder == tmp_path / "runs" / "seed=1"
    assert outcomes[0].rounds == [{"updates": 80, "seconds": 2.0, "value": 0.4}]


def test_a_checkpoint_is_evaluated_once_before_training(tmp_path):
    """Its figures before training are the same for every candidate that begins with it."""
    plan = plan_of(
        ASR, None, BASE, ["model=m,n", "encoder_seconds=auto,full"], ["head={train: [head]}", "all={seed: 1}"]
    )
    candidates, runner = candidates_of(plan, ASR, tmp_path), FakeRunner(by_seed)
    engine(tmp_path, candidates, Budget(), runner).run(candidates)
    assert [(job.name, job.config.evaluate_before) for job in runner.jobs] == [
        ("m encoder_seconds=auto head", True),
        ("m encoder_seconds=auto all", False),
        ("m encoder_seconds=full head", True),
        ("m encoder_seconds=full all", False),
        ("n encoder_seconds=auto head", True),
        ("n encoder_seconds=auto all", False),
        ("n encoder_seconds=full head", True),
        ("n encoder_seconds=full all", False),
    ]


def test_a_failing_run_does_not_stop_the_others_and_is_tried_again(tmp_path):
    candidates, budget = grid(tmp_path, "seed=1,2,3"), Budget()
    runner = FakeRunner(by_seed, {"seed=2": "out of memory"})
    outcomes = engine(tmp_path, candidates, budget, runner).run(candidates)
    assert [(one.status, one.why) for one in outcomes] == [
        ("finished", ""),
        ("failed", "out of memory"),
        ("finished", ""),
    ]
    again = FakeRunner(by_seed)
    outcomes = engine(tmp_path, candidates, budget, again).run(candidates)
    assert again.done == [("seed=2", 80)]
    assert [one.status for one in outcomes] == ["finished"] * 3


def test_halving_gives_more_to_the_better_half(tmp_path):
    candidates, budget = grid(tmp_path, "seed=1,2,3,4,5,6,7,8", warmup_steps=20), Budget(halve=True)
    runner = FakeRunner(by_seed)
    outcomes = engine(tmp_path, candidates, budget, runner).run(candidates)
    assert runner.done == [
        *((f"seed={seed}", 20) for seed in (1, 2, 3, 4, 5, 6, 7, 8)),
        *((f"seed={seed}", 40) for seed in (3, 4, 5, 6)),
        *((f"seed={seed}", 80) for seed in (4, 5)),
    ]
    first, last = runner.jobs[0].config, runner.jobs[-1].config
    assert (first.warmup_steps, first.test_splits) == (5, []), "a round has a whole schedule and no test"
    assert (last.warmup_steps, last.test_splits) == (20, ["test"])
    assert [one.status for one in outcomes] == ["dropped"] * 3 + ["finished"] * 2 + ["dropped"] * 3
    assert outcomes[0].why == "after round 1 of 3, 20 updates, at WER 40 %"
    assert outcomes[5].why == "after round 2 of 3, 40 updates, at WER 10 %"
    assert [one["updates"] for one in outcomes[4].rounds] == [20, 40, 80]
    assert outcomes[5].folder == tmp_path / "rounds" / "1_of_2" / "seed=6"
    assert not list(tmp_path.glob("rounds/*/*/checkpoint-*")), "they are not continued"
    assert list(tmp_path.glob("runs/*/checkpoint-*"))


def test_halving_of_a_metric_that_rises(tmp_path):
    """Accuracy decides for classifiers."""
    spec = spec_of("classification")
    plan = plan_of(spec, None, BASE, ["seed=1,2,3"], [])
    candidates, budget = candidates_of(plan, spec, tmp_path), Budget(halve=True)
    state = State(tmp_path, spec.name, "", candidates, budget.key())
    for one, value in zip(candidates, (0.9, 0.7, 0.8), strict=True):
        state.entry(one).results["1/2"] = {"status": "finished", "why": "", "figures": {"eval_accuracy": value}}
    kept = Engine(spec, state, budget, FakeRunner(by_seed), candidates[0].config).best(candidates, "1/2", 2, "")
    assert [one.name for one in kept] == ["seed=1", "seed=3"]


def test_a_failed_candidate_does_not_take_a_place(tmp_path):
    candidates, budget = grid(tmp_path, "seed=1,2,3,4"), Budget(halve=True)
    runner = FakeRunner(by_seed, {"seed=4": "no"})
    outcomes = engine(tmp_path, candidates, budget, runner).run(candidates)
    assert [one.status for one in outcomes] == ["dropped", "finished", "finished", "failed"]
    assert runner.done[4:] == [("seed=2", 80), ("seed=3", 80)]


def test_stopped_anywhere_it_continues(tmp_path):
    """With a stop after every single run, everything is run once, in the same order."""
    candidates, budget = grid(tmp_path, "seed=1,2,3,4"), Budget(halve=True)
    done = []
    for _ in range(6):
        runner = FakeRunner(by_seed, stop_after=1)
        with pytest.raises(Stopped):
            engine(tmp_path, candidates, budget, FakeRunner(by_seed, stop_after=0)).run(candidates)
        with contextlib.suppress(Stopped):
            engine(tmp_path, candidates, budget, runner).run(candidates)
        done += runner.done
    assert done == [*((f"seed={n}", 40) for n in (1, 2, 3, 4)), ("seed=3", 80), ("seed=4", 80)]


def test_a_larger_grid_runs_only_what_is_new(tmp_path):
    candidates = grid(tmp_path, "seed=1,2")
    engine(tmp_path, candidates, Budget(), FakeRunner(by_seed)).run(candidates)
    larger, runner = grid(tmp_path, "seed=1,2,3", "learning_rate=3e-5,1e-4"), FakeRunner(by_seed)
    outcomes = engine(tmp_path, larger, Budget(), runner).run(larger)
    assert [name for name, _ in runner.done] == [
        *("seed=1 learning_rate=1e-4", "seed=2 learning_rate=1e-4"),
        *("seed=3 learning_rate=3e-5", "seed=3 learning_rate=1e-4"),
    ]
    assert outcomes[0].name == "seed=1 learning_rate=3e-5"
    assert outcomes[0].folder == tmp_path / "runs" / "seed=1"


def test_another_base_or_budget_is_refused(tmp_path):
    candidates = grid(tmp_path, "seed=1,2")
    State(tmp_path, "asr", "", candidates, Budget().key())
    with pytest.raises(UserError, match=r"weight_decay: 0\.0, now 0\.1"):
        State(tmp_path, "asr", "", grid(tmp_path, "seed=1,2", weight_decay=0.1), Budget().key())
    with pytest.raises(UserError, match=r"--budget_updates: None, now 9"):
        State(tmp_path, "asr", "", candidates, Budget(updates=9).key())
    State(tmp_path, "asr", "", grid(tmp_path, "seed=1,2", dataloader_num_workers=0), Budget().key())


def test_directories_of_something_else_are_refused(tmp_path):
    candidates = grid(tmp_path, "seed=1,2")
    (tmp_path / "compare.json").write_text("{")
    with pytest.raises(UserError, match="it cannot be read"):
        State(tmp_path, "asr", "", candidates, {})
    (tmp_path / "run.yaml").touch()
    with pytest.raises(UserError, match="it holds a run"):
        State(tmp_path, "asr", "", candidates, {})


def test_a_budget_of_updates(tmp_path):
    candidates, runner = grid(tmp_path, "seed=1,2"), FakeRunner(by_seed)
    engine(tmp_path, candidates, Budget(updates=7), runner).run(candidates)
    assert runner.done == [("seed=1", 7), ("seed=2", 7)]


def test_a_budget_of_minutes_is_measured_first(tmp_path, caplog):
    """An update takes half a second."""
    caplog.set_level("INFO", "sft_speech")
    candidates, runner = grid(tmp_path, "seed=1,2"), FakeRunner(by_seed, {"seed=2": "no memory"})
    outcomes = engine(tmp_path, candidates, Budget(minutes=2.0), runner).run(candidates)
    assert runner.done == [("seed=1", 12), ("seed=2", 12), ("seed=1", 240)]
    assert "seed=1: 0.5 s per update, so that 2 minutes are 240 updates" in caplog.messages
    assert not (tmp_path / "measured" / "seed=1").exists()
    assert (outcomes[1].status, outcomes[1].why) == ("failed", "no memory")


def test_probes_choose_the_better_half_of_the_models(tmp_path):
    candidates = grid(tmp_path, "model=a,b,c,d", "seed=1,2")
    wer = {"a": 0.3, "b": 0.1, "c": 0.2, "d": 0.4}
    runner = FakeRunner(lambda job: wer[job.config.model])
    probes = probes_of(candidates, 30)
    outcomes = engine(tmp_path, candidates, Budget(probe=30), runner).run(candidates, probes)
    assert runner.done[:4] == [(f"probe of {model}", 30) for model in "abcd"]
    assert all(job.config.train == ["head"] for job in runner.jobs[:4])
    assert [job.config.model for job in runner.jobs[4:]] == ["b", "b", "c", "c"]
    assert outcomes[0].why == "by the probes, which trained only the head: WER 30 %"
    assert [one.status for one in outcomes] == ["dropped"] * 2 + ["finished"] * 4 + ["dropped"] * 2


def test_a_probe_trains_only_the_head_whatever_the_candidates_train(tmp_path):
    """With the learning rate of a candidate that does so too, if there is one."""
    strategies = [
        "lora={lora_rank: 4, lora_dropout: 0.1, use_dora: true, learning_rate: 1e-3}",
        "slowly={unfreeze_every_steps: 10, interpolate: 0.5, warmup_steps: 40, learning_rate: 1e-5}",
        "head={train: [head], learning_rate: 1e-2}",
    ]
    plan = plan_of(ASR, None, BASE | {"keep_splits": ["other"]}, ["model=a,b"], strategies)
    candidates = candidates_of(plan, ASR, tmp_path)
    for found in (probes_of(candidates, 30), probes_of([candidates[2], candidates[0]], 30)):
        config = found[0].config
        assert (config.train, config.learning_rate, config.max_steps) == (["head"], 1e-2, 30)
        assert (config.lora_rank, config.use_dora, config.unfreeze_every_steps) == (0, False, 0)
        assert (config.interpolate, config.warmup_steps, config.keep_splits) == (None, 0.1, [])
    without = probes_of([one for one in candidates if one.settings["strategy"] != "head"], 30)
    assert [one.config.learning_rate for one in without] == [1e-3, 1e-3]


def test_a_model_whose_probe_fails_stays(tmp_path):
    candidates = grid(tmp_path, "model=a,b,c")
    runner = FakeRunner(lambda job: {"b": 0.1, "c": 0.2}[job.config.model], {"probe of a": "no", "a": "no"})
    outcomes = engine(tmp_path, candidates, Budget(probe=3), runner).run(candidates, probes_of(candidates, 3))
    assert [one.status for one in outcomes] == ["failed", "finished", "finished"]


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(updates=1, minutes=1.0), "each sets the length of a run"),
        (Budget(updates=0), "--budget_updates 0: nothing would be trained"),
        (Budget(minutes=float("nan")), "nothing would be trained"),
        (Budget(probe=5), "all candidates have the same model"),
        (Budget(halve=True), "there are only 2 candidates"),
    ],
)
def test_refused_budgets(tmp_path, budget, message):
    with pytest.raises(UserError) as caught:
        budget.check(grid(tmp_path, "seed=1,2"))
    assert message in str(caught.value)


def test_a_length_that_varies_has_no_budget(tmp_path):
    with pytest.raises(UserError, match="max_steps varies, with a budget"):
        Budget(updates=5).check(grid(tmp_path, "max_steps=1,2"))


def test_lengths(tmp_path):
    by_epochs = grid(tmp_path, "seed=1,2", max_steps=-1, num_train_epochs=8, eval_steps=100)[0].config
    quarter = lasting(by_epochs, 0.25, None)
    assert (quarter.num_train_epochs, quarter.eval_steps, quarter.warmup_steps) == (2.0, 25, 0.1)
    assert lasting(by_epochs, 0.25, 400).max_steps == 100
    assert Budget(halve=True).rounds(9) == [(9, 8), (5, 4), (3, 2), (2, 1)]
    assert Budget().rounds(9) == [(9, 1)]


def test_a_warm_up_longer_than_the_budget_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(UserError, match="the run is shorter"):
        check_rounds(grid(tmp_path, "seed=1,2", warmup_steps=60), Budget(updates=50))
