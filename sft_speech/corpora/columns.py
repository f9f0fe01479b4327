"""The columns of a table and what they mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from sft_speech.corpora import times
from sft_speech.corpora.splits import unknown
from sft_speech.corpora.weights import CONFIDENCE, WEIGHT
from sft_speech.errors import UserError

Columns = Mapping[str, str | None]  # our names to the table's; None: there may be no such column

# Our name for a column, then the names that others use: audiofolder, NeMo manifests, Common Voice, LibriSpeech on the
# Hub.
NAMES: dict[str, tuple[str, ...]] = {
    "audio": ("audio", "file_name", "audio_filepath", "audio_path", "path", "file"),
    "text": ("text", "transcription", "transcript", "sentence"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "id": ("id", "utterance_id", "segment_id"),
    "start": ("start", "offset", "start_time"),
    "end": ("end", "end_time"),
    "duration": ("duration",),  # read only if there is a start and no end
    "split": ("split",),
    "label": ("label", "labels", "class", "category"),
    "language": ("language", "lang", "locale"),
    WEIGHT: (WEIGHT,),  # of the utterance in the training loss
    "channel": ("channel", "channel_selector"),  # of a recording of several: 0 and 1, left and right, A and B
}
# Names that count only if there is none of those above. Of all names, case, spaces and hyphens don't count.
_LESS_COMMON: dict[str, tuple[str, ...]] = {
    "audio": tuple(
        "audio_file audio_filename audiopath filename filepath file_path wav wav_path wav_file wav_filename".split()
    ),
    "text": ("normalized_text", "normalized_transcription", "raw_text", "raw_transcription", "utterance"),
    "speaker": ("speaker_name", "spk", "spk_id"),
    "id": ("utt_id", "utt"),
}
_OPTIONS = ("audio", "text", "speaker", "label", "language", WEIGHT)  # roles with an option --ROLE_column
# Read only if they are asked for; the same column may have another role as well. A manifest of pseudo-labels needs no
# asking for its weights.
OPTIONAL = ("label", "language", WEIGHT)
MANIFEST_ONLY = ("start", "end", "duration", "split")  # a dataset on the Hub has no segments, and has its own splits


def labelled(columns: Columns | None) -> bool:
    """Return whether rows are to have labels."""
    return "label" in (columns or {})


def asked_for(columns: Columns | None) -> tuple[str, ...]:
    """Return the roles among :data:`OPTIONAL` that rows are to have."""
    return tuple(role for role in OPTIONAL if role in (columns or {}))


def names_audio(seen: Iterable[str], given: Columns | None) -> bool:
    """Return whether a column is named as the audio's."""
    seen, named = list(seen), (given or {}).get("audio")
    return named in seen if named is not None else bool(_candidates("audio", seen))


def named_roles(names: Sequence[str]) -> dict[str, list[int]]:
    """Return the places of the names that are known for the text or the speaker, by these roles."""
    found: dict[str, list[int]] = {}
    for place, name in enumerate(map(times.spelled, names)):
        for role in ("text", "speaker"):
            if name in NAMES[role] or name in _LESS_COMMON[role]:
                found.setdefault(role, []).append(place)
    return found


def _candidates(ours: str, seen: list[str]) -> list[str]:
    """Return the columns that have a name known for a role, of the most common kind of names."""
    if ours in times.ROLES:
        return times.columns_of(ours, seen)
    for names in (NAMES[ours], _LESS_COMMON.get(ours, ())):
        spelled = {name: times.spelled(name) for name in seen}
        found = [name for name in names if name in spelled] or [
            name for known in names for name in spelled if spelled[name] == known
        ]
        if found:
            return found
    return []


def find_columns(seen: Iterable[str], given: Columns | None, table: str, segments: bool = True) -> dict[str, str]:
    """Map our names of the columns to the table's.

    A column that is named as the label or the language may have another role as well: the label of a clip can be its
    speaker.

    Args:
        seen: the columns of the table.
        given: columns named by the user, e.g. ``{"text": "raw_transcription"}``; if a label is asked for, the table
            needs no transcripts.
        table: what to call the table in errors.
        segments: whether to look for the columns of :data:`MANIFEST_ONLY`.

    Raises:
        UserError: a given column is missing, or there is none or more than one for the audio or the text.
    """
    seen, given = list(seen), dict(given or {})
    named = {ours: theirs for ours, theirs in given.items() if theirs is not None}
    for ours, theirs in named.items():
        if ours not in NAMES:
            raise unknown("column", ours, NAMES, given=f"columns {ours}={theirs}")
        if theirs not in seen:
            raise unknown("column", theirs, seen, given=table)
        if seen.count(theirs) > 1:
            raise _twice(table, seen, theirs)
    found, taken = dict(named), {theirs for ours, theirs in named.items() if ours not in OPTIONAL}
    for ours in NAMES if segments else [ours for ours in NAMES if ours not in MANIFEST_ONLY]:
        present = [name for name in _candidates(ours, seen) if name not in taken]
        own = ours == WEIGHT and segments and CONFIDENCE in seen  # a manifest of pseudo-labels
        if ours in named or not present or (ours in OPTIONAL and ours not in given and not own):
            continue
        if ours == "duration" and ("end" in found or "start" not in found):
            continue
        if present[0] != ours and len(present) > 1:
            do = f"say which: --{ours}_column {present[0]}" if ours in _OPTIONS else f"rename the right one to {ours!r}"
            raise UserError(table, f"the {ours} can be in any of the columns {', '.join(present)}", do)
        if seen.count(present[0]) > 1:
            raise _twice(table, seen, present[0])
        found[ours] = present[0]
    for ours in ("audio",) if "text" in given or labelled(given) else ("audio", "text"):
        if ours not in found:
            raise UserError(
                table,
                f"no column for the {ours} (known names: {', '.join(NAMES[ours])}); its columns are: {', '.join(seen)}",
                f"say which it is: --{ours}_column NAME",
            )
    return found


def _twice(table: str, seen: list[str], name: str) -> UserError:
    return UserError(table, f"it has {seen.count(name)} columns called {name}", "rename all but one")


# ---- labels ----


def label_of(value: object, names: Sequence[str] = ()) -> str:
    """Return a label, or several, as one string.

    Several labels of a clip (a list) are joined by ``|``, as they may also be written in a table; a ``|`` or backslash
    within a label of a list is escaped by a backslash. :func:`split_labels` takes them apart.

    Args:
        value: a string, a number, a list of them, or None for no label.
        names: names of the classes, if numbers stand for them; a number out of range means no label.
    """
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        labels = (label_of(one, names) for one in value)
        return "|".join(re.sub(r"([\\|])", r"\\\1", label) for label in labels if label)
    if names and isinstance(value, int):
        return names[value] if 0 <= value < len(names) else ""
    return str(value)


def split_labels(label: str) -> list[str]:
    """Return the labels in a row's ``label``, in order: ``"dog|bark"`` is two, ``""`` none.

    Only for tasks in which a clip has several labels: if it has one, the string is the label as it stands.
    """
    parts = re.findall(r"((?:\\.|[^\\|]|\\$)*)(?:\||$)", label, re.DOTALL)
    labels = (re.sub(r"\\([\\|])", r"\1", part).strip() for part in parts)
    return [label for label in labels if label]
