"""The real commands and the real Hub client against a Hub on loopback (tests/hub_server.py)."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import load_file

from sft_speech.cli import main
from sft_speech.errors import RESUMABLE, UserError
from sft_speech.hub.files import uploads
from sft_speech.hub.repository import explained, open_repository
from sft_speech.tasks import task_of
from sft_speech.training import lock

ROOT = Path(__file__).parents[2]
MODEL = "config.json model.safetensors preprocessor_config.json processor_config.json tokenizer_config.json vocab.json"
ABOUT = "README.md all_results.json evaluation/dev-tones.json log_history.json run.yaml"
PLOTS = "plots/evaluation.png plots/gradient.png plots/learning_rate.png plots/loss.png"
EVERYTHING = {".gitattributes", *MODEL.split(), *ABOUT.split(), *PLOTS.split()}


def command(tones: Path, small: Path, output: Path, **keys: object) -> list[str]:
    """Return the command of a run of eight steps, with a checkpoint after four."""
    settings = {
        "model": small,
        "source": tones,
        "train_split": "train-tones",
        "eval_split": "dev-tones",
        "output_dir": output,
        "max_batch_seconds": 6,
        "max_steps": 8,
        "eval_steps": 4,
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "mask_time_length": 2,
        "dataloader_num_workers": 0,
        "report_to": "none",
    }
    return ["finetune-asr", *(part for key, value in (settings | keys).items() for part in (f"--{key}", str(value)))]


@pytest.fixture(scope="module")
def done(tones, small, tmp_path_factory) -> Path:
    """The output of a run; no test changes it."""
    output = tmp_path_factory.mktemp("runs") / "done"
    assert main(command(tones, small, output)) == 0
    return output


@pytest.fixture
def run(done, tmp_path) -> Path:
    """A copy of it to change."""
    return Path(shutil.copytree(done, tmp_path / "run"))


def hub_server():
    return sys.modules["hub_server"]


def test_a_dry_run_lists_all_files_and_sends_nothing(run, hub, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    assert main(["push", str(run), "me/model", "--dry_run", "--private"]) == 0
    printed = capsys.readouterr().out
    up, home = printed.split("would go to me/model (private)")
    listed = {line.split("  ")[-1].strip(): line.split()[:2] for line in up.splitlines()}
    assert listed.keys() == EVERYTHING - {".gitattributes"} | {"in all"}
    assert listed["vocab.json"] == [str((run / "vocab.json").stat().st_size), "B"]
    for name in ("checkpoint-4", "checkpoint-8", "corpus_report.json", "evaluation/dev-tones.jsonl", "provenance.json"):
        assert name in home
    assert re.search(r"report\.html +recordings and transcripts", home)
    for name in ("me/a b", "not/a/name", "me/-x", "me/two..dots"):
        assert main(["push", str(run), name, "--dry_run"]) == 2, name
        assert f"repository {name}: this is not a valid name" in capsys.readouterr().err
    assert hub.requests == []


def test_a_model_is_uploaded_and_downloaded(run, hub, tones, monkeypatch, tmp_path):
    assert main(["push", str(run), "me/model", "--private"]) == 0
    repo = hub.repos["me/model"]
    assert repo.private
    assert repo.files.keys() == EVERYTHING
    assert len(repo.commits) == 1
    assert repo.files["model.safetensors"] == (run / "model.safetensors").read_bytes()
    assert hub.count("^PUT /lfs/") == 5, "the weights and four pictures"
    wer = json.loads((run / "evaluation" / "dev-tones.json").read_text())["wer"]
    assert f"value: {round(100 * wer, 2)}\n" in repo.files["README.md"].decode()
    private = [str(tones.parent.parent).encode(), str(run.parent).encode(), b"4-10-0000", hub_server().WRITER.encode()]
    for name, content in repo.files.items():
        assert not [secret for secret in private if secret in content], name

    from transformers import AutoModelForCTC, AutoProcessor

    from sft_speech import Transcriber

    monkeypatch.chdir(tmp_path)
    model, processor = AutoModelForCTC.from_pretrained("me/model"), AutoProcessor.from_pretrained("me/model")
    wanted = load_file(run / "model.safetensors")
    assert all(torch.equal(weights, wanted[name]) for name, weights in model.state_dict().items())
    assert processor.tokenizer.get_vocab() == json.loads((run / "vocab.json").read_text())
    clip = soundfile.read(next((tones / "dev-tones").rglob("*.flac")), dtype="float32")[0]
    texts = [next(iter(Transcriber(name)([(clip, 16_000)]))).text for name in ("me/model", str(run))]
    assert texts[0] == texts[1]


def test_an_evaluation_on_other_data_is_uploaded_only_on_request(run, hub, capsys):
    figures = json.loads((run / "evaluation" / "dev-tones.json").read_text())
    (run / "evaluation" / "client.json").write_text(json.dumps(figures | {"source": "/disk/client"}))
    assert main(["push", str(run), "me/model", "--dry_run"]) == 0
    up, home = capsys.readouterr().out.split("not uploaded:")
    assert "client" not in up
    assert "evaluation/client.json" in home
    assert "not an evaluation of this run; --with_evaluations uploads it" in home
    assert main(["push", str(run), "me/model"]) == 0
    assert hub.repos["me/model"].files.keys() == EVERYTHING
    assert b"client" not in hub.repos["me/model"].files["README.md"]
    assert main(["push", str(run), "me/model", "--with_evaluations"]) == 0
    assert hub.repos["me/model"].files.keys() == EVERYTHING | {"evaluation/client.json"}
    assert b"| client | client |" in hub.repos["me/model"].files["README.md"]


def test_files_that_arrived_are_not_sent_again(run, hub):
    assert main(["push", str(run), "me/model"]) == 0
    hub.requests.clear()
    assert main(["push", str(run), "me/model"]) == 0
    assert hub.count("^PUT|/commit/") == 0
    figures = run / "evaluation" / "dev-tones.json"
    figures.write_text(json.dumps(json.loads(figures.read_text()) | {"wer": 0.125}))
    assert main(["push", str(run), "me/model"]) == 0
    assert hub.count("^PUT") == 0
    assert hub.count("/commit/") == 1
    assert "value: 12.5\n" in hub.repos["me/model"].files["README.md"].decode()


def test_a_branch(run, hub):
    assert main(["push", str(run), "me/model", "--revision", "second-try"]) == 0
    repo = hub.repos["me/model"]
    assert repo.files.keys() == {".gitattributes"}
    assert repo.branches["second-try"].keys() == EVERYTHING


def test_checkpoints_are_uploaded_only_on_request_and_can_be_resumed(run, hub, tones, small, tmp_path):
    assert main(["push", str(run), "me/model", "--with_checkpoints"]) == 0
    files = hub.repos["me/model"].files
    inside = {name.removeprefix("checkpoint-4/") for name in files if name.startswith("checkpoint-4/")}
    assert inside >= {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "model.safetensors"}
    assert "training_args.bin" not in inside
    assert json.loads(files["checkpoint-8/trainer_state.json"])["best_model_checkpoint"] in (
        "checkpoint-4",
        "checkpoint-8",
    )
    again = tmp_path / "again"
    for name, content in files.items():
        if name.startswith("checkpoint-4/"):
            (again / name).parent.mkdir(parents=True, exist_ok=True)
            (again / name).write_bytes(content)
    assert main([*command(tones, small, again), "--resume_from_checkpoint"]) == 0
    before, after = (load_file(folder / "checkpoint-8" / "model.safetensors") for folder in (run, again))
    assert all(torch.equal(weights, after[name]) for name, weights in before.items())


def test_another_model_replaces_the_previous_one(run, hub):
    """Otherwise shards or speakers of the old one would be loaded."""
    old = {"model-00001-of-00002.safetensors", "model.safetensors.index.json", "speakers.safetensors"}
    repo = hub.repos["me/model"] = hub_server().Repo()
    repo.files.update(dict.fromkeys({*old, "evaluation/old.json", "handler.py", "notes/mine.json"}, b"{}"))
    assert main(["push", str(run), "me/model"]) == 0
    assert repo.files.keys() == EVERYTHING | {"handler.py", "notes/mine.json"}


@pytest.mark.parametrize("where", ["here", "there"])
def test_an_edited_card_is_kept(run, hub, where, caplog):
    mine = "---\nlicense: mit\n---\n# Mine\n"
    if where == "here":
        (run / "README.md").write_text(mine)
    else:
        hub.repos["me/model"] = hub_server().Repo()
        hub.repos["me/model"].files["README.md"] = mine.encode()
    assert main(["push", str(run), "me/model"]) == 0
    assert hub.repos["me/model"].files["README.md"].decode() == mine
    assert ("its card was" if where == "there" else "was edited and is uploaded unchanged") in caplog.text
    assert ((run / "README.md").read_text() == mine) == (where == "here")


REFUSED = {
    "no token": ("", "there is no token"),
    "wrong token": ("hf_wrongwrongwrongwrongwrong", r"does not know this token \(401\)"),
    "token that may only read": ("hf_readerreaderreaderreader", r"no write permission there \(403\)"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("there", [False, True], ids=["new", "existing"])
def test_a_missing_permission_is_reported_before_step_1(hub, tones, small, tmp_path, monkeypatch, capfd, case, there):
    token, why = REFUSED[case]
    monkeypatch.setenv("HF_TOKEN", token)
    if there:
        hub.repos["me/model"] = hub_server().Repo()
    keys = {"push_to_hub": "true", "hub_model_id": "me/model"}
    assert main(command(tones, small, tmp_path / "out", **keys)) == 2
    printed = capfd.readouterr().err
    assert "repository me/model: " in printed
    assert why.replace("\\", "") in printed
    assert "`hf auth login`" in printed
    assert len(printed.splitlines()) == 2
    assert not token or token not in printed
    assert not (tmp_path / "out").exists()
    assert not there or hub.repos["me/model"].commits == []


@pytest.mark.parametrize("number", [401, 403, 418, 500])
def test_a_server_that_repeats_the_token(run, hub, number, capfd):
    with hub.failing("create|auth-check", hub_server().status(number, echo=True)):
        assert main(["push", str(run), "me/model"]) == 2
    printed = capfd.readouterr()
    assert hub_server().WRITER not in printed.out + printed.err


def test_a_repository_of_somebody_else_or_an_invalid_name(run, hub, capfd):
    assert main(["push", str(run), "you/model"]) == 2
    assert "no write permission there" in capfd.readouterr().err
    assert main(["push", str(run), f"https://me:{hub_server().WRITER}@huggingface.co/me/model"]) == 2
    printed = capfd.readouterr().err
    assert "this is not a valid name" in printed
    assert hub_server().WRITER not in printed
    assert hub.repos == {}


def test_a_public_repository_is_not_made_private(run, hub, capfd):
    hub.repos["me/model"] = hub_server().Repo()
    assert main(["push", str(run), "me/model", "--private"]) == 2
    assert "it exists already and is public" in capfd.readouterr().err
    assert hub.repos["me/model"].commits == []


@pytest.mark.parametrize("how", ["cut", "500"])
@pytest.mark.parametrize("broken", ["^PUT", "/commit/"])
def test_an_interrupted_push_continues(run, hub, broken, how, capfd):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "README.md"}
    fault = hub_server().cut if how == "cut" else hub_server().status(500)
    with hub.failing(broken, fault):
        assert main(["push", str(run), "me/model"]) == 2
    printed = capfd.readouterr().err
    assert "push to me/model: " in printed
    assert "repeat the same command" in printed
    assert hub.repos["me/model"].commits == []
    assert hub.repos["me/model"].files.keys() == {".gitattributes"}
    assert all(path.read_bytes() == content for path, content in before.items())
    arrived = len(hub.blobs)
    hub.requests.clear()
    assert main(["push", str(run), "me/model"]) == 0
    assert hub.count("^PUT") == 5 - arrived
    assert hub.repos["me/model"].files.keys() == EVERYTHING


def test_a_short_outage_is_retried(run, hub):
    with hub.failing("^PUT", hub_server().cut, times=2), hub.failing("preupload", hub_server().status(503), times=1):
        assert main(["push", str(run), "me/model"]) == 0
    assert hub.repos["me/model"].files.keys() == EVERYTHING


def test_a_hub_that_stops_answering(run, hub):
    repository = open_repository("me/model", timeout=0.5)
    answers = threading.Event()
    with (
        hub.failing("/commit/", lambda handler: answers.wait(60)),
        pytest.raises(UserError, match=r"push: the connection failed \(timed out\)"),
        explained("push"),
    ):
        repository.upload(uploads(run, task_of(run)), "too late")
    answers.set()
    assert hub.repos["me/model"].commits == []


def test_a_card_that_the_hub_rejects(run, hub, capfd):
    (run / "README.md").write_text("---\nlicense: mine\n---\n# Mine\n")
    assert main(["push", str(run), "me/model"]) == 2
    printed = capfd.readouterr().err
    assert 'push to me/model: the Hub rejects it (Invalid metadata in README.md. - "license" must be one of' in printed
    assert hub.repos["me/model"].commits == []


# ---- during a run


def test_one_of_two_processes_uploads_each_checkpoint(hub, tones, small, tmp_path, two_processes):
    keys = {"push_to_hub": "true", "hub_model_id": "me/model", "hub_strategy": "every_save", "hub_private": "true"}
    two_processes(str(ROOT / "scripts/finetune_asr.py"), *command(tones, small, tmp_path / "out", **keys)[1:])
    repo = hub.repos["me/model"]
    assert repo.private
    assert [commit["message"] for commit in repo.commits] == ["Training, step 4", "End of training"]
    assert set(repo.commits[0]["files"]) >= {*MODEL.split(), "README.md", "plots/loss.png"}
    assert repo.files.keys() == EVERYTHING
    assert repo.files["model.safetensors"] == (tmp_path / "out" / "model.safetensors").read_bytes()
    assert hub.count("^POST /api/repos/create") == 1
    assert "2 x " in repo.files["README.md"].decode()
    assert [path.name for path in (tmp_path / "out").glob(".*")] == [lock.FILE]


def test_the_files_for_resuming_are_uploaded_on_request(hub, tones, small, tmp_path, monkeypatch):
    cards = []
    commit = hub_server().Handler.commit
    monkeypatch.setattr(
        hub_server(),
        "ROUTES",
        [(pattern, noting(cards, method) if method is commit else method) for pattern, method in hub_server().ROUTES],
    )
    keys = {"push_to_hub": "true", "hub_model_id": "me/model", "hub_strategy": "checkpoint"}
    assert main(command(tones, small, tmp_path / "out", **keys)) == 0
    files = hub.repos["me/model"].files
    resumable = {name.removeprefix("last-checkpoint/") for name in files if name.startswith("last-checkpoint/")}
    assert resumable >= {"optimizer.pt", "trainer_state.json", "model.safetensors"}
    assert json.loads(files["last-checkpoint/trainer_state.json"])["global_step"] == 8
    assert "**Training is not finished**: this is the model after 4 steps" in cards[0]
    assert "model-index" not in cards[0]
    assert "model-index" in cards[1]
    assert hub_server().WRITER not in "".join(path.read_text() for path in (tmp_path / "out").glob("*.*[lnd]"))


def noting(cards: list[str], method):
    def noted(handler, id: str, rev: str) -> None:
        method(handler, id, rev)
        cards.append(handler.server.repos[id].files["README.md"].decode())

    return noted


def test_a_network_failure_does_not_stop_the_run(hub, tones, small, tmp_path, caplog, capfd):
    output = tmp_path / "out"
    keys = {"push_to_hub": "true", "hub_model_id": "me/model", "hub_strategy": "every_save"}
    with hub.failing("/tree/|/preupload/|/commit/|lfs", hub_server().cut):
        assert main(command(tones, small, output, **keys)) == 2
    assert "step 4 was not uploaded (the connection failed" in caplog.text
    printed = capfd.readouterr().err
    assert f"the run is complete in {output}: `sft-speech push {output} me/model`" in printed
    assert hub.repos["me/model"].commits == []
    assert len(load_file(output / "model.safetensors")) > 10
    assert (output / "checkpoint-8" / "trainer_state.json").is_file()
    assert main(["push", str(output), "me/model"]) == 0
    assert hub.repos["me/model"].files.keys() == EVERYTHING


def test_a_run_that_is_stopped_does_not_wait_for_an_upload(hub, tones, small, tmp_path, caplog):
    arrived = threading.Event()

    def stall(handler) -> None:
        while not (tmp_path / "out/checkpoint-12/files.json").exists():  # meanwhile another checkpoint is saved
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        arrived.wait(60)
        raise ConnectionError

    keys = {"push_to_hub": "true", "hub_model_id": "me/model", "hub_strategy": "every_save", "max_steps": 4000}
    with hub.failing("/commit/", stall):
        assert main(command(tones, small, tmp_path / "out", **keys)) == RESUMABLE
        assert not arrived.is_set()
        arrived.set()
    assert hub.repos["me/model"].commits == []
    assert "is not uploaded: the previous upload is still running" in caplog.text
    assert list((tmp_path / "out").glob("checkpoint-*/trainer_state.json"))


def test_a_checkpoint_may_be_removed_during_its_upload(hub, tones, small, tmp_path):
    output = tmp_path / "out"

    def slow(handler) -> None:
        while not (output / "all_results.json").exists():  # training is over
            time.sleep(0.01)
        assert not (output / "checkpoint-2").exists()

    keys = {"push_to_hub": "true", "hub_model_id": "me/model", "hub_strategy": "every_save"}
    with hub.failing("/tree/", slow, times=1):
        assert main(command(tones, small, output, **keys, eval_steps=2, save_total_limit=1, eval_split="null")) == 0
    commits = hub.repos["me/model"].commits
    assert [commit["message"] for commit in commits] == ["Training, step 2", "End of training"]
    assert set(commits[0]["files"]) >= set(MODEL.split())
