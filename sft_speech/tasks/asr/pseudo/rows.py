"""The rows that a teacher labels, and the rows of the manifest."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft_speech.audio.channels import name_of
from sft_speech.corpora.report import CorpusReport, file_stem
from sft_speech.corpora.weights import CONFIDENCE
from sft_speech.errors import UserError
from sft_speech.files import open_whole
from sft_speech.inference import shards
from sft_speech.tasks.asr.pseudo.filters import Label
from sft_speech.text.counted import counted

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class RowsToLabel:
    """The rows to label.

    Args:
        rows: of a corpus.
        inside_tables: whether their audio is in the rows themselves, as in parquet files and in datasets on the Hub.
        labelled: number of other rows, which have a transcript.
        dropped: number of rows that cannot be read, by reason.
    """

    rows: Dataset
    inside_tables: bool
    labelled: int
    dropped: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> Iterator[dict[str, Any]]:
        """Iterate over the recordings of some rows as models take them; their audio is only read then."""
        for row in self.rows.select(range(*part.indices(len(self)))):
            audio = row["audio"] if self.inside_tables else row["audio"]["path"]
            whole = {"audio": audio, "channel": row.get("channel")}
            yield whole if row["start"] is None else whole | {"start": row["start"], "seconds": row["seconds"]}

    def fingerprint(self) -> str:
        """Return a digest of the recordings and their order; audio inside tables is known by id and length alone."""
        rows = self.rows
        paths = [""] * len(rows) if self.inside_tables else [audio["path"] for audio in rows["audio"]]
        parts = zip(rows["id"][:], paths, rows["start"][:], rows["seconds"][:], strict=True)
        return shards.fingerprint([f"{id}\t{path}\t{start}\t{seconds}" for id, path, start, seconds in parts])


def rows_to_label(
    source: str | Path | Dataset, split: str | None, ignore_text: bool, corpus: dict[str, Any]
) -> RowsToLabel:
    """Return the rows of a corpus that have no transcript, or all of them.

    Raises:
        UserError: there are none.
    """
    from sft_speech.corpora import load_corpus

    rows: Any = source
    report = CorpusReport()
    shown = str(source) if isinstance(source, str | Path) else "the rows"
    if isinstance(source, str | Path):
        rows = load_corpus(source, split, unlabelled=True, report=report, **corpus)
    elif split is not None:
        raise UserError(f"split {split}", "rows in memory have no splits", "select the rows")
    texts = rows["text"][:]
    bare = [place for place, text in enumerate(texts) if ignore_text or not text.strip()]
    if not bare:
        why = f"{counted(len(texts), 'row has', 'rows have')} a transcript, and none is without one"
        raise UserError(shown, why, "label them all the same with --ignore_text (in a YAML, ignore_text: true)")
    labelled = len(texts) - len(bare)
    rows = rows if not labelled else rows.select(bare)
    reasons: Counter[str] = Counter()
    for part in report.to_dict().values():
        reasons.update({reason: len(found) for reason, found in part["dropped"]["reasons"].items()})
    inside_tables = any(audio["bytes"] is not None for audio in rows["audio"])
    return RowsToLabel(rows, inside_tables, labelled, dict(reasons))


def manifest_row(row: Mapping[str, Any], label: Label) -> dict[str, Any]:
    """Return the row of a manifest for a label; a text that the row had is its ``reference``."""
    audio = row["audio"]["path"] or ""
    if row["audio"]["bytes"] is None:
        audio = str(Path(audio).absolute())
    made: dict[str, Any] = {"id": row["id"], "audio": audio, "text": label.text}
    if row["start"] is not None:
        made |= {"start": row["start"], "end": row["start"] + row["seconds"]}
    made["seconds"] = round(row["seconds"], 3)
    if row.get("channel") is not None:
        made["channel"] = name_of(row["channel"])
    further = {"speaker": row["speaker"], "language": label.language, "reference": row["text"]}
    made |= {name: value for name, value in further.items() if value}
    return made | {CONFIDENCE: label.confidence}


def audio_file(row: Mapping[str, Any], folder: Path, number: int) -> Path:
    """Return the audio file of a row; audio inside a table is written into a folder, as it is.

    Args:
        number: of the row, since ids may become the same name.
    """
    encoded, path = row["audio"]["bytes"], Path(row["audio"]["path"] or "")
    if encoded is None:
        return path
    file = folder / f"{number:06d}-{file_stem(str(row['id']))[:80]}{path.suffix or suffix_of(encoded)}"
    if not file.exists():
        folder.mkdir(exist_ok=True)
        with open_whole(file) as copy:
            copy.write(encoded)
    return file


def suffix_of(encoded: bytes) -> str:
    """Return the suffix for an audio file without a name."""
    import soundfile

    try:
        return "." + soundfile.info(io.BytesIO(encoded)).format.lower()
    except soundfile.LibsndfileError:
        return ".audio"  # files are told apart by their content
