"""Detection of a corpus's layout from what is in its folder."""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from pathlib import Path

from sft_speech.corpora.annotated import first_files
from sft_speech.corpora.archive import ARCHIVES
from sft_speech.corpora.columns import Columns
from sft_speech.corpora.layouts import LAYOUTS
from sft_speech.corpora.layouts.manifest import METADATA
from sft_speech.corpora.rows import Layout, Source
from sft_speech.corpora.tables import SUFFIXES
from sft_speech.errors import UserError
from sft_speech.text.counted import counted

EXPECTED = "\n   - ".join(
    [
        "one of these:",
        *(layout.expected for layout in LAYOUTS),
        "an archive of one of these (.tar, .tar.gz, .zip, ...)",
        "a dataset on the Hub (OWNER/NAME)",
    ]
)
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def open_source(
    source: str | os.PathLike[str], columns: Columns | None = None, cache_dir: str | os.PathLike[str] | None = None
) -> Source | None:
    """Return the rows of a folder or a manifest; None if the ``datasets`` library reads ``source``: parquet files or a
    name on the Hub.

    Raises:
        UserError: no corpus, one of an unknown layout, or several; the message says what was found and expected.
    """
    path = Path(source)
    if path.exists():
        layout = _layout_of(path, columns or {})
        return layout.open(path, columns or {}, *([cache_dir] if layout.unpacks else []))
    name = os.fspath(source)
    if _HUB.fullmatch(name) and not name.endswith((*SUFFIXES, *ARCHIVES)) and not path.parent.is_dir():
        return None
    near = _near(path)
    raise UserError(name, "no such file or folder", f"did you mean {near}?" if near else f"give {EXPECTED}")


def _layout_of(path: Path, columns: Columns) -> Layout:
    """Return the layout of a file or folder; a metadata table directly in the folder decides, whatever is below it."""
    if path.is_file():  # a manifest, the first layout, may be any file
        return next(layout for layout in reversed(LAYOUTS) if layout.find(path, columns) is not None)
    first_files.cache_clear()
    found: list[tuple[Layout, Path]] = []
    for layout in sorted(LAYOUTS, key=lambda layout: layout.fallback):
        known = found and found[0][0].fallback < layout.fallback
        evidence = None if known else layout.find(path, columns)
        if evidence is None:
            continue
        if evidence == path or (evidence.parent == path and evidence.name in METADATA):
            return layout
        found.append((layout, evidence))
    if len(found) > 1:
        seen = "several corpora are in it: " + ", ".join(str(evidence.relative_to(path)) for _, evidence in found)
        same = len({evidence.parent for _, evidence in found}) == 1
        raise UserError(str(path), seen, "move the others away" if same else "give the folder of one of them")
    if found:
        return found[0][0]
    if not path.is_dir():
        raise UserError(str(path), "neither a file nor a folder", f"give {EXPECTED}")
    if not any(path.iterdir()):
        raise UserError(str(path), "the folder is empty", "correct the path, or put a corpus into it")
    if (script := path / f"{path.name}.py").is_file():
        why = (
            f"{script.name} is a loading script, which would have to be run to get its data; it holds {_contents(path)}"
        )
        raise UserError(
            str(path), why, "give a folder of its audio with a table (audio, text), or take it from the Hub"
        )
    if (path / "config.json").is_file():
        raise UserError(str(path), "it holds a model, not a corpus", f"give the model as --model {path}")
    manifests = sorted(file.name for file in path.iterdir() if file.suffix in SUFFIXES)
    do = f"give a manifest itself: {path / manifests[0]}" if manifests else f"give {EXPECTED}"
    raise UserError(str(path), f"no corpus of a known layout: it holds {_contents(path)}", do)


def _contents(folder: Path) -> str:
    kinds = Counter("folder" if path.is_dir() else f"*{path.suffix or path.name}" for path in folder.iterdir())
    shown = (counted(count, kind) if kind == "folder" else f"{count:,} {kind}" for kind, count in kinds.most_common(5))
    return ", ".join(shown)


def _near(path: Path) -> Path | None:
    if not path.parent.is_dir():
        return None
    names = [entry.name for entry in path.parent.iterdir()]
    return next((path.parent / name for name in difflib.get_close_matches(path.name, names, n=1)), None)
