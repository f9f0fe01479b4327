"""Speak the texts of a corpus, or convert recordings, and measure what comes out against the corpus's recordings.

Beside each figure stands that of copy synthesis: the recording's own spectrogram through the same vocoder, which is as
near as any model of these spectrograms could come. Where recordings are converted, it is also that of leaving them.
"""

from __future__ import annotations

import json
import time
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

METRICS = ("mcd", "log_f0_rmse", "voicing_error", "duration_ratio", "speaker_similarity", "nearest_other_speaker")
KINDS = ("speech", "copy", "source")  # what was made, the recording's own spectrogram, what was converted
TRIM_DB = 40.0  # of both, so that silence around a recording is no distortion


class Judge(Protocol):
    """A recognizer that says how well speech can be understood."""

    def hear(self, reference: str, waveform: np.ndarray, rate: int) -> dict[str, Any]:
        """What is heard in (S,), and the counts of its errors, as a part of the utterance's row."""

    def summary(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Rates over all utterances with their intervals."""


def evaluate_speech(
    generator: SpeechGenerator,
    rows: Iterable[dict[str, Any]],
    say: Callable[[dict[str, Any], str | None], tuple[Speech, np.ndarray | None]],
    judge: Judge | None = None,
    progress: Callable[[int], Any] | None = None,
) -> list[dict[str, Any]]:
    """Has each row said in its speaker's voice.

    Args:
        rows: of a corpus; a speaker that the model has no voice of is spoken by the model's mean.
        say: a row in a voice (None: the mean): the speech, and the recording (S,) that was converted, if one was.
        judge: hears what was spoken.
        progress: called with 1 after each utterance.

    Returns:
        a line for each utterance: id, text, seconds, problem, and the figures of each of :data:`KINDS`.

    Raises:
        UserError: the model has no voice of a speaker, and no mean.
    """
    found = []
    for row in rows:
        found.append(_utterance(generator, row, say, judge))
        if progress is not None:
            progress(1)
    return found


def _utterance(generator: SpeechGenerator, row: dict[str, Any], say: Callable, judge: Judge | None) -> dict[str, Any]:
    checkpoint = generator.checkpoint
    line: dict[str, Any] = {"id": row["id"], "text": row["text"], "seconds": row["seconds"], "problem": ""}
    try:
        waveform = audio.read(row["audio"], checkpoint.rate, start=row["start"], seconds=row["seconds"])
    except audio.AudioError as error:
        return line | {"problem": f"the recording can't be read: {error}"}
    recording = clean(waveform, TRIM_DB)
    name = voice_name(row["speaker"])
    began = time.perf_counter()
    speech, source = say(row, name if name in checkpoint.speakers else None)
    runtime = time.perf_counter() - began
    if not len(speech.waveform):
        return line | {"problem": speech.problem}
    copied = generator.vocoder(torch.as_tensor(checkpoint.mels(recording)))
    line |= {"problem": speech.problem, "real_time_factor": runtime / speech.seconds}
    for kind, spoken in zip(KINDS, (speech.waveform, copied, source), strict=True):
        if spoken is None:
            continue
        line[kind] = _against(generator, clean(spoken, TRIM_DB), recording, name)
        if judge is not None:
            line[kind] |= judge.hear(row["text"], spoken, checkpoint.rate)
    if judge is not None:
        line["recording"] = judge.hear(row["text"], recording, checkpoint.rate)
    return line


def _against(generator: SpeechGenerator, spoken: np.ndarray, recording: np.ndarray, name: str) -> dict[str, float]:
    """The figures of one waveform (S,) against the recording."""
    checkpoint = generator.checkpoint
    hop, rate = int(checkpoint.extractor.sample_stride), checkpoint.rate
    mels = [checkpoint.mels(waveform) for waveform in (spoken, recording)]
    first, second = map(cepstra, mels)
    path = warping_path(first, second)
    hertz = [pitch(waveform, rate, hop, len(own)) for waveform, own in zip((spoken, recording), mels, strict=True)]
    errors = pitch_errors(hertz[0], hertz[1], path)
    figures = {
        "mcd": mel_cepstral_distortion(first, second, path),
        "log_f0_rmse": errors.log_f0_rmse,
        "voicing_error": errors.voicing_error,
        "duration_ratio": len(spoken) / max(len(recording), 1),
    }
    return figures | _similarities(generator, spoken, name)


def _similarities(generator: SpeechGenerator, spoken: np.ndarray, name: str) -> dict[str, float]:
    """Cosines of a waveform's embedding to its speaker's and to the nearest other one's."""
    voices = generator.checkpoint.speakers
    if name not in voices or not voices.encoder:
        return {}
    embedding = generator.encoder()(spoken)
    others = [float(embedding @ voices[other]) for other in voices if other not in (name, MEAN)]
    figures = {"speaker_similarity": float(embedding @ voices[name])}
    return figures | ({"nearest_other_speaker": max(others)} if others else {})


def summary(lines: list[dict[str, Any]], judge: Judge | None = None) -> dict[str, Any]:
    """The figures of SPLIT.json: a mean and its 95 % interval for each metric, of the speech and of the copies.

    Raises:
        UserError: nothing could be spoken or read.
    """
    spoken = [line for line in lines if "speech" in line]
    if not spoken:
        raise UserError("the evaluation", f"none of {len(lines)} utterances could be spoken", "see their problems")
    figures: dict[str, Any] = {"utterances": len(spoken), "problems": sum(bool(line["problem"]) for line in lines)}
    for kind in KINDS:
        for metric in METRICS:
            values = [line[kind][metric] for line in spoken if metric in line.get(kind, {})]
            mean, low, high = mean_interval(values)
            if np.isfinite(mean):
                figures[f"{kind}_{metric}"], figures[f"{kind}_{metric}_interval"] = mean, [low, high]
    mean, low, high = mean_interval([line["real_time_factor"] for line in spoken])
    figures |= {"real_time_factor": mean, "real_time_factor_interval": [low, high]}
    if judge is not None:
        for kind in [kind for kind in (*KINDS, "recording") if all(kind in line for line in spoken)]:
            rates = judge.summary([line[kind] for line in spoken])
            figures |= {f"{kind}_{name}": value for name, value in rates.items()}
    return figures


def save(lines: list[dict[str, Any]], figures: dict[str, Any], folder: Path, split: str) -> Path:
    """Writes SPLIT.jsonl and SPLIT.json, beside the losses that a fine-tuning run has left there.

    Raises:
        UserError: the folder can't be written.
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
        why = f"it can't be written ({error.strerror})"
        raise UserError(str(folder), why, "choose another --output") from error
    return figures_file


def _rounded(value: Any) -> Any:
    """Five digits behind the point; what is no number is null."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    if isinstance(value, float):
        return round(value, 5) if np.isfinite(value) else None
    return value


NAMES = {
    "mcd": "mel cepstral distortion, dB",
    "log_f0_rmse": "log F0 error",
    "voicing_error": "voiced/unvoiced error",
    "duration_ratio": "duration over the recording's",
    "speaker_similarity": "cosine to the speaker",
    "nearest_other_speaker": "cosine to the nearest other",
    "wer": "WER of the judge",
    "cer": "CER of the judge",
}
HEADINGS = {"speech": "speech", "copy": "copy synthesis", "source": "left as it was", "recording": "recording"}


def table(figures: dict[str, Any], split: str) -> str:
    """The figures, to be read by people."""
    shown = [kind for kind in HEADINGS if any(key.startswith(f"{kind}_") for key in figures)]
    lines = [
        f"{split}: {figures['utterances']} utterances, {figures['problems']} with a problem, "
        f"{1 / figures['real_time_factor']:.1f} x real time",
        f"{'':30}" + "".join(f"{HEADINGS[kind]:>26}" for kind in shown),
    ]
    for metric, name in NAMES.items():
        cells = []
        for kind in shown:
            mean, around = figures.get(f"{kind}_{metric}"), figures.get(f"{kind}_{metric}_interval")
            cells.append(f"{mean:.3f} [{around[0]:.3f}, {around[1]:.3f}]" if mean is not None and around else "")
        if any(cells):
            lines.append(f"{name:30}" + "".join(f"{cell:>26}" for cell in cells))
    return "\n".join(lines)
