"""With the options of scripts/test.sh, a failed test runs once more; if it then passes, the run passes and lists it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
Run = Callable[[str], tuple[pytest.RunResult, dict[str, int]]]
ROOT = Path(__file__).parents[1]
OPTIONS = re.findall(r"--(?:dist|reruns|max-suite-reruns)=\S+", (ROOT / "scripts" / "test.sh").read_text())
# Attempts are counted in files, because the second one may be in another process.
ATTEMPT = """
import os
import pathlib

import pytest

def attempt(name):
    with pathlib.Path(os.environ["COUNTS"], name).open("a") as file:
        file.write("x")
        return file.tell()
"""


@pytest.fixture
def workers() -> int:
    return 0


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: int) -> Run:
    """Run a test file with the options of scripts/test.sh; return the result and the number of attempts by name."""
    counts = pytester.mkdir("counts")
    monkeypatch.setenv("COUNTS", str(counts))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # other plugins take seconds to import

    def run(source: str) -> tuple[pytest.RunResult, dict[str, int]]:
        pytester.makepyfile(test_it=ATTEMPT + source)
        plugins = ["-p", "xdist", "-p", "pytest_rerunfailures", "-p", "flaky_report"]
        result = pytester.runpytest_subprocess(*plugins, "-n", str(workers), *OPTIONS)
        return result, {path.name: path.stat().st_size for path in counts.iterdir()}

    return run


def flaky(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if line.startswith("FLAKY ")]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_test_that_fails_twice_fails_the_run(run: Run) -> None:
    result, attempts = run("""
def test_fine():
    attempt("fine")

def test_once():
    assert attempt("once") == 2

def test_always():
    assert attempt("always") == 3
""")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert result.parseoutcomes() == {"passed": 2, "failed": 1, "rerun": 2}
    assert attempts == {"fine": 1, "once": 2, "always": 2}
    assert flaky(result) == ["FLAKY test_it.py::test_once: test_it.py:15: AssertionError"]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_run_passes_if_every_test_passes_in_the_end(run: Run) -> None:
    result, attempts = run("""
@pytest.fixture
def late():
    yield
    assert attempt("teardown") == 2

def test_once():
    if attempt("once") == 1:
        raise ValueError("too early\\nby a second")

def test_ends_late(late):
    pass
""")
    assert result.ret == pytest.ExitCode.OK
    assert attempts == {"once": 2, "teardown": 2}
    assert sorted(flaky(result)) == [
        "FLAKY test_it.py::test_ends_late: test_it.py:14: AssertionError",
        "FLAKY test_it.py::test_once: test_it.py:18: ValueError",
    ]
    result.stdout.fnmatch_lines("*ValueError: too early")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shared_fixture_is_kept_unless_it_failed(run: Run) -> None:
    result, attempts = run("""
@pytest.fixture(scope="session")
def whole():
    attempt("whole")
    yield
    attempt("end of whole")

@pytest.fixture(scope="module")
def broken(whole):
    if attempt("broken") == 1:
        raise OSError("no room")
    yield
    attempt("end of broken")

def test_one(broken):
    pass

def test_two(broken):
    assert attempt("two") == 2
""")
    assert result.ret == pytest.ExitCode.OK
    assert attempts == {"whole": 1, "broken": 2, "two": 2, "end of broken": 1, "end of whole": 1}
    assert [line.split(": ")[0] for line in flaky(result)] == [
        f"FLAKY test_it.py::test_{name}" for name in ("one", "two")
    ]


@pytest.mark.parametrize("workers", [1])
def test_a_test_that_crashes_its_process(run: Run) -> None:
    result, attempts = run("""
def test_once():
    if attempt("once") == 1:
        os._exit(3)
""")
    assert result.ret == pytest.ExitCode.OK
    assert attempts == {"once": 2}
    (line,) = flaky(result)
    assert line.startswith("FLAKY test_it.py::test_once: worker 'gw0' crashed")


def test_after_many_failures_nothing_is_rerun(run: Run) -> None:
    result, _ = run("""
@pytest.mark.parametrize("number", range(12))
def test_always(number):
    assert False
""")
    assert result.parseoutcomes() == {"failed": 12, "rerun": 10}
    assert flaky(result) == []
