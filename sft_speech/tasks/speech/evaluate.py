"""Measure generated speech against the recordings of a corpus.

Each figure is also given for copy synthesis: the recording's own spectrogram through the same vocoder, the best that a
model of these spectrograms can reach. For conversion it is given for the source recordings too.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from sft_speech.audio import read as audio
from sft_speech.corpora.report import file_stem
from sft_speech.errors import UserError
from sft_speech.metrics.speech import (
    cepstra,
    mean_interval,
    mel_cepstral_distortion,
    pitch,
    pitch_errors,
    warping_path,
)
from sft_speech.tasks.speech.data import clean, voice_name
from sft_speech.tasks.speech.generator import Speech, SpeechGenerator
from sft_speech.tasks.speech.speakers import MEAN
from sft_speech.text.counted import counted

NAMES = {
    "mcd": "mel cepstral distortion, dB",
    "log_f0_rmse": "log F0 error",
    "voicing_error": "voiced/unvoiced error",
    "duration_ratio": "duration over the recording's",
    "speaker_similarity": "cosine to the speaker",
    "nearest_other_speaker": "cosine to the nearest other",
    "wer": "WER of the judge, %",
    "cer": "CER of the judge, %",
}
PERCENT = ("wer", "cer")
HEADINGS = {"speech": "speech", "copy": "copy synthesis", "source": "unconverted", "recording": "recording"}
KINDS = ("speech", "copy", "source")  # generated, copy synthesis, the source of a conversion
TRIM_DB = 40.0  # for all kinds, so that silence at the ends does not count as distortion


class Judge(Protocol):
    """A recognizer that measures how intelligible speech is."""

    def score(self, reference: str, waveform: np.ndarray, rate: int) -> dict[str, Any]:
        """Return the hypothesis for a waveform (S,) and the counts of its errors, for the utterance's row."""

    def summary(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return rates over all utterances with their intervals."""


# Given a row and a voice (None: the mean), return the speech and the source recording (S,) of a conversion.
Generate = Callable[[dict[str, Any], str | None], tuple[Speech, np.ndarray | None]]


def evaluate_speech(
    generator: SpeechGenerator,
    rows: Iterable[dict[str, Any]],
    generate: Generate,
    judge: Judge | None = None,
    progress: Callable[[int], Any] | None = None,
) -> list[dict[str, Any]]:
    """Generate each row in the voice of its speaker, and measure it.

    Args:
        rows: rows of a corpus. Speakers without a voice in the model get the mean of its voices.
        generate: see :data:`Generate`.
        judge: transcribes the speech.
        progress: called with 1 after each utterance.

    Returns:
        A line per utterance: id, text, seconds, problem, and the figures of each of :data:`KINDS`.

    Raises:
        UserError: the model has neither a voice of a speaker nor a mean.
    """
    found = []
    for row in rows:
        found.append(_utterance(generator, row, generate, judge))
        if progress is not None:
            progress(1)
    return found


def _utterance(
    generator: SpeechGenerator, row: dict[str, Any], generate: Generate, judge: Judge | None
) -> dict[str, Any]:
    checkpoint = generator.checkpoint
    line: dict[str, Any] = {"id": row["id"], "text": row["text"], "seconds": row["seconds"], "problem": ""}
    line |= {"speaker": row["speaker"]} if row["speaker"] else {}
    try:
        waveform = audio.read_row(row, checkpoint.rate)
    except audio.AudioError as error:
        return line | {"problem": f"the recording cannot be read: {error}"}
    recording = clean(waveform, TRIM_DB)
    name = voice_name(row["speaker"])
    began = time.perf_counter()
    speech, source = generate(row, name if name in checkpoint.speakers else None)
    runtime = time.perf_counter() - began
    if not len(speech.waveform):
        return line | {"problem": speech.problem}
    copied = generator.vocoder(torch.as_tensor(checkpoint.mels(recording)))
    endings = [part.ending for part in speech.parts]
    line |= {"problem": speech.problem, "endings": endings, "real_time_factor": runtime / speech.seconds}
    for kind, one in zip(KINDS, (speech.waveform, copied, source), strict=True):
        if one is None:
            continue
        line[kind] = _compare(generator, clean(one, TRIM_DB), recording, name)
        if judge is not None:
            line[kind] |= judge.score(row["text"], one, checkpoint.rate)
    if judge is not None:
        line["recording"] = judge.score(row["text"], recording, checkpoint.rate)
    return line


def _compare(generator: SpeechGenerator, waveform: np.ndarray, recording: np.ndarray, name: str) -> dict[str, float]:
    """Return the figures of a waveform (S,) against the recording."""
    checkpoint = generator.checkpoint
    hop, rate = int(checkpoint.extractor.sample_stride), checkpoint.rate
    mels = [checkpoint.mels(one) for one in (waveform, recording)]
    first, second = map(cepstra, mels)
    path = warping_path(first, second)
    hertz = [pitch(one, rate, hop, len(own)) for one, own in zip((waveform, recording), mels, strict=True)]
    errors = pitch_errors(hertz[0], hertz[1], path)
    figures = {
        "mcd": mel_cepstral_distortion(first, second, path),
        "log_f0_rmse": errors.log_f0_rmse,
        "voicing_error": errors.voicing_error,
        "duration_ratio": len(waveform) / max(len(recording), 1),
    }
    return figures | _similarities(generator, waveform, name)


def _similarities(generator: SpeechGenerator, waveform: np.ndarray, name: str) -> dict[str, float]:
    """Return the cosines of a waveform's embedding with its speaker's and with the nearest other speaker's."""
    voices = generator.checkpoint.speakers
    if name not in voices or not voices.encoder:
        return {}
    embedding = generator.encoder()(waveform)
    others = [float(embedding @ voices[other]) for other in voices if other not in (name, MEAN)]
    figures = {"speaker_similarity": float(embedding @ voices[name])}
    return figures | ({"nearest_other_speaker": max(others)} if others else {})


def summary(lines: list[dict[str, Any]], judge: Judge | None = None) -> dict[str, Any]:
    """Return the figures of SPLIT.json: the mean of each metric and its 95 % interval.

    Raises:
        UserError: no utterance could be generated or read.
    """
    measured = [line for line in lines if "speech" in line]
    if not measured:
        first = f" ({lines[0]['problem']})" if lines else ""
        why = f"none of {counted(len(lines), 'utterance')} could be generated{first}"
        raise UserError("the evaluation", why, "check the texts and recordings")
    figures: dict[str, Any] = {"utterances": len(measured), "problems": sum(bool(line["problem"]) for line in lines)}
    figures["endings"] = dict(Counter(ending for line in measured for ending in line["endings"]).most_common())
    for kind in KINDS:
        for metric in NAMES:
            values = [line[kind][metric] for line in measured if metric in line.get(kind, {})]
            mean, low, high = mean_interval(values)
            if np.isfinite(mean):
                figures[f"{kind}_{metric}"], figures[f"{kind}_{metric}_interval"] = mean, [low, high]
    mean, low, high = mean_interval([line["real_time_factor"] for line in measured])
    figures |= {"real_time_factor": mean, "real_time_factor_interval": [low, high]}
    if judge is not None:
        for kind in [kind for kind in (*KINDS, "recording") if all(kind in line for line in measured)]:
            rates = judge.summary([line[kind] for line in measured])
            figures |= {f"{kind}_{name}": value for name, value in rates.items()}
    return figures


def save(lines: list[dict[str, Any]], figures: dict[str, Any], folder: Path, split: str) -> Path:
    """Write SPLIT.jsonl and SPLIT.json; figures that are already there, such as a run's losses, are kept.

    Raises:
        UserError: they cannot be written.
    """
    stem = file_stem(split)
    rows_file, figures_file = folder / f"{stem}.jsonl", folder / f"{stem}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = {}
        if rows_file.is_file():
            kept = [json.loads(line) for line in rows_file.read_text("utf-8").splitlines()]
            before = {row["id"]: row for row in kept}
        with open(rows_file, "w", encoding="utf-8") as file:
            for line in lines:
                merged = before.get(line["id"], {}) | {key: _rounded(value) for key, value in line.items()}
                file.write(json.dumps(merged, ensure_ascii=False) + "\n")
        known = json.loads(figures_file.read_text("utf-8")) if figures_file.is_file() else {}
        figures_file.write_text(json.dumps(known | _rounded(figures), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        why = f"it cannot be written ({error.strerror})"
        raise UserError(str(folder), why, "choose another --output") from error
    return figures_file


def _rounded(value: Any) -> Any:
    """Return a JSON value with floats rounded to five decimals, and null for NaN and infinity."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    if isinstance(value, float):
        return round(value, 5) if np.isfinite(value) else None
    return value


def table(figures: dict[str, Any], split: str) -> str:
    """Return the figures as a table of text."""
    shown = [kind for kind in HEADINGS if any(key.startswith(f"{kind}_") for key in figures)]
    lines = [
        f"{split}: {counted(figures['utterances'], 'utterance')}, {figures['problems']} with a problem, "
        f"{1 / figures['real_time_factor']:.1f} x real time",
        "how pieces of speech end: " + ", ".join(f"{name} {count}" for name, count in figures["endings"].items()),
        f"{'':30}" + "".join(f"{HEADINGS[kind]:>26}" for kind in shown),
    ]
    for metric, name in NAMES.items():
        scale, digits = (100, 1) if metric in PERCENT else (1, 3)
        cells = []
        for kind in shown:
            mean, around = figures.get(f"{kind}_{metric}"), figures.get(f"{kind}_{metric}_interval")
            if mean is None or around is None:
                cells.append("")
                continue
            mean, low, high = (f"{scale * value:.{digits}f}" for value in (mean, *around))
            cells.append(f"{mean} [{low}, {high}]")
        if any(cells):
            lines.append(f"{name:30}" + "".join(f"{cell:>26}" for cell in cells))
    return "\n".join(lines)
