"""Real faults: packages that break, processes that crash, full disks, rejected tokens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sft_speech.cli import main
from sft_speech.tools.doctor import devices, machine, network, storage
from sft_speech.tools.doctor.finding import Crashed, Finding, apart

TOKEN = "hf_AVerySecretToken"


def test_everything_is_checked_on_this_machine(tmp_path, capsys):
    assert main(["doctor", "--offline", "--output_dir", str(tmp_path / "new"), "--json", str(tmp_path / "found")]) == 0
    found = {finding["name"]: finding for finding in json.loads((tmp_path / "found").read_text())}
    assert {"python", "packages", "cores", "memory", "torch", "a training step", "libsndfile", "output_dir"} <= set(
        found
    )
    assert "Hub" not in found
    assert all(finding["do"] for finding in found.values() if finding["level"] != "ok")
    assert str(tmp_path) in found["output_dir"]["says"]
    assert list(tmp_path.iterdir()) == [tmp_path / "found"], "the measurement leaves nothing behind"
    assert "training step: embedded checkpoint" in capsys.readouterr().out


def test_a_file_that_cannot_be_written_is_refused_before_any_check(tmp_path, capsys):
    assert main(["doctor", "--offline", "--json", str(tmp_path / "no" / "found")]) == 2
    captured = capsys.readouterr()
    assert "a file in a folder that exists" in captured.err
    assert captured.out == ""


def test_a_fault_sets_the_exit_code_and_does_not_stop_other_checks(monkeypatch, capsys):
    def broken() -> Iterator[Finding]:
        raise RuntimeError("all is lost")

    for module, names in ((machine, ["packages"]), (devices, ["torch_build", "training_step", "torchaudio"])):
        for name in names:
            monkeypatch.setattr(module, name, broken)
    assert main(["doctor", "--offline"]) == 1
    said = capsys.readouterr().out
    assert "fault  broken: the check failed: RuntimeError: all is lost" in said
    assert "libsndfile" in said


# ---- packages


def test_packages_are_compared_with_the_requirements(monkeypatch):
    wanted = ["numpy<1", "torch>=2", "no-such-package>=1", "neither>=1; extra == 'lm'", "nor; extra == 'test'"]
    monkeypatch.setattr(machine, "requires", lambda _: wanted)
    found = {finding.name: finding for finding in machine.packages()}
    assert found["numpy"].level == "fault"
    assert found["numpy"].do.endswith("pip install 'numpy<1'")
    assert found["no-such-package"].says == "not installed"
    assert found["extra lm"].level == "note"
    assert "neither" in found["extra lm"].says
    assert "nor" not in found
    assert found["packages"].says.startswith("torch 2.")


# ---- crashes


def test_a_crash_stays_in_its_process():
    with pytest.raises(Crashed):
        apart(os.abort)
    with pytest.raises(TimeoutError):
        apart(sleep_long, seconds=0.5)
    with pytest.raises(ZeroDivisionError):
        apart(divide)
    assert apart(os.getpid) != os.getpid()


def sleep_long() -> None:
    time.sleep(60)


def divide() -> float:
    return 1 / 0


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ImportError('libcudart.so.13: cannot open shared object file')", "libcudart.so.13"),
        ("import os; os.abort()", "without a message"),
    ],
)
def test_a_torch_that_can_not_be_imported(tmp_path, monkeypatch, code, said):
    package(tmp_path, monkeypatch, "torch", code)
    (finding,) = devices.torch_build()
    assert finding.level == "fault"
    assert said in finding.says
    assert "pip install" in finding.do


def test_a_torchaudio_of_another_cuda(tmp_path, monkeypatch):
    package(tmp_path, monkeypatch, "torchaudio", "raise OSError('libtorch_cuda.so: undefined symbol')")
    (finding,) = devices.torchaudio()
    assert finding.level == "fault"
    assert "does not match torch 2." in finding.says
    assert "torch>=2.11,<2.15" in finding.do


def package(folder, monkeypatch, name: str, code: str) -> None:
    """Shadow the real package in processes that are started from now on."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.parametrize(
    ("build", "hidden", "level", "said"),
    [
        ({"cuda": None, "why": None}, None, "fault", "built without CUDA"),
        ({"cuda": "13.0", "why": "driver too old"}, None, "fault", "driver too old"),
        ({"cuda": "13.0", "why": None}, "", "note", "hidden by CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_gpu_that_torch_does_not_see(monkeypatch, build, hidden, level, said):
    monkeypatch.setattr(devices.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    finding = devices._no_gpu(build)
    assert (finding.level, bool(finding.do)) == (level, True)
    assert said in finding.says


def test_a_container_with_less_than_the_machine(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text("3000000000\n")
    (tmp_path / "memory.current").write_text("1000000000\n")
    (cores,) = machine.processors(tmp_path)
    assert (cores.level, cores.says) == ("note", "0.5 cores")
    assert "OMP_NUM_THREADS=1" in cores.do
    found = next(finding for finding in machine.memory(tmp_path) if finding.name == "memory")
    assert found.level == "note"
    assert found.says.startswith("2.0 GB free")
    assert found.says.endswith("limited to 3.0")


# ---- disks


@pytest.mark.parametrize(
    ("mount", "said"),
    [
        ("mount -t tmpfs -o size=900m none {0}", "fault  output_dir: 0.9 GB free"),
        ("mount -t tmpfs -o size=2g,nr_inodes=50 none {0}", "more files (inodes)"),
        ("mount -t tmpfs -o ro,size=2g none {0}", "cannot be written (Read-only file system)"),
    ],
)
def test_a_disk_that_is_full_or_read_only(tmp_path, mount, said):
    """In a separate file system and namespace."""
    look = f"for found in storage.disks({str(tmp_path)!r}): print(found.line())"
    code = f"from sft_speech.tools.doctor import storage\n{look}"
    script = f'{mount.format(tmp_path)} && exec {sys.executable} -c "$CODE"'
    line = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    ended = subprocess.run(line, env=os.environ | {"CODE": code}, capture_output=True, text=True, timeout=300)
    if "Operation not permitted" in ended.stderr or "permission denied" in ended.stderr:
        pytest.skip("this system does not allow mounts in a namespace")
    assert said in ended.stdout, ended.stderr


def test_a_slow_disk():
    notes = [finding.says for finding in storage._slowness("output_dir", written=10e6, files=50.0, locks=False)]
    assert notes[0] == "slow to write: a checkpoint of a base-size model takes 114 s"
    assert len(notes) == 3
    assert list(storage._slowness("output_dir", written=60e6, files=400.0, locks=True)) == []


# ---- the Hub


class Hub(BaseHTTPRequestHandler):
    role: str | None = None  # None: the token is refused

    def do_GET(self) -> None:
        body: dict = {}
        if self.path.startswith("/api/whoami"):
            body = {"name": "anna", "auth": {"accessToken": {"role": self.role}}}
            if self.role is None or self.headers["authorization"] != f"Bearer {TOKEN}":
                body = {"error": f"bad token {TOKEN}"}
        answer = json.dumps(body).encode()
        self.send_response(401 if "error" in body else 200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch) -> Iterator[type[Hub]]:
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield Hub
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("role", "level", "says"),
    [("write", "ok", "of anna, role write"), ("read", "note", "it cannot push"), (None, "fault", "(401)")],
)
def test_the_owner_of_the_token_is_named_and_the_token_is_not_printed(hub, monkeypatch, role, level, says):
    monkeypatch.setattr(hub, "role", role)
    reached, token = network.hub()
    assert reached.level == "ok"
    assert (token.level, says in token.says) == (level, True)
    assert TOKEN not in reached.line() + token.line()


def test_no_token(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert next(finding for finding in network.hub() if finding.name == "Hub token").level == "note"


@pytest.mark.parametrize(
    ("address", "said"), [("http://127.0.0.1:9", "refused"), ("https://no.such.host.invalid", "cannot be resolved")]
)
def test_the_hub_can_not_be_reached(monkeypatch, address, said):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    (finding,) = network.hub()
    assert finding.level == "note"
    assert said in finding.says
    assert "HTTPS_PROXY" in finding.do


def test_offline_is_a_note():
    (finding,) = network.hub()
    assert "HF_HUB_OFFLINE" in finding.says
