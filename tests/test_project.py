"""The repository as a whole: its scripts, its pins, and the cost of importing the package."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sft_speech.cli import verbs

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted([*ROOT.glob("scripts/*.sh"), ROOT / ".ci/run"])
HEAVY = {
    "gradio",
    "torch",
    "torchaudio",
    "torchcodec",
    "transformers",
    "datasets",
    "accelerate",
    "evaluate",
    "librosa",
    "scipy",
}


def tracked() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).is_file()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_scripts_stop_at_errors(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    assert "\nset -euo pipefail\n" in script.read_text()


def test_top_level_names() -> None:
    allowed = "sft_speech scripts configs tests pyproject.toml README.md LICENSE CONTRIBUTING.md RESULTS.md"
    names = {path.relative_to(ROOT).parts[0] for path in tracked()}
    assert names <= {*allowed.split(), "constraints.txt", ".ci", ".gitignore"}


def test_no_file_holds_a_path_of_one_machine() -> None:
    absolute = re.compile(r"(?<![\w.:/*~}$-])/(home|root|work|Users|mnt|srv|opt|scratch)/\w+")
    found = []
    for path in tracked():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:  # a model, a recording
            continue
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in absolute.finditer(text)]
    assert found == []


@pytest.mark.parametrize("path", [*SCRIPTS, ROOT / "pyproject.toml", ROOT / "constraints.txt"], ids=lambda p: p.name)
def test_nothing_that_installs_names_a_host(path: Path) -> None:
    assert (
        re.findall(r"https?://\S+|\S*(?:pypi\.|pythonhosted|--(?:extra-)?index-url|--find-links)\S*", path.read_text())
        == []
    )


def test_constraints_are_names_and_versions_within_the_bounds_of_pyproject() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[a-z0-9.+]+", line)] == []
    pins = dict(line.split("==") for line in lines)
    assert len(pins) == len(lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"], "uv"]
    wanted += [item for extra in project["project"]["optional-dependencies"].values() for item in extra]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose `uv` only logs its arguments, and fails to install while a file `broken` exists."""
    (tmp_path / "scripts").mkdir()
    for name in ("pyproject.toml", "constraints.txt", "scripts/environment.sh"):
        shutil.copy(ROOT / name, tmp_path / name)
    uv = tmp_path / "bin/uv"
    uv.parent.mkdir()
    uv.write_text(
        '#!/bin/bash\necho "$1" >>calls\n[ "$1" != venv ] || mkdir .venv\n[ "$1" != pip ] || [ ! -e broken ]\n'
    )
    uv.chmod(0o755)
    return tmp_path


def environment(checkout: Path) -> list[str]:
    """Run environment.sh from another folder; return the arguments of its calls of `uv`."""
    calls = checkout / "calls"
    calls.unlink(missing_ok=True)
    variables = {"PATH": f"{checkout / 'bin'}:/usr/bin:/bin"}
    subprocess.run(["bash", checkout / "scripts/environment.sh"], env=variables, cwd="/", check=False)
    return calls.read_text().split() if calls.exists() else []


def test_environment_is_made_once_and_again_when_the_pins_change(checkout: Path) -> None:
    assert environment(checkout) == ["venv", "pip"]
    assert environment(checkout) == []
    with (checkout / "constraints.txt").open("a") as file:
        file.write("another==1.0\n")
    assert environment(checkout) == ["venv", "pip"]
    assert environment(checkout) == []


def test_environment_is_made_again_after_a_failed_install(checkout: Path) -> None:
    (checkout / "broken").touch()
    assert environment(checkout) == ["venv", "pip"]
    (checkout / "broken").unlink()
    assert environment(checkout) == ["venv", "pip"]
    assert environment(checkout) == []


def imported(code: str) -> set[str]:
    """Return the heavy modules that ``code`` imports in a fresh interpreter."""
    report = "\nimport sys; print('loaded', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, cwd=ROOT, check=True)
    return HEAVY & set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert imported("import torch") >= {"torch"}  # the check itself works
    assert imported("import sft_speech") == set()


@pytest.mark.parametrize("verb", verbs())
def test_help_imports_nothing_heavy(verb: str) -> None:
    code = f"""
from sft_speech.cli import main
try:
    main([{verb!r}, "--help"])
except SystemExit as end:
    assert end.code == 0
"""
    assert imported(code) == set()
