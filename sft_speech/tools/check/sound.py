"""What the recordings are like: each is decoded once, in threads, and nothing of it kept but some numbers."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sft_speech.audio.read import AudioError, decode, probe, samples_of
from sft_speech.corpora.headers import in_threads
from sft_speech.tools.check.findings import Case, Finding, as_dict, counted
from sft_speech.tools.check.rows import Rows

FULL_SCALE = 0.999  # of the largest sample: 16-bit files reach 0.99997, lossy ones a little less
CLIPPED_RUN = 3  # samples in a row at full scale: one or two may be a peak
CLIPPED_SHARE = 1e-3  # of a clip's samples
BLOCK_SECONDS = 0.02
SILENT_DB = 40.0  # below the clip's loudest block
SILENT_SHARE, SILENT_SECONDS = 0.5, 1.0  # of a clip, both
EDGE_SECONDS = 3.0
QUIET_DB = -50.0  # of full scale: 16-bit samples then hold less than 8 bits of speech
OFFSET = 0.02  # of full scale
CANCELLED_DB = 10.0  # by which the mean of the channels is quieter than they are; independent ones lose 3 dB
SHAPE = 32  # points of the course of the level, by which copies are looked for
RARE_RATE = 0.05  # of the clips; a rate (a number of channels) that so few have is a slip
_BLOCK = 16  # recordings that a thread takes at a time
_TINY = 1e-10  # -200 dB


class Measured(NamedTuple):
    """One recording.

    Args:
        rate, channels, kind: as in its header.
        seconds: of the clip.
        peak: of full scale, 0 to 1 (lossy files may exceed it).
        level: root mean square of what isn't silence, in dB of full scale.
        clipped: share of its samples that are at full scale, in runs of :data:`CLIPPED_RUN` or more.
        offset: mean of all samples, of full scale.
        silent: share of its blocks that are silent; ``leading``, ``trailing``: seconds of silence at its ends.
        cancelled: dB by which the mean of the channels is quieter than they are.
        digest: of its samples in 16 bits, one channel, silence of zeros at both ends aside.
        sounding: seconds from the first block that isn't silent to the last.
        shape: (:data:`SHAPE`,) the course of the level within that time, its mean taken off, of length 1.
    """

    rate: int
    channels: int
    kind: str
    seconds: float
    peak: float
    level: float
    clipped: float
    offset: float
    silent: float
    leading: float
    trailing: float
    cancelled: float
    digest: bytes
    sounding: float
    shape: np.ndarray


def measure(samples: np.ndarray, rate: int, kind: str = "") -> Measured:
    """Measures a clip (S, C): S samples, C channels."""
    mono = samples.mean(axis=1, dtype=np.float32) if samples.shape[1] > 1 else samples[:, 0]
    size = max(1, samples_of(BLOCK_SECONDS, rate))
    whole = len(mono) // size * size
    blocks = np.square(mono[:whole].reshape(-1, size)).mean(axis=1) if whole else np.square(mono).mean(keepdims=True)
    loud = blocks > blocks.max() * 10 ** (-SILENT_DB / 10)
    sounding = np.flatnonzero(loud)
    first, last = (sounding[0], sounding[-1]) if len(sounding) else (len(blocks), -1)
    within = blocks[first : last + 1]
    power = float(np.square(mono).mean())
    each = float(np.square(samples).mean())
    peak = float(np.abs(samples).max())
    steps = np.rint(mono * 32768).astype("<i4")
    return Measured(
        rate=rate,
        channels=samples.shape[1],
        kind=kind,
        seconds=len(mono) / rate,
        peak=peak,
        level=_decibels(float(blocks[loud].mean()) if len(sounding) else power),
        clipped=_clipped(samples) if peak >= FULL_SCALE else 0.0,
        offset=float(mono.mean()),
        silent=1 - len(sounding) / len(blocks),
        leading=float(first * size / rate),
        trailing=float((len(blocks) - 1 - last) * size / rate),
        cancelled=_decibels(each) - _decibels(power) if samples.shape[1] > 1 else 0.0,
        digest=hashlib.blake2b(np.trim_zeros(steps).tobytes(), digest_size=16).digest(),
        sounding=len(within) * size / rate,
        shape=_shape(within, float(blocks.max())),
    )


def _shape(blocks: np.ndarray, loudest: float) -> np.ndarray:
    """The course of the level over blocks (N,) of power, whatever the level itself is: (:data:`SHAPE`,)."""
    if not len(blocks):
        return np.zeros(SHAPE, np.float32)
    levels = 10 * np.log10(np.maximum(blocks / max(loudest, _TINY**2), 10 ** (-SILENT_DB / 10)))
    course = np.interp(np.linspace(0, len(levels) - 1, 4 * SHAPE), np.arange(len(levels)), levels)
    course = course.reshape(SHAPE, 4).mean(axis=1)
    course -= course.mean()
    return (course / max(float(np.linalg.norm(course)), 1e-9)).astype(np.float32)


def _decibels(power: float) -> float:
    return float(10 * np.log10(power + _TINY**2))


def _clipped(samples: np.ndarray) -> float:
    """Share of the samples (S, C) in runs at full scale; the channel where it is largest."""
    shares = []
    for channel in samples.T:
        edges = np.flatnonzero(np.diff(np.abs(channel) >= FULL_SCALE, prepend=False, append=False))
        lengths = edges[1::2] - edges[::2]
        shares.append(lengths[lengths >= CLIPPED_RUN].sum() / len(channel))
    return float(max(shares))


@dataclass
class Sound:
    """The recordings that were decoded.

    Args:
        rows: (N,) their numbers among all rows.
        measured: N of them.
        failed: (row, why) of those that can't be decoded after all.
        share: of the hours of the corpus that were to be decoded; below 1 it is a sample.
    """

    rows: np.ndarray
    measured: list[Measured]
    failed: list[tuple[int, str]]
    share: float

    def column(self, name: str) -> np.ndarray:
        """(N,) one of the measures of all."""
        return np.array([getattr(one, name) for one in self.measured])


def chosen(rows: Rows, max_hours: float) -> np.ndarray:
    """The rows to decode: all, or as many as make up ``max_hours``, drawn by a fixed seed."""
    if rows.seconds.sum() <= max_hours * 3600:
        return np.arange(len(rows))
    order = np.random.default_rng(0).permutation(len(rows))
    return np.sort(order[np.cumsum(rows.seconds[order]) <= max_hours * 3600])


def listen(rows: Rows, picked: np.ndarray) -> Sound:
    """Decodes and measures rows; in threads, with a progress bar, a few recordings in memory at a time."""

    def work(numbers: Sequence[int]) -> list[Measured | str]:
        return [_listen(rows.row(number)) for number in numbers]

    blocks = in_threads(work, picked.tolist(), "Decoding audio", _BLOCK)
    results = [result for block in blocks for result in block]
    failed = [(int(row), result) for row, result in zip(picked, results, strict=True) if isinstance(result, str)]
    whole = [not isinstance(result, str) for result in results]
    measured = [result for result in results if not isinstance(result, str)]
    share = float(rows.seconds[picked].sum() / max(rows.seconds.sum(), 1e-9))
    return Sound(picked[np.array(whole, bool)], measured, failed, share)


def _listen(row: dict[str, Any]) -> Measured | str:
    try:
        kind = probe(row["audio"]).kind
        samples, rate = decode(row["audio"], row["start"], row["seconds"] if row["start"] is not None else None)
    except AudioError as error:
        return f"{error.reason}: {error}"
    if not np.isfinite(samples).all():
        return "not finite: it holds NaN or infinite samples"
    return measure(samples, rate, kind)


def section(sound: Sound) -> dict[str, Any]:
    """The part ``audio`` of the report."""
    seconds = sound.column("seconds")
    whole = max(seconds.sum(), 1e-9)
    rates, channels = Counter(sound.column("rate").tolist()), Counter(sound.column("channels").tolist())
    kinds = as_dict(Counter(one.kind or "read by FFmpeg" for one in sound.measured))
    sample = "" if sound.share == 1 else f", a sample of {sound.share:.1%} of the hours"
    told = [f"{count:,} at {rate:,} Hz" for rate, count in rates.most_common()]
    told += [f"{count:,} of {counted(number, 'channel')}" for number, count in channels.most_common()]
    told += [f"{count:,} {kind}" for kind, count in kinds.items()]
    said = f"{counted(len(sound.rows), 'utterance')}, {seconds.sum() / 3600:.2f} h{sample}: {', '.join(told)}"
    return {
        "said": said,
        "utterances": len(sound.rows),
        "hours": float(seconds.sum() / 3600),
        "share": sound.share,
        "rates": as_dict(Counter(map(str, rates.elements()))),
        "channels": as_dict(Counter(map(str, channels.elements()))),
        "kinds": kinds,
        "level": quantiles(sound.column("level")),
        "peak": quantiles(20 * np.log10(np.maximum(sound.column("peak"), 1e-5))),
        "silence_share": float((sound.column("silent") * seconds).sum() / whole),
        "clipped_share": float((sound.column("clipped") * seconds).sum() / whole),
    }


def quantiles(values: np.ndarray) -> dict[str, float | None]:
    """Least, 5 %, median, 95 %, most; None of nothing."""
    places = {"min": 0.0, "q05": 0.05, "median": 0.5, "q95": 0.95, "max": 1.0}
    return {name: float(np.quantile(values, place)) if len(values) else None for name, place in places.items()}


def findings(rows: Rows, sound: Sound, rate: int) -> list[Finding]:
    """What is odd about the recordings.

    Args:
        rate: samples per second that the model takes.
    """
    found = [_undecodable(rows, sound), *_loudness(rows, sound), *_silence(rows, sound)]
    found += [*_channels(rows, sound), *_rates(rows, sound, rate)]
    return [finding for finding in found if finding is not None]


def _cases(rows: Rows, sound: Sound, where: np.ndarray, worst: np.ndarray, form: Any) -> list[Case]:
    """Those of a mask (N,), by falling ``worst`` (N,); ``form(measured)`` tells what is special."""
    order = [place for place in np.argsort(-worst, kind="stable") if where[place]]
    numbers = sound.rows[order].tolist()
    told = [form(sound.measured[place]) for place in order]
    return [Case(rows.name(row), rows.ids[row], detail, row) for row, detail in zip(numbers, told, strict=True)]


def _undecodable(rows: Rows, sound: Sound) -> Finding | None:
    if not sound.failed:
        return None
    return Finding(
        "undecodable_audio",
        "problem",
        f"{counted(len(sound.failed), 'recording')} can't be decoded to the end, though the header is fine",
        "decoded once, from beginning to end",
        "copy or encode them anew; training would leave them out of their batches",
        [Case(rows.name(row), rows.ids[row], why, row) for row, why in sound.failed],
    )


def _loudness(rows: Rows, sound: Sound) -> list[Finding]:
    found = []
    clipped, level, offset = (sound.column(name) for name in ("clipped", "level", "offset"))
    if (where := clipped > CLIPPED_SHARE).any():
        cases = _cases(rows, sound, where, clipped, lambda one: f"{one.clipped:.2%} of its samples")
        title = f"{counted(len(cases), 'recording')} clipped: the microphone or a gain was too loud"
        rule = f"more than {CLIPPED_SHARE:.1%} of the samples at full scale, in runs of {CLIPPED_RUN} or more"
        do = "listen; take the original if there is one at a lower gain, leave out what can't be understood"
        found.append(Finding("clipping", "warning", title, rule, do, cases, heard=True))
    if (where := level < QUIET_DB).any():
        cases = _cases(rows, sound, where, -level, lambda one: f"{one.level:.0f} dB")
        title = f"{counted(len(cases), 'recording')} so quiet that little but noise may be left"
        rule = f"what isn't silence is below {QUIET_DB:.0f} dB of full scale (root mean square)"
        do = "listen; models that normalize cope with the level, not with what noise has covered"
        found.append(Finding("quiet", "warning", title, rule, do, cases, heard=True))
    if (where := np.abs(offset) > OFFSET).any():
        cases = _cases(rows, sound, where, np.abs(offset), lambda one: f"{one.offset:+.3f}")
        title = f"{counted(len(cases), 'recording')} with an offset: the samples aren't around 0"
        rule = f"their mean is more than {OFFSET:.0%} of full scale away from 0"
        do = "subtract the mean; models that normalize do so themselves"
        found.append(Finding("dc_offset", "note", title, rule, do, cases))
    return found


def _silence(rows: Rows, sound: Sound) -> list[Finding]:
    found = []
    silent, seconds = sound.column("silent"), sound.column("seconds")
    mostly = (silent >= SILENT_SHARE) & (silent * seconds >= SILENT_SECONDS)
    rule = f"blocks of 20 ms that are {SILENT_DB:.0f} dB below the clip's loudest one are silent"
    if mostly.any():
        form = lambda one: f"{one.silent:.0%} of {one.seconds:.1f} s"  # noqa: E731
        cases = _cases(rows, sound, mostly, silent, form)
        title = f"{counted(len(cases), 'recording')} mostly of silence"
        rule_of_both = f"{rule}; at least {SILENT_SHARE:.0%} of the clip and {SILENT_SECONDS:g} s"
        do = "listen: cut the silence, or find the speech that is missing"
        found.append(Finding("mostly_silence", "warning", title, rule_of_both, do, cases, heard=True))
    edges = np.maximum(sound.column("leading"), sound.column("trailing"))
    if (where := (edges >= EDGE_SECONDS) & ~mostly).any():
        form = lambda one: f"{one.leading:.1f} s before, {one.trailing:.1f} s after"  # noqa: E731
        cases = _cases(rows, sound, where, edges, form)
        title = f"{counted(len(cases), 'recording')} with long silence at an end"
        do = "cut it off: it costs memory and time and teaches nothing"
        found.append(Finding("silent_ends", "note", title, f"{rule}; {EDGE_SECONDS:g} s or more", do, cases, True))
    return found


def _channels(rows: Rows, sound: Sound) -> list[Finding]:
    found = []
    channels, cancelled = sound.column("channels"), sound.column("cancelled")
    if (where := cancelled > CANCELLED_DB).any():
        cases = _cases(rows, sound, where, cancelled, lambda one: f"{one.cancelled:.0f} dB are lost")
        title = f"{counted(len(cases), 'recording')} whose channels cancel each other"
        rule = f"their mean, which is what models are given, is more than {CANCELLED_DB:.0f} dB quieter than they are"
        do = "one channel is upside down: keep one of them, or turn it"
        found.append(Finding("cancelling_channels", "problem", title, rule, do, cases, heard=True))
    if (where := channels > 1).any():
        rare = where.mean() <= RARE_RATE
        cases = _cases(rows, sound, where, channels, lambda one: f"{one.channels} channels")
        title = f"{counted(len(cases), 'recording')} of {len(channels):,} with more than one channel"
        do = "their mean is taken; where each speaker has a channel, part them before"
        rule = "as the headers say" + (f"; a warning where at most {RARE_RATE:.0%} are so" if rare else "")
        found.append(Finding("channels", "warning" if rare else "note", title, rule, do, cases))
    return found


def _rates(rows: Rows, sound: Sound, wanted: int) -> list[Finding]:
    found = []
    rates = sound.column("rate")
    counts = Counter(rates.tolist()).most_common()
    rare = np.isin(rates, [rate for rate, count in counts[1:] if count <= RARE_RATE * len(rates)])
    if rare.any():
        cases = _cases(rows, sound, rare, -rates, lambda one: f"{one.rate} Hz")
        title = f"{counted(len(cases), 'recording')} at another rate than the others ({counts[0][0]} Hz)"
        rule = f"a rate that at most {RARE_RATE:.0%} of the clips have"
        do = "listen: a wrong rate in the header makes speech slow or fast; a right one is resampled as it is read"
        found.append(Finding("rare_rate", "warning", title, rule, do, cases, heard=True))
    low = int((rates < wanted).sum())
    if low:
        title = f"{counted(low, 'recording')} below the {wanted} Hz of the model"
        do = "they are resampled as they are read; what they lack above half their rate can't come back"
        found.append(Finding("low_rate", "note", title, "as the headers say", do))
    return found
