"""Settings and fixtures of all tests."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pytest
from forked import Program

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test contacts the Hub
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests do not depend on the user's cache, or on other sessions that change it. Workers inherit the variable.
CACHE = tempfile.TemporaryDirectory(prefix="sft_speech-tests-")
os.environ.setdefault("HF_DATASETS_CACHE", CACHE.name)
# A slow example on a busy machine is not a failure.
hypothesis.settings.register_profile(
    "patient", hypothesis.settings(), deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")

READ_AT_IMPORT = {name: value for name, value in os.environ.items() if name.startswith("HF_")}

ROOT = Path(__file__).parents[1]
pytest_plugins = ["flaky_report", "tiny_recognizers", "tiny_seq2seq", "tiny_speech"]
ACCELERATE = (sys.executable, "-m", "accelerate.commands.launch", "--config_file")
FSDP_ON_CPU = str(ROOT / "tests" / "fsdp_on_cpu.py")


@pytest.fixture(autouse=True, scope="module")
def frozen_imports():
    """Keep what is there from the garbage collections to come: each would visit all that was imported, 0.5 s or more.

    A run of the trainer collects several times.
    """
    gc.collect()
    gc.freeze()


def can_be_forked(environment: dict[str, str]) -> bool:
    """Return whether the imported libraries have read the same settings; they do not read them again."""
    found = {name: value for name, value in environment.items() if name.startswith("HF_")}
    return found | {"HF_DATASETS_CACHE": READ_AT_IMPORT["HF_DATASETS_CACHE"]} == READ_AT_IMPORT


def run_launcher(line: list[str], seconds: float = 300, **settings: str) -> tuple[int, str, str]:
    """Run a launcher of CPU processes (gloo); return its exit code, stdout and stderr. Kill it if it hangs.

    It and they are forks: see tests/forked.py.
    """
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"} | settings
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        if can_be_forked(environment):
            process = Program(line, environment, (out.fileno(), err.fileno()))
        else:
            process = subprocess.Popen(line, stdout=out, stderr=err, env=environment, start_new_session=True)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        for file in (out, err):
            file.seek(0)
        return code, out.read().decode(), err.read().decode()


def run(line: list[str], seconds: float, **settings: str) -> str:
    """Run a launcher that must succeed; return what it printed."""
    code, out, err = run_launcher(line, seconds, **settings)
    assert code == 0, err
    return out


@pytest.fixture
def run_python():
    """A function that runs code with arguments and environment variables in a fork.

    Returns its exit code, stdout and stderr.
    """
    return lambda code, *arguments, **settings: run_launcher([sys.executable, "-c", code, *arguments], **settings)


@pytest.fixture
def start_python():
    """A function that starts code with arguments in a fork: a `forked.Program`, which ends with the test."""
    programs: list[Program] = []

    def start(code: str, *arguments: str, output: tuple[int, int] = (1, 2)) -> Program:
        programs.append(Program([sys.executable, "-c", code, *arguments], dict(os.environ), output))
        return programs[-1]

    yield start
    for program in programs:
        if program.poll() is None:
            program.kill()
            program.wait()


@pytest.fixture
def two_processes():
    """A function that runs a script on two CPU processes and returns what it printed."""

    def launch(*command: str, seconds: float = 480) -> str:
        line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *command]
        return run(line, seconds)

    return launch


@pytest.fixture
def several_runs(tmp_path):
    """A function that starts `tests/several_runs.py` on CPU processes, with `configs/accelerate/multi_gpu.yaml`.

    The last run must fail. Returns the notes of each process about each finished run, and the lines of stderr.
    """

    def launch(processes: int, runs: list[dict], seconds: float = 480) -> tuple[list[list[dict]], list[str]]:
        (tmp_path / "runs.json").write_text(json.dumps(runs))
        config = [str(ROOT / "configs/accelerate/multi_gpu.yaml"), "--num_processes", str(processes)]
        script = [str(ROOT / "tests" / "several_runs.py"), str(tmp_path / "runs.json")]
        code, _, err = run_launcher([*ACCELERATE, *config, "--main_process_port", "0", *script], seconds)
        print(err)  # shown if the test fails
        files = [tmp_path / f"runs.json.{rank}" for rank in range(processes)]
        notes = [[json.loads(line) for line in file.read_text().splitlines()] for file in files if file.is_file()]
        assert time.time() - (tmp_path / "runs.json.failed").stat().st_mtime < 180, "not all ended within three minutes"
        assert code != 0
        return notes, err.splitlines()

    return launch


@pytest.fixture
def two_pieces():
    """A function that runs a script on two CPU processes with a shard each, with `configs/accelerate/fsdp.yaml`."""

    def launch(*command: str, seconds: float = 480) -> str:
        config = [str(ROOT / "configs/accelerate/fsdp.yaml"), "--num_processes", "2", "--main_process_port", "0"]
        return run([*ACCELERATE, *config, FSDP_ON_CPU, *command], seconds)

    return launch


@pytest.fixture
def two_machines(tmp_path):
    """A function that runs a script on two machines of two CPU processes, and returns what each machine printed.

    The machines share all files except the caches of `datasets`: `cache0` and `cache1` in `tmp_path`.
    """

    def launch(config: str, *command: str, seconds: float = 480) -> list[str]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        main = ["--main_process_ip", "127.0.0.1", "--main_process_port", port, "--num_processes", "4"]
        script = [FSDP_ON_CPU, *command] if "fsdp" in config else command
        file = str(ROOT / "configs/accelerate" / config)

        def machine(rank: str) -> str:
            line = [*ACCELERATE, file, *main, "--machine_rank", rank, *script]
            return run(line, seconds, HF_DATASETS_CACHE=str(tmp_path / f"cache{rank}"))

        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(machine, "01"))

    return launch


@pytest.fixture
def hub(monkeypatch, tmp_path_factory):
    """A Hub on loopback (tests/hub_server.py) that this process uses, logged in as "me"."""
    from huggingface_hub import close_session, constants
    from huggingface_hub.utils import _http

    spec = importlib.util.spec_from_file_location("hub_server", ROOT / "tests" / "hub_server.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "hub_server", module)  # where dataclasses look up names
    spec.loader.exec_module(module)
    home = tmp_path_factory.mktemp("home")
    with module.serving() as server:
        environment = {"HF_ENDPOINT": server.url, "HF_TOKEN": module.WRITER, "HF_HOME": str(home)}
        for name, value in (environment | {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}).items():
            monkeypatch.setenv(name, value)  # for child processes; this process has read them already
        settings = {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
        }
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value)
        impatient = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})  # no waiting between retries
        monkeypatch.setattr(_http, "time", impatient)
        close_session()
        yield server
        close_session()
