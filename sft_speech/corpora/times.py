"""Times in tables: which columns hold them, in which unit, and how they are written."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sft_speech.errors import UserError

logger = logging.getLogger(__name__)

ROLES = ("start", "end", "duration")
FACTORS = {"seconds": 1.0, "minutes": 60.0, "milliseconds": 1e-3, "microseconds": 1e-6, "nanoseconds": 1e-9}
UNKNOWN, SAMPLES = "unknown", "samples"  # units besides those of FACTORS: to be found out; of each file's own rate
_WORDS = {
    "seconds": "s sec secs second seconds",
    UNKNOWN: "",
    "milliseconds": "ms msec msecs millis millisecond milliseconds",
    "minutes": "min mins minute minutes",
    "microseconds": "us usec usecs microsecond microseconds",
    "nanoseconds": "ns nsec nsecs nanosecond nanoseconds",
    SAMPLES: "sample samples",
    "frames": "frame frames",  # of a length that no table gives
    "ticks": "tick ticks",
}
_UNITS = {word: unit for unit, words in _WORDS.items() for word in words.split()} | {None: UNKNOWN}
_STARTS, _ENDS = ("start", "begin", "onset", "tmin", "xmin"), ("end", "stop", "finish", "tmax", "xmax")
_NAME = re.compile(
    r"(?:(?:audio|segment|seg|utterance|utt|clip|chunk|speech|time|timestamp|t)_)?"
    rf"(?P<what>{'|'.join((*_STARTS, *_ENDS))}|offset|duration|dur|length|num(?=_[sf])|n(?=_[sf]))"
    r"(?:_?(?:time|timestamp|pos|position|point|offset))?"
    rf"(?:_(?:in_)?(?P<unit>{'|'.join(word for word in _UNITS if word)}))?"
)
# 1.5, 1.5 s, 350ms, 2:03.5, 1:02:03.500; a comma before the milliseconds, as in SRT
_WRITTEN = re.compile(r"(?:(?:(\d+):)?([0-5]?\d):)?(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|sec)?")
_FIT, _PACE = 0.9, (1, 60)  # share of segments within their files; characters per second that can be speech
_FAR = 10  # lengths of the file; further segments are not merely wrong, but in another unit


def spelled(name: str) -> str:
    """Return a column's name in lower case with underscores: ``Start Time (ms)`` -> ``start_time_ms``."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"\W+", "_", parted).strip("_").lower()


def unit_of(name: str) -> str:
    """Return the unit that the name of a column states, or else :data:`UNKNOWN`."""
    found = _NAME.fullmatch(spelled(name))
    return _UNITS[found["unit"]] if found else _UNITS.get(spelled(name).rpartition("_")[2], UNKNOWN)


def columns_of(role: str, seen: Sequence[str]) -> list[str]:
    """Return the columns that may hold the times of a role, of several units only those in the most convenient one."""
    if role in seen:
        return [role]
    whats = {name: found["what"] for name in seen if (found := _NAME.fullmatch(spelled(name)))}
    onset = "onset" in whats.values()  # beside it, an offset is the end
    starts, ends = (*_STARTS, *(() if onset else ("offset",))), (*_ENDS, *(("offset",) if onset else ()))
    wanted = {"start": starts, "end": ends, "duration": ("duration", "dur", "length", "num", "n")}[role]
    units = {name: unit_of(name) for name, what in whats.items() if what in wanted}
    best = min(units.values(), key=list(_WORDS).index, default=None)
    return [name for name, unit in units.items() if unit == best]


def common_unit(columns: Sequence[str], table: str) -> str:
    """Return the unit of the columns of a table's segments: :data:`UNKNOWN`, :data:`SAMPLES`, or seconds if each states
    a unit of time.

    Raises:
        UserError: frames or ticks, or units that do not go together.
    """
    units = {column: unit_of(column) for column in columns}
    for column, unit in units.items():
        if unit in ("frames", "ticks"):
            do = "write seconds, or rename the column if it counts samples (..._samples) or milliseconds (..._ms)"
            raise UserError(table, f"the column {column!r} counts {unit}, whose length is not known", do)
    kinds = {unit if unit in (UNKNOWN, SAMPLES) else "seconds" for unit in units.values()}
    if len(kinds) > 1:
        shown = " and ".join(f"{column} ({'no unit' if unit == UNKNOWN else unit})" for column, unit in units.items())
        do = "rename them so that each says its unit: ..._seconds, ..._ms, ..._samples"
        raise UserError(table, f"a segment's times are in columns of different units: {shown}", do)
    return kinds.pop() if kinds else "seconds"


def read_times(column: pa.Array, unit: str, decimal_comma: bool) -> tuple[np.ndarray, np.ndarray]:
    """Read times as they are written: numbers, or ``h:mm:ss.sss``.

    Args:
        column: strings.
        unit: of numbers; in :data:`UNKNOWN` and :data:`SAMPLES` they stay as they are.
        decimal_comma: whether 1,5 is one and a half.

    Returns:
        Seconds or samples (rows,), NaN for empty values, and a mask (rows,) of values that are not a time.
    """
    factor = FACTORS.get(unit, 1.0)
    try:
        numbers = pc.cast(pc.if_else(pc.equal(pc.utf8_trim_whitespace(column), ""), None, column), pa.float64())
        values = numbers.to_numpy(zero_copy_only=False) * factor
    except pa.ArrowInvalid:
        values = np.array([_read_time(value.strip(), factor, decimal_comma) for value in column.to_pylist()])
    wrong = np.isinf(values) | (values < 0)
    return values, wrong


def _read_time(value: str, factor: float, decimal_comma: bool) -> float:
    """Return seconds; infinity for what is not a time."""
    if not value:
        return float("nan")
    if value.count(",") == 1 and (decimal_comma or ":" in value):
        value = value.replace(",", ".")
    found = _WRITTEN.fullmatch(value)
    if found and (found[2] or found[4]):
        hours, minutes, seconds, unit = found.groups()
        return (int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(seconds)) * (1e-3 if unit == "ms" else 1)
    try:
        return float(value) * factor
    except ValueError:
        return float("inf")


def within_files(
    start: np.ndarray, end: np.ndarray, whole: np.ndarray, overhang: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends (rows,) of segments, NaN replaced by the file's, and a mask of the segments within their files.

    Args:
        start, end: seconds; NaN for the file's.
        whole: seconds of each row's file.
        overhang: seconds that a segment may reach past the end of its file.
    """
    start, end = np.where(np.isnan(start), 0.0, start), np.where(np.isnan(end), whole, end)
    return end, (start < end) & (end <= whole + overhang) & (start < whole)


def to_seconds(
    start: np.ndarray, end: np.ndarray, whole: np.ndarray, rate: np.ndarray, characters: np.ndarray, overhang: float
) -> tuple[np.ndarray, np.ndarray, str | None]:
    """Return the starts and ends of segments in seconds, if the unit is unknown, and what was found out about it.

    Times are taken for another unit only if most of them cannot be seconds, and if in this one unit alone the segments
    are within their files and the transcripts have the pace of speech. If the files are as long as their segments,
    they have been cut before, and the times are those in another file.

    Args:
        start, end: (rows,) as written; NaN for the file's.
        whole, rate: seconds of each row's file, and its samples per second; NaN seconds if it cannot be read.
        characters: of each row's transcript.
        overhang: seconds that a segment may reach past the end of its file.

    Raises:
        UserError: it can be one of several units.
    """
    rows = ~(np.isnan(start) & np.isnan(end)) & ~np.isnan(whole)
    fits = within_files(start, end, whole, overhang)[1][rows]
    if fits.all():
        return start, end, None
    misfits = f"as seconds, {np.count_nonzero(~fits):,} of {fits.size:,} segments are not within their files"
    cut = np.abs(end - start - whole)[rows] <= np.maximum(overhang, 0.02 * whole[rows])
    if cut.mean() >= 1 - (1 - _FIT) / 2:
        nothing = np.full(len(start), np.nan)
        return (
            nothing,
            nothing,
            f"files are as long as their segments: each is taken whole, start and end are ignored ({misfits})",
        )
    beyond = np.nanmax(np.stack([start, end])[:, rows], 0) / whole[rows]
    if fits.mean() >= 0.5 or np.median(beyond) < _FAR:
        return start, end, None
    possible = {}
    for unit, factor in (("milliseconds", np.full(len(rate), 1e-3)), (SAMPLES, 1 / rate)):
        first = np.where(np.isnan(start), 0.0, start) * factor
        last, inside = within_files(first, end * factor, whole, overhang)
        spoken = rows & inside & (characters > 0)
        pace = np.median(characters[spoken] / (last - first)[spoken]) if spoken.any() else _PACE[0]
        if inside[rows].mean() >= _FIT and _PACE[0] <= pace <= _PACE[1]:
            possible[unit] = factor
    if len(possible) > 1:
        do = "add the unit to the names of their columns, e.g. start_ms and end_ms, or start_samples and end_samples"
        raise UserError("start and end", f"{misfits}; they may be {' or '.join(possible)}", do)
    for unit, factor in possible.items():
        return start * factor, end * factor, f"start and end are read as {unit}: {misfits}"
    return start, end, None
