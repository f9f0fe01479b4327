"""Recordings that are copies of each other at another level, rate or in another format.

Copies have the same length and course of level, which every recording was measured for; the few pairs that are alike in
both are then laid over each other, sample by sample. Two people, or one of them twice, never say a sentence alike to
the sample.
"""

from __future__ import annotations

import logging

import numpy as np

from sft_speech.audio.read import AudioError, read
from sft_speech.tools.check.findings import Case, Finding, counted
from sft_speech.tools.check.rows import Rows
from sft_speech.tools.check.sound import Sound

logger = logging.getLogger(__name__)

SHORTEST = 1.0  # seconds of sound; shorter clips are alike too often to be looked at one by one
SLACK = 0.06  # seconds by which lengths may differ: three blocks
ALIKE = 0.97  # correlation of the courses of level
SAME = 0.9  # correlation of the samples at the best shift
RATE = 8000  # samples per second at which they are compared
MOST_NEIGHBORS = (
    300  # of nearly the same length that a recording is compared with: of equal ones not all pairs are tried
)
MOST_PAIRS = 2000  # that are laid over each other


def findings(rows: Rows, sound: Sound) -> list[Finding]:
    """Copies that aren't the same to the sample, which are found by their digests."""
    pairs = candidates(sound)
    if len(pairs) > MOST_PAIRS:
        logger.info("%d pairs of recordings are alike, the first %d are compared", len(pairs), MOST_PAIRS)
    same = [(int(sound.rows[a]), int(sound.rows[b])) for a, b in pairs[:MOST_PAIRS]]
    same = [pair for pair in same if _overlap(rows, *pair) > SAME]
    if not same:
        return []
    same = [(b, a) if rows.training[b] and not rows.training[a] else (a, b) for a, b in same]
    leaks = [pair for pair in same if rows.training[pair[0]] != rows.training[pair[1]]]
    cases = [
        Case(rows.name(other), rows.ids[other], f"a copy of {rows.name(one)} {rows.ids[one]}", other)
        for one, other in [*leaks, *(pair for pair in same if pair not in leaks)]
    ]
    across = f", {len(leaks):,} of them both trained and tested on" if leaks else ""
    title = f"{counted(len(cases), 'recording')} that {'is a copy' if len(cases) == 1 else 'are copies'} of another one"
    rule = f"at another level, rate or in another format; samples correlate above {SAME:g} at the best shift"
    do = "take them out of one of the splits" if leaks else "leave the copies out, or keep them on purpose"
    return [Finding("alike_audio", "problem" if leaks else "warning", title + across, rule, do, cases, heard=True)]


def candidates(sound: Sound) -> list[tuple[int, int]]:
    """Pairs of places among the recordings whose length and course of level are alike, their samples not the same."""
    long = np.flatnonzero(sound.column("sounding") >= SHORTEST)
    if len(long) < 2:
        return []
    lengths = sound.column("sounding")[long]
    order = np.argsort(lengths, kind="stable")
    places, lengths = long[order], lengths[order]
    shapes = np.stack([sound.measured[place].shape for place in places])
    found: list[tuple[int, int]] = []
    for step in range(1, min(len(places), MOST_NEIGHBORS + 1)):
        near = lengths[step:] - lengths[:-step] <= SLACK
        if not near.any():
            break
        first = np.flatnonzero(near)
        close = first[(shapes[first] * shapes[first + step]).sum(axis=1) > ALIKE]
        found += [(int(places[place]), int(places[place + step])) for place in close]
    digests = [one.digest for one in sound.measured]
    return [(min(pair), max(pair)) for pair in found if digests[pair[0]] != digests[pair[1]]]


def _overlap(rows: Rows, one: int, other: int) -> float:
    """Correlation (0 to 1) of two recordings, whatever their level and sign, at the shift where it is largest."""
    from scipy.signal import correlate

    clips = []
    for number in (one, other):
        row = rows.row(number)
        try:
            clip = read(row["audio"], RATE, row["start"], row["seconds"] if row["start"] is not None else None)
        except AudioError:
            return 0.0
        clips.append(clip - clip.mean())
    scale = float(np.linalg.norm(clips[0]) * np.linalg.norm(clips[1]))
    return float(np.abs(correlate(*clips, method="fft")).max()) / max(scale, 1e-9)
