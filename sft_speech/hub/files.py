"""What of a run goes up, and what stays at home.

Up goes what the model needs to be loaded again, and what its figures are. At home stays what tells of the people in the
corpus or of the machine: transcripts (evaluation/SPLIT.jsonl), ids of utterances (corpus_report.json), spoken samples,
places on the disk. What goes up and names such a place, or an utterance, goes up without.
"""

from __future__ import annotations

import dataclasses
import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from sft_speech.errors import UserError
from sft_speech.hub import provenance
from sft_speech.hub.card import LOG
from sft_speech.hub.published import published
from sft_speech.options.settings import read_yaml

# What save_pretrained writes: weights, configuration, processor, code of a model that brings its own; and our voices.
MODEL = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "adapter.*.safetensors",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "tokenizer.json",
    "spm_char.model",
    "speakers.safetensors",
    "*.py",
)
ABOUT = ("README.md", "run.yaml", "all_results.json", LOG, "evaluation/*.json", "plots/*.png")
LICENSES = ("LICENSE*", "NOTICE*")
LAST_CHECKPOINT = "last-checkpoint"  # as transformers calls it
WHY_HOME = (
    ("checkpoint-*", "--with_checkpoints takes them"),
    ("corpus_report.json", "ids of utterances; the card has their numbers"),
    (provenance.FILE, "places on this disk; the card has the rest"),
    ("evaluation/*.jsonl", "transcripts"),
    ("samples", "spoken sentences"),
    ("tensorboard", "the plots show it"),
    ("*", "no part of the model"),
)


@dataclasses.dataclass(frozen=True)
class Upload:
    """A file of the repository.

    Args:
        path: in the repository.
        source: where it lies, or what it holds.
    """

    path: str
    source: Path | bytes

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size

    def content(self) -> bytes:
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()


def check_finished(folder: Path) -> None:
    """See that a directory holds a model that a run has finished.

    Raises:
        UserError: it doesn't.
    """
    given = str(folder)
    if not folder.is_dir():
        raise UserError(given, "there is no such directory", "give the --output_dir of a run")
    missing = [name for name in ("config.json", "run.yaml", "all_results.json") if not (folder / name).is_file()]
    if missing and any(folder.glob("checkpoint-*")):
        do = "go on with --resume_from_checkpoint, and push then"
        raise UserError(given, f"its run isn't done (no {missing[0]})", do)
    if missing:
        do = f"give the --output_dir of a run; `hf upload REPO {given}` takes any directory"
        raise UserError(given, f"no run has left a model there (no {missing[0]})", do)
    check_weights(folder)


def check_weights(folder: Path) -> None:
    """See that all of the weights are there, to their last byte.

    Raises:
        UserError: a file is missing or was cut.
    """
    from safetensors import SafetensorError, safe_open

    names = ["model.safetensors"]
    index = folder / "model.safetensors.index.json"
    try:
        if index.is_file():
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        for name in names:
            with safe_open(folder / name, "np"):  # which compares the length of the file with what its head says
                pass
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        why = f"its weights are not whole ({error})"
        raise UserError(str(folder), why, "train it to its end again, from its last checkpoint") from error


def uploads(folder: Path, *, with_checkpoints: bool = False) -> list[Upload]:
    """The files that go up."""
    found = model_files(folder)
    for pattern in (*ABOUT, *LICENSES):
        for path in filter(Path.is_file, sorted(folder.glob(pattern))):
            name = path.relative_to(folder).as_posix()
            found.append(Upload(name, _told(path, name, folder)))
    if with_checkpoints:
        for checkpoint in checkpoints(folder):
            found += checkpoint_files(checkpoint, checkpoint.name)
    return sorted(found, key=lambda file: file.path)


def model_files(folder: Path) -> list[Upload]:
    """Those that the model is loaded from."""
    return [Upload(path.name, path) for pattern in MODEL for path in filter(Path.is_file, sorted(folder.glob(pattern)))]


def is_replaced(path: str) -> bool:
    """Whether a file of a repository belongs to one model, or tells its figures: it goes when another model comes.

    Code doesn't: a handler.py may be there for an endpoint.
    """
    patterns = [pattern for pattern in (*MODEL, *ABOUT) if pattern.count("/") == path.count("/")]
    return not path.endswith(".py") and any(fnmatch(path, pattern) for pattern in patterns)


def checkpoints(folder: Path) -> list[Path]:
    """Those that were written to their end, the oldest first: ``files.json`` comes last."""
    found = [path.parent for path in folder.glob("checkpoint-*/files.json")]
    return sorted(found, key=lambda path: (len(path.name), path.name))


def checkpoint_files(checkpoint: Path, name: str) -> list[Upload]:
    """All that resuming takes, in a folder of that name."""
    found = []
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file():
            inside = path.relative_to(checkpoint).as_posix()
            found.append(Upload(f"{name}/{inside}", _told(path, inside, checkpoint)))
    return found


def _told(path: Path, name: str, folder: Path) -> Path | bytes:
    """What of a file is told: itself, or its content without places on the disk and ids of utterances."""
    if name == "run.yaml":
        on_disk = {key for start in provenance.read(folder) for key in start.get("on_disk", [])}
        settings = {key: published(value, key in on_disk) for key, value in read_yaml(str(path), "settings").items()}
        return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).encode()
    if name.startswith("evaluation/"):
        figures: dict[str, Any] = published(json.loads(path.read_text(encoding="utf-8")))
        if "failed" in figures:
            figures["failed"] = len(figures["failed"])
        return _json(figures)
    if name == "trainer_state.json":
        state = json.loads(path.read_text(encoding="utf-8"))
        best = state.get("best_model_checkpoint")
        return _json(state | {"best_model_checkpoint": best and Path(best).name})
    return path


def _json(content: Any) -> bytes:
    return (json.dumps(content, ensure_ascii=False, indent=2) + "\n").encode()


def at_home(folder: Path, going: list[Upload]) -> list[tuple[str, int, str]]:
    """What stays: name, bytes and why; directories as one."""
    up = {file.path for file in going}
    stays: dict[str, int] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in up:
            shown = name if name.startswith("evaluation/") else name.split("/")[0]
            stays[shown] = stays.get(shown, 0) + path.stat().st_size
    found = {name for name in up if name.startswith("checkpoint-")}
    return [
        (name, size, next(why for pattern, why in WHY_HOME if fnmatch(name, pattern)))
        for name, size in stays.items()
        if not any(one.startswith(f"{name}/") for one in found)
    ]
