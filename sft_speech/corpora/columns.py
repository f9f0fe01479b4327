"""Which column of a table means what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sft_speech.corpora.splits import unknown
from sft_speech.errors import UserError

# Our name for a column first, then names that others use: audiofolder, NeMo manifests, Common Voice, LibriSpeech on
# the Hub.
NAMES: dict[str, tuple[str, ...]] = {
    "audio": ("audio", "file_name", "audio_filepath", "audio_path", "path", "file"),
    "text": ("text", "transcription", "transcript", "sentence"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "id": ("id", "utterance_id", "segment_id"),
    "start": ("start", "offset", "start_time"),
    "end": ("end", "end_time"),
    "duration": ("duration",),  # read only beside a start and without an end
}
REQUIRED = ("audio", "text")


def find_columns(seen: Iterable[str], given: Mapping[str, str | None] | None, table: str) -> dict[str, str]:
    """Our names for the columns to theirs.

    Args:
        seen: the columns of the table.
        given: what the user says, e.g. ``{"text": "raw_transcription"}``; None: there may be no such column.
        table: what to call the table in errors.

    Raises:
        UserError: a column that isn't there, none for the audio or the text, or several that could be it.
    """
    seen, optional = list(seen), {ours for ours, theirs in (given or {}).items() if theirs is None}
    named = {ours: theirs for ours, theirs in (given or {}).items() if theirs is not None}
    for ours, theirs in named.items():
        if ours not in NAMES:
            raise unknown("column", ours, NAMES, given=f"columns {ours}={theirs}")
        if theirs not in seen:
            raise unknown("column", theirs, seen, given=table)
        if seen.count(theirs) > 1:
            raise twice(table, seen, theirs)
    found = dict(named)
    for ours, names in NAMES.items():
        present = [name for name in names if name in seen and name not in named.values()]
        if ours in named or not present:
            continue
        if present[0] != ours and len(present) > 1:
            raise UserError(
                table,
                f"the {ours} can be in any of the columns {', '.join(present)}",
                f"say which: columns {ours}={present[0]}",
            )
        if seen.count(present[0]) > 1:
            raise twice(table, seen, present[0])
        found[ours] = present[0]
    for ours in REQUIRED:
        if ours not in found and ours not in optional:
            raise UserError(
                table,
                f"no column for the {ours} (known names: {', '.join(NAMES[ours])}); its columns are: {', '.join(seen)}",
                f"say which it is: columns {ours}=NAME",
            )
    return found


def twice(table: str, seen: list[str], name: str) -> UserError:
    """The error for a name that several columns have."""
    return UserError(table, f"it has {seen.count(name)} columns called {name}", "rename all but one")
