"""Findings about copies of recordings at another level, another rate or in another format.

Copies have the same length and the same level over time, which are measured for every recording. Only pairs that agree
in both are compared sample by sample: two readings of a sentence are never that similar.
"""

from __future__ import annotations

import logging

import numpy as np

from sft_speech.audio.read import AudioError, read
from sft_speech.tools.check.findings import Finding, finding
from sft_speech.tools.check.rows import Rows
from sft_speech.tools.check.sound import Recordings

logger = logging.getLogger(__name__)

SHORTEST_SECONDS = 1.0  # of sound; too many shorter clips are similar
SLACK_SECONDS = 0.06  # difference in length: three blocks
SIMILAR = 0.97  # correlation of the envelopes
SAME = 0.9  # correlation of the samples at the best shift
RATE = 8000  # samples per second, for the comparison
MOST_NEIGHBORS = 300  # comparisons per recording, for corpora with many equal lengths
MOST_PAIRS = 2000  # compared sample by sample


def findings(rows: Rows, recordings: Recordings) -> list[Finding]:
    """Return findings about copies whose samples differ; the digests find copies with equal samples."""
    pairs = candidates(recordings)
    if len(pairs) > MOST_PAIRS:
        logger.info("%d pairs of recordings are similar; the first %d are compared", len(pairs), MOST_PAIRS)
    same = [(int(recordings.rows[a]), int(recordings.rows[b])) for a, b in pairs[:MOST_PAIRS]]
    same = [pair for pair in same if _overlap(rows, *pair) > SAME]
    same = [(b, a) if rows.training[b] and not rows.training[a] else (a, b) for a, b in same]
    leaks = [pair for pair in same if rows.training[pair[0]] != rows.training[pair[1]]]
    pairs = [*leaks, *(pair for pair in same if pair not in leaks)]
    cases = [
        case._replace(detail=f"a copy of {rows.name(original)} {rows.ids[original]}")
        for (original, _), case in zip(pairs, rows.cases(copy for _, copy in pairs), strict=True)
    ]
    across = f", {len(leaks):,} of them across training and evaluation data" if leaks else ""
    what = f"copied from another{across}"
    rule = f"at another level, rate or in another format; samples correlate above {SAME:g} at the best shift"
    do = "remove them from one of the splits" if leaks else "leave the copies out, or keep them on purpose"
    return finding("alike_audio", "problem" if leaks else "warning", cases, "recording", what, rule, do, listen=True)


def candidates(recordings: Recordings) -> list[tuple[int, int]]:
    """Return pairs of indices of recordings whose lengths and envelopes agree, but not their samples."""
    active = recordings.column("active_seconds")
    long = np.flatnonzero(active >= SHORTEST_SECONDS)
    if len(long) < 2:
        return []
    places = long[np.argsort(active[long], kind="stable")]
    lengths = active[places]
    envelopes = np.stack([recordings.measured[place].envelope for place in places])
    found: list[tuple[int, int]] = []
    for step in range(1, min(len(places), MOST_NEIGHBORS + 1)):
        near = lengths[step:] - lengths[:-step] <= SLACK_SECONDS
        if not near.any():
            break
        first = np.flatnonzero(near)
        similar = first[(envelopes[first] * envelopes[first + step]).sum(axis=1) > SIMILAR]
        found += [(int(places[place]), int(places[place + step])) for place in similar]
    digests = [one.digest for one in recordings.measured]
    return [(min(pair), max(pair)) for pair in found if digests[pair[0]] != digests[pair[1]]]


def _overlap(rows: Rows, one: int, other: int) -> float:
    """Return the absolute correlation (0 to 1) of two recordings of any level, at the shift where it is largest."""
    from scipy.signal import correlate

    clips = []
    for number in (one, other):
        row = rows.row(number)
        try:
            clip = read(
                row["audio"],
                RATE,
                row["start"],
                row["seconds"] if row["start"] is not None else None,
                row.get("channel"),
            )
        except AudioError:
            return 0.0
        clips.append(clip - clip.mean())
    scale = float(np.linalg.norm(clips[0]) * np.linalg.norm(clips[1]))
    return float(np.abs(correlate(*clips, method="fft")).max()) / max(scale, 1e-9)
