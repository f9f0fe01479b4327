"""The files of a run's output directory that are uploaded, and those that stay on this machine.

The files that load the model and those with its figures are uploaded. Files about people in the corpus or about this
machine are not: transcripts (evaluation/SPLIT.jsonl), ids of utterances (corpus_report.json), samples, and
evaluations that do not belong to the run. Paths and ids are removed from what is uploaded.
"""

from __future__ import annotations

import dataclasses
import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from sft_speech.errors import UserError
from sft_speech.hub import adapters, provenance
from sft_speech.hub.card import CARD, LOG, REPORT, Run, card_files
from sft_speech.hub.published import published
from sft_speech.options.settings import read_yaml
from sft_speech.options.spec import TaskSpec

# What save_pretrained writes (weights, configuration, processor, a model's own code), and our speaker embeddings.
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
OF_ADAPTERS = (f"{adapters.FOLDER}/*", "adapter_config.json", "adapter_model.safetensors")
EVALUATIONS, PICTURES = "evaluation/*.json", "evaluation/*.png"
ABOUT = ("README.md", "run.yaml", "all_results.json", LOG, "plots/*.png")
LICENSES = ("LICENSE*", "NOTICE*")
LAST_CHECKPOINT = "last-checkpoint"  # the name that transformers uses
REASONS_TO_STAY = (
    ("checkpoint-*", "--with_checkpoints uploads them"),
    ("corpus_report.json", "ids of utterances; the card has the counts"),
    (REPORT, "recordings and transcripts"),
    (provenance.FILE, "paths of this machine; the card has the rest"),
    ("evaluation/before/*", "the card has its figures"),
    (EVALUATIONS, "not an evaluation of this run; --with_evaluations uploads it"),
    (PICTURES, "not an evaluation of this run; --with_evaluations uploads it"),
    ("evaluation/*.csv", "the confusion of classes is in the JSON file"),
    ("evaluation/*.jsonl", "transcripts"),
    ("samples", "spoken sentences"),
    ("tensorboard", "the plots show it"),
    ("*", "not part of the model"),
)


@dataclasses.dataclass(frozen=True)
class Upload:
    """A file of the repository.

    Args:
        path: its path in the repository.
        source: the file to upload, or its content.
    """

    path: str
    source: Path | bytes

    @property
    def size(self) -> int:
        """Size in bytes."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size

    def content(self) -> bytes:
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()


def check_finished(folder: Path) -> None:
    """Check that a directory holds the model of a finished run.

    Raises:
        UserError: it does not.
    """
    given = str(folder)
    if not folder.is_dir():
        raise UserError(given, "there is no such directory", "give the --output_dir of a run")
    missing = [name for name in ("config.json", "run.yaml", "all_results.json") if not (folder / name).is_file()]
    if missing and any(folder.glob("checkpoint-*")):
        do = "finish it with --resume_from_checkpoint, then push"
        raise UserError(given, f"its run is not finished (no {missing[0]})", do)
    if missing:
        do = f"give the --output_dir of a run; `hf upload REPO {given}` uploads any directory"
        raise UserError(given, f"it holds no model of a run (no {missing[0]})", do)
    check_weights(folder)


def check_weights(folder: Path) -> None:
    """Check that the weights in a directory are complete.

    Raises:
        UserError: a file is missing, or shorter than its header says.
    """
    from safetensors import SafetensorError, safe_open

    names = ["model.safetensors"]
    index = folder / "model.safetensors.index.json"
    try:
        if index.is_file():
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        for name in names:
            with safe_open(folder / name, "np"):  # compares the length of the file with its header
                pass
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        why = f"its weights are incomplete ({error})"
        raise UserError(str(folder), why, "resume the training from its last checkpoint") from error


def uploads(
    folder: Path, spec: TaskSpec, *, with_checkpoints: bool = False, with_evaluations: bool = False
) -> list[Upload]:
    """Return the files to upload, sorted by path.

    Args:
        spec: the task of the run.
        with_checkpoints: include every complete checkpoint.
        with_evaluations: include evaluations that do not belong to the run.
    """
    run = Run(folder, spec, all_evaluations=with_evaluations)
    found = model_files(folder) + adapter_files(run, f"{adapters.FOLDER}/")
    paths = [path for pattern in (*ABOUT, *LICENSES) for path in folder.glob(pattern) if path.is_file()]
    for evaluation in run.evaluation_files:
        paths += [file for file in (evaluation, evaluation.with_suffix(".png")) if file.is_file()]
    for path in paths:
        name = path.relative_to(folder).as_posix()
        found.append(Upload(name, _public(path, name, folder)))
    if with_checkpoints:
        for checkpoint in checkpoints(folder):
            found += checkpoint_files(checkpoint, checkpoint.name)
    return sorted(found, key=lambda file: file.path)


def model_files(folder: Path) -> list[Upload]:
    """Return the files that the model is loaded from."""
    return [Upload(path.name, path) for pattern in MODEL for path in sorted(folder.glob(pattern)) if path.is_file()]


def adapter_files(run: Run, prefix: str = "") -> list[Upload]:
    """Return the files of the adapter of a run, with the public name of its base; none if it has no adapter.

    Args:
        prefix: of their paths in the repository.
    """
    found = []
    for path in sorted((run.folder / adapters.FOLDER).glob("*")):
        content: Path | bytes = path
        if path.name in (adapters.CONFIG, CARD):
            text = path.read_text(encoding="utf-8")
            content = adapters.public(text, run.config.model, run.shown("model")).encode()
        if path.is_file():
            found.append(Upload(f"{prefix}{path.name}", content))
    return found


def adapter_uploads(folder: Path, spec: TaskSpec, repository: str, *, ask_hub: bool = False) -> list[Upload]:
    """Return the files of a repository that holds only the adapter of a run, with a card of its own.

    Args:
        repository: its id, which the card names.
        ask_hub: look up the license of the base model on the Hub.

    Raises:
        UserError: the run has no adapter.
    """
    adapters.check_adapter(folder)
    run = Run(folder, spec)
    run = Run(folder, adapters.alone(spec, folder, run.config.model, run.shown("model")))
    card = card_files(run, repository, ask_hub=ask_hub)
    found = [file for file in adapter_files(run) if file.path != CARD]
    return sorted([*found, *(Upload(*one) for one in card.items())], key=lambda file: file.path)


def is_replaced(path: str) -> bool:
    """Return whether a file of a repository belongs to one model or its figures, so that another model replaces it.

    Code does not: handler.py may belong to an endpoint.
    """
    patterns = [
        pattern
        for pattern in (*MODEL, *ABOUT, *OF_ADAPTERS, EVALUATIONS, PICTURES)
        if pattern.count("/") == path.count("/")
    ]
    return not path.endswith(".py") and any(fnmatch(path, pattern) for pattern in patterns)


def checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints, oldest first; ``files.json`` is written last."""
    found = [path.parent for path in folder.glob("checkpoint-*/files.json")]
    return sorted(found, key=lambda path: (len(path.name), path.name))


def checkpoint_files(checkpoint: Path, name: str) -> list[Upload]:
    """Return everything that resuming needs, as files of a folder called ``name``."""
    found = []
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file():
            inside = path.relative_to(checkpoint).as_posix()
            found.append(Upload(f"{name}/{inside}", _public(path, inside, checkpoint)))
    return found


def _public(path: Path, name: str, folder: Path) -> Path | bytes:
    """Return a file, or its content without paths and ids of utterances."""
    if name == "run.yaml":
        on_disk = {key for start in provenance.read(folder) for key in start.get("on_disk", [])}
        settings = {key: published(value, key in on_disk) for key, value in read_yaml(str(path), "settings").items()}
        return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).encode()
    if name.startswith("evaluation/") and path.suffix == ".json":
        figures: dict[str, Any] = published(json.loads(path.read_text(encoding="utf-8")))
        if "failed" in figures:
            figures["failed"] = len(figures["failed"])
        figures.pop("loop_ids", None)
        return _json(figures)
    if name == "trainer_state.json":
        state = json.loads(path.read_text(encoding="utf-8"))
        best = state.get("best_model_checkpoint")
        return _json(state | {"best_model_checkpoint": best and Path(best).name})
    return path


def _json(content: Any) -> bytes:
    return (json.dumps(content, ensure_ascii=False, indent=2) + "\n").encode()


def at_home(folder: Path, going: list[Upload]) -> list[tuple[str, int, str]]:
    """Return what is not uploaded: name, bytes and the reason; a directory counts as one entry."""
    up = {file.path for file in going}
    stays: dict[str, int] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in up:
            shown = name if name.startswith("evaluation/") else name.split("/")[0]
            stays[shown] = stays.get(shown, 0) + path.stat().st_size
    uploaded_folders = {name.split("/")[0] for name in up if name.startswith(("checkpoint-", f"{adapters.FOLDER}/"))}
    return [
        (name, size, next(why for pattern, why in REASONS_TO_STAY if fnmatch(name, pattern)))
        for name, size in stays.items()
        if name not in uploaded_folders
    ]
