"""Findings about recordings: each is decoded once, in threads, and only its measurements are kept."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sft_speech.audio.channels import differ, one_channel
from sft_speech.audio.read import AudioError, decode, probe
from sft_speech.audio.units import samples_of
from sft_speech.corpora.headers import in_threads
from sft_speech.text.counted import counted
from sft_speech.tools.check.findings import Case, Finding, as_dict, finding
from sft_speech.tools.check.rows import Rows

FULL_SCALE = 0.999  # of the largest sample: 16-bit files reach 0.99997, lossy ones a little less
CLIPPED_RUN = 3  # consecutive samples at full scale; one or two may be a peak
CLIPPED_SHARE = 1e-3  # of a clip's samples
BLOCK_SECONDS = 0.02
SILENT_DB = 40.0  # below the clip's loudest block
SILENT_SHARE, SILENT_SECONDS = 0.5, 1.0  # of a clip; both must be reached
EDGE_SECONDS = 3.0
QUIET_DB = -50.0  # relative to full scale: less than 8 of 16 bits hold speech
OFFSET = 0.02  # of full scale
CANCELLED_DB = 10.0  # loss of level in the mean of the channels; two independent channels lose 3 dB
ENVELOPE_POINTS = 32
RARE_SHARE = 0.05  # of the clips; a rarer rate or number of channels is likely a mistake
_BLOCK = 16  # recordings per task of a thread
_TINY = 1e-10  # -200 dB


class Measurement(NamedTuple):
    """The measurements of one recording.

    Args:
        rate, channels, kind: from its header.
        seconds: length of the clip.
        peak: relative to full scale, 0 to 1 (lossy files may exceed it).
        level_db: root mean square of the blocks that are not silent, in dB relative to full scale.
        clipped_share: share of its samples at full scale, in runs of :data:`CLIPPED_RUN` or more.
        offset: mean of all samples, relative to full scale.
        silent_share: share of its blocks that are silent.
        leading_seconds, trailing_seconds: silence at its ends.
        cancelled_db: loss of level in the mean of the channels.
        differs: whether its channels hold different sounds.
        digest: hash of its samples in 16 bits and one channel, without zeros at both ends.
        active_seconds: time from the first to the last block that is not silent.
        envelope: (:data:`ENVELOPE_POINTS`,) level over that time, with mean 0 and Euclidean norm 1.
    """

    rate: int
    channels: int
    kind: str
    seconds: float
    peak: float
    level_db: float
    clipped_share: float
    offset: float
    silent_share: float
    leading_seconds: float
    trailing_seconds: float
    cancelled_db: float
    differs: bool
    digest: bytes
    active_seconds: float
    envelope: np.ndarray


def measure(samples: np.ndarray, rate: int, kind: str = "") -> Measurement:
    """Measure a clip (S, C): S samples, C channels."""
    mean = samples.mean(axis=1, dtype=np.float32) if samples.shape[1] > 1 else samples[:, 0]
    mono = one_channel(samples)
    size = max(1, samples_of(BLOCK_SECONDS, rate))
    whole = len(mono) // size * size
    blocks = np.square(mono[:whole].reshape(-1, size)).mean(axis=1) if whole else np.square(mono).mean(keepdims=True)
    loud = blocks > blocks.max() * 10 ** (-SILENT_DB / 10)
    active = np.flatnonzero(loud)
    first, last = (active[0], active[-1]) if len(active) else (len(blocks), -1)
    power = float(np.square(mono).mean())
    peak = float(np.abs(samples).max())
    steps = np.rint(mono * 32768).astype("<i4")
    return Measurement(
        rate=rate,
        channels=samples.shape[1],
        kind=kind,
        seconds=len(mono) / rate,
        peak=peak,
        level_db=_decibels(float(blocks[loud].mean()) if len(active) else power),
        clipped_share=_clipped(samples) if peak >= FULL_SCALE else 0.0,
        offset=float(mono.mean()),
        silent_share=1 - len(active) / len(blocks),
        leading_seconds=float(first * size / rate),
        trailing_seconds=float((len(blocks) - 1 - last) * size / rate),
        cancelled_db=_decibels(float(np.square(samples).mean())) - _decibels(float(np.square(mean).mean()))
        if samples.shape[1] > 1
        else 0.0,
        differs=differ(samples),
        digest=hashlib.blake2b(np.trim_zeros(steps).tobytes(), digest_size=16).digest(),
        active_seconds=max(0, last + 1 - first) * size / rate,
        envelope=_envelope(blocks[first : last + 1], float(blocks.max())),
    )


def _envelope(blocks: np.ndarray, loudest: float) -> np.ndarray:
    """Return the level (:data:`ENVELOPE_POINTS`,) over N blocks of power, independent of the clip's loudness."""
    if not len(blocks):
        return np.zeros(ENVELOPE_POINTS, np.float32)
    levels = 10 * np.log10(np.maximum(blocks / max(loudest, _TINY**2), 10 ** (-SILENT_DB / 10)))
    course = np.interp(np.linspace(0, len(levels) - 1, 4 * ENVELOPE_POINTS), np.arange(len(levels)), levels)
    course = course.reshape(ENVELOPE_POINTS, 4).mean(axis=1)
    course -= course.mean()
    return (course / max(float(np.linalg.norm(course)), 1e-9)).astype(np.float32)


def _decibels(power: float) -> float:
    return float(10 * np.log10(power + _TINY**2))


def _clipped(samples: np.ndarray) -> float:
    """Return the share of samples (S, C) in runs at full scale, for the channel with the largest share."""
    shares = []
    for channel in samples.T:
        edges = np.flatnonzero(np.diff(np.abs(channel) >= FULL_SCALE, prepend=False, append=False))
        lengths = edges[1::2] - edges[::2]
        shares.append(lengths[lengths >= CLIPPED_RUN].sum() / len(channel))
    return float(max(shares))


@dataclass
class Recordings:
    """The decoded recordings.

    Args:
        rows: (N,) row numbers.
        measured: N measurements.
        failed: (row, reason) of recordings that cannot be decoded, although their headers are fine.
        share: decoded share of the hours of the corpus; below 1, a sample.
    """

    rows: np.ndarray
    measured: list[Measurement]
    failed: list[tuple[int, str]]
    share: float

    def column(self, name: str) -> np.ndarray:
        """Return one measurement of all recordings (N,)."""
        return np.array([getattr(one, name) for one in self.measured])

    def cases(
        self, rows: Rows, where: np.ndarray, badness: np.ndarray, detail: Callable[[Measurement], str]
    ) -> list[Case]:
        """Return cases for the mask ``where`` (N,), in descending order of ``badness`` (N,)."""
        places = [place for place in np.argsort(-badness, kind="stable") if where[place]]
        by_row = {int(self.rows[place]): self.measured[place] for place in places}
        return rows.cases(by_row, lambda row: detail(by_row[row]))


def sample(rows: Rows, max_hours: float) -> np.ndarray:
    """Return the numbers of the rows to decode: all, or a random sample of ``max_hours`` with a fixed seed."""
    if rows.seconds.sum() <= max_hours * 3600:
        return np.arange(len(rows))
    order = np.random.default_rng(0).permutation(len(rows))
    return np.sort(order[np.cumsum(rows.seconds[order]) <= max_hours * 3600])


def measure_rows(rows: Rows, picked: np.ndarray) -> Recordings:
    """Decode and measure rows in threads, with a progress bar, and only a few recordings in memory."""

    def work(numbers: Sequence[int]) -> list[Measurement | str]:
        return [_measure_row(rows.row(number)) for number in numbers]

    blocks = in_threads(work, picked.tolist(), "Decoding audio", _BLOCK)
    results = [result for block in blocks for result in block]
    failed = [(int(row), result) for row, result in zip(picked, results, strict=True) if isinstance(result, str)]
    decoded = [not isinstance(result, str) for result in results]
    measured = [result for result in results if not isinstance(result, str)]
    share = float(rows.seconds[picked].sum() / max(rows.seconds.sum(), 1e-9))
    return Recordings(picked[np.array(decoded, bool)], measured, failed, share)


def _measure_row(row: dict[str, Any]) -> Measurement | str:
    try:
        kind = probe(row["audio"]).kind
        samples, rate = decode(row["audio"], row["start"], row["seconds"] if row["start"] is not None else None)
    except AudioError as error:
        return f"{error.reason}: {error}"
    if not np.isfinite(samples).all():
        return "not finite: NaN or infinite samples"
    channel = row.get("channel")
    return measure(samples if channel is None else samples[:, channel : channel + 1], rate, kind)


def section(recordings: Recordings) -> dict[str, Any]:
    """Return the section ``audio`` of the report."""
    seconds = recordings.column("seconds")
    total = max(seconds.sum(), 1e-9)
    rates, channels = Counter(recordings.column("rate").tolist()), Counter(recordings.column("channels").tolist())
    kinds = as_dict(Counter(one.kind or "decoded by FFmpeg" for one in recordings.measured))
    share = "" if recordings.share == 1 else f", a sample of {recordings.share:.1%} of the hours"
    parts = [f"{count:,} at {rate:,} Hz" for rate, count in rates.most_common()]
    parts += [f"{count:,} of {counted(number, 'channel')}" for number, count in channels.most_common()]
    parts += [f"{count:,} {kind}" for kind, count in kinds.items()]
    summary = f"{counted(len(recordings.rows), 'utterance')}, {seconds.sum() / 3600:.2f} h{share}: {', '.join(parts)}"
    return {
        "said": summary,
        "utterances": len(recordings.rows),
        "hours": float(seconds.sum() / 3600),
        "share": recordings.share,
        "rates": as_dict(Counter(map(str, rates.elements()))),
        "channels": as_dict(Counter(map(str, channels.elements()))),
        "kinds": kinds,
        "level": quantiles(recordings.column("level_db")),
        "peak": quantiles(20 * np.log10(np.maximum(recordings.column("peak"), 1e-5))),
        "silence_share": float((recordings.column("silent_share") * seconds).sum() / total),
        "clipped_share": float((recordings.column("clipped_share") * seconds).sum() / total),
    }


def quantiles(values: np.ndarray) -> dict[str, float | None]:
    """Return the minimum, 5 % quantile, median, 95 % quantile and maximum; all None if there are no values."""
    places = {"min": 0.0, "q05": 0.05, "median": 0.5, "q95": 0.95, "max": 1.0}
    return {name: float(np.quantile(values, place)) if len(values) else None for name, place in places.items()}


def findings(rows: Rows, recordings: Recordings, rate: int) -> list[Finding]:
    """Return findings about the recordings.

    Args:
        rate: sampling rate of the model's input.
    """
    failed = dict(recordings.failed)
    cases = rows.cases(failed, failed.__getitem__)
    what = "that cannot be decoded to the end, although the header is fine"
    rule = "decoded once, from beginning to end"
    do = "copy or encode them again; training leaves them out of their batches"
    found = finding("undecodable_audio", "problem", cases, "recording", what, rule, do)
    return [
        *found,
        *_loudness(rows, recordings),
        *_silence(rows, recordings),
        *_channels(rows, recordings),
        *_rates(rows, recordings, rate),
    ]


def _loudness(rows: Rows, recordings: Recordings) -> list[Finding]:
    clipped, level, offset = (recordings.column(name) for name in ("clipped_share", "level_db", "offset"))
    is_clipped, is_quiet, is_offset = clipped > CLIPPED_SHARE, level < QUIET_DB, np.abs(offset) > OFFSET
    cases = recordings.cases(rows, is_clipped, clipped, lambda one: f"{one.clipped_share:.2%} of its samples")
    what = "clipped: the microphone or a gain was too loud"
    rule = f"more than {CLIPPED_SHARE:.1%} of the samples at full scale, in runs of {CLIPPED_RUN} or more"
    do = "listen; use an original at a lower gain if there is one, leave out what cannot be understood"
    found = finding("clipping", "warning", cases, "recording", what, rule, do, listen=True)

    cases = recordings.cases(rows, is_quiet, -level, lambda one: f"{one.level_db:.0f} dB")
    what = "so quiet that only noise may be left"
    rule = f"the root mean square without silence is below {QUIET_DB:.0f} dB relative to full scale"
    do = "listen; models that normalize their input correct the level, but not the noise"
    found += finding("quiet", "warning", cases, "recording", what, rule, do, listen=True)

    cases = recordings.cases(rows, is_offset, np.abs(offset), lambda one: f"{one.offset:+.3f}")
    what = "with an offset: the samples are not centered at 0"
    rule = f"their mean is more than {OFFSET:.0%} of full scale away from 0"
    do = "subtract the mean; models that normalize their input do this themselves"
    found += finding("dc_offset", "note", cases, "recording", what, rule, do)
    return found


def _silence(rows: Rows, recordings: Recordings) -> list[Finding]:
    silent, seconds = recordings.column("silent_share"), recordings.column("seconds")
    mostly = (silent >= SILENT_SHARE) & (silent * seconds >= SILENT_SECONDS)
    edges = np.maximum(recordings.column("leading_seconds"), recordings.column("trailing_seconds"))
    silence = f"blocks of 20 ms that are {SILENT_DB:.0f} dB below the loudest one of the clip are silent"

    def ends(one: Measurement) -> str:
        return f"{one.leading_seconds:.1f} s before, {one.trailing_seconds:.1f} s after"

    cases = recordings.cases(rows, mostly, silent, lambda one: f"{one.silent_share:.0%} of {one.seconds:.1f} s")
    what = "with more silence than speech"
    rule = f"{silence}; at least {SILENT_SHARE:.0%} of the clip and {SILENT_SECONDS:g} s"
    do = "listen: cut the silence, or find the speech that is missing"
    found = finding("mostly_silence", "warning", cases, "recording", what, rule, do, listen=True)

    cases = recordings.cases(rows, (edges >= EDGE_SECONDS) & ~mostly, edges, ends)
    rule = f"{silence}; {EDGE_SECONDS:g} s or more"
    do = "cut it off: it costs memory and time and teaches nothing"
    found += finding("silent_ends", "note", cases, "recording", "with long silence at an end", rule, do, listen=True)
    return found


def _channels(rows: Rows, recordings: Recordings) -> list[Finding]:
    channels, cancelled = recordings.column("channels"), recordings.column("cancelled_db")
    several = channels > 1
    rare = several.mean() <= RARE_SHARE
    cases = recordings.cases(rows, cancelled > CANCELLED_DB, cancelled, lambda one: f"{one.cancelled_db:.0f} dB lost")
    what = "with channels that cancel each other"
    rule = f"their mean, of which models would hear nothing, is more than {CANCELLED_DB:.0f} dB quieter than they are"
    do = "one channel is inverted: the louder one is used; keep only one channel, or invert it"
    found = finding("cancelling_channels", "problem", cases, "recording", what, rule, do, listen=True)

    differs = recordings.column("differs") & (cancelled <= CANCELLED_DB)
    cases = recordings.cases(rows, differs, channels, lambda one: f"{one.channels} channels")
    what = "with channels that differ, as of two speakers in a call"
    rule = "the samples of two channels correlate below 0.5; the mean of all is used"
    do = "if each speaker has a channel: --channel left or right, or a column channel in the table"
    found += finding("different_channels", "warning", cases, "recording", what, rule, do, listen=True)

    cases = recordings.cases(rows, several, channels, lambda one: f"{one.channels} channels")
    what = f"of {len(channels):,} with more than one channel"
    rule = "from the headers" + (f"; a warning if at most {RARE_SHARE:.0%} have several" if rare else "")
    do = "their mean is used; if each speaker has a channel, name it in a column channel"
    found += finding("channels", "warning" if rare else "note", cases, "recording", what, rule, do)
    return found


def _rates(rows: Rows, recordings: Recordings, wanted: int) -> list[Finding]:
    rates = recordings.column("rate")
    counts = Counter(rates.tolist()).most_common()
    rare = np.isin(rates, [rate for rate, count in counts[1:] if count <= RARE_SHARE * len(rates)])
    cases = recordings.cases(rows, rare, -rates, lambda one: f"{one.rate} Hz")
    what = f"at a different sampling rate from the others ({counts[0][0]} Hz)"
    rule = f"at most {RARE_SHARE:.0%} of the clips have this rate"
    do = "listen: a wrong rate in the header makes speech slow or fast; a correct one is resampled while reading"
    found = finding("rare_rate", "warning", cases, "recording", what, rule, do, listen=True)
    low = int((rates < wanted).sum())
    if low:
        title = f"{counted(low, 'recording')} below the {wanted} Hz of the model"
        do = "they are resampled while reading; frequencies above half their rate remain missing"
        found.append(Finding("low_rate", "note", title, "from the headers", do))
    return found
