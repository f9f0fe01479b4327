"""What a comparison has done so far, in ``compare.json``: it can be continued whenever it was stopped or killed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft_speech.corpora.report import file_stem
from sft_speech.errors import UserError
from sft_speech.files import write_whole
from sft_speech.tools.compare.candidates import Candidate, base_of, changed

FILE = "compare.json"
VERSION = 1


@dataclass
class Entry:
    """What is known about a candidate.

    Args:
        name: of the candidate.
        settings: its varied keys and their values.
        options: all its options; they identify it, also under another name in a larger grid.
        folder: name of its folders.
        results: by stage, see :class:`~sft_speech.tools.compare.engine.Engine`: "status", "why", "seconds", "updates"
            and "figures".
    """

    name: str
    settings: dict[str, Any]
    options: dict[str, Any]
    folder: str
    results: dict[str, dict[str, Any]] = field(default_factory=dict)


class State:
    """The state of a comparison, which is written after every change.

    Args:
        folder: the existing directory of the comparison.
        task: name of the task.
        command: the command line.
        candidates: the candidates of this start; others, of an earlier start, are kept.
        budget: how long candidates are trained: names of arguments and their values.

    Raises:
        UserError: the directory holds something else, or the base or the budget has changed.
    """

    def __init__(
        self, folder: Path, task: str, command: str, candidates: Sequence[Candidate], budget: dict[str, Any]
    ) -> None:
        self.folder = folder
        before = _read(folder)
        self.entries = [Entry(**one) for one in before.get("candidates", [])]
        now = {"task": task} | base_of(candidates) | budget
        now = json.loads(json.dumps(now, default=str))
        varied = {key for one in candidates for key in one.own}
        other = changed({k: v for k, v in before.get("base", {}).items() if k not in varied}, now)
        other = [key for key in other if key not in before.get("varied", [])]
        if other:
            old = ", ".join(f"{key}: {before['base'][key]}, now {now[key]}" for key in other)
            why = f"its candidates were trained with other options ({old})"
            raise UserError(f"-o {folder}", why, "set them as before, or choose another directory")
        self.content = {
            "version": VERSION,
            "command": command,
            "base": before.get("base", {}) | now,
            "varied": sorted(varied | set(before.get("varied", []))),
        }
        for one in candidates:
            self.entry(one)
        self.save()

    def entry(self, candidate: Candidate) -> Entry:
        """Return the entry of a candidate, which is added if it is new."""
        options = json.loads(json.dumps(candidate.options, default=str))
        for one in self.entries:
            if one.options.keys() & options.keys() and not changed(one.options, options):
                one.name, one.settings = candidate.name, candidate.settings
                return one
        stem = file_stem(candidate.name)[:100]
        taken = {one.folder.lower() for one in self.entries}
        names = (stem if number == 1 else f"{stem}_{number}" for number in range(1, len(taken) + 2))
        folder = next(name for name in names if name.lower() not in taken)
        self.entries.append(Entry(candidate.name, candidate.settings, options, folder))
        return self.entries[-1]

    def save(self) -> None:
        """Write the state."""
        content = self.content | {"candidates": [vars(one) for one in self.entries]}
        write_whole(self.folder / FILE, json.dumps(content, ensure_ascii=False, indent=1, default=str) + "\n")


def _read(folder: Path) -> dict[str, Any]:
    for name in ("run.yaml", "model.safetensors"):
        if (folder / name).exists():
            raise UserError(f"-o {folder}", f"it holds a run ({name})", "choose another directory for the comparison")
    file = folder / FILE
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise ValueError("another version of sft_speech wrote it")
        return dict(content)
    except (OSError, ValueError, TypeError, KeyError) as error:
        why = f"it cannot be read ({getattr(error, 'strerror', None) or error})"
        raise UserError(str(file), why, "choose another directory, or remove this one") from None
