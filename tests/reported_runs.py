"""Directories of runs for tests of reports: the files that a run writes, without a model that works."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from sft_speech.metrics.words import character_errors, word_errors
from sft_speech.options.settings import save_config
from sft_speech.tasks.asr.config import FinetuneAsrConfig

RATE = 16_000


def line(id: str, reference: str, hypothesis: str, speaker: str = "anna", seconds: float = 1.0) -> dict[str, Any]:
    """Return a line of evaluation/SPLIT.jsonl."""
    (words,), (characters,) = word_errors([reference], [hypothesis]), character_errors([reference], [hypothesis])
    return {
        "id": id,
        "reference": reference,
        "hypothesis": hypothesis,
        "seconds": seconds,
        "word_errors": words.total,
        "words": words.reference,
        "character_errors": characters.total,
        "characters": characters.reference,
        "speaker": speaker,
    }


def evaluation(folder: Path, lines: Sequence[Mapping[str, Any]]) -> float:
    """Write the evaluation of the split "test"; return its WER."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "test.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    wer = sum(one["word_errors"] for one in lines) / sum(one["words"] for one in lines)
    figures = {"wer": wer, "wer_interval": [wer - 0.1, wer + 0.1], "utterances": len(lines), "hours": 0.5, "failed": {}}
    write(folder / "test.json", figures)
    return wer


def finished_run(
    folder: Path, before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], **options: Any
) -> Path:
    """Write the directory of a finished run of recognition, with a point before training in its log."""
    wer = evaluation(folder / "evaluation" / "before", before), evaluation(folder / "evaluation", after)
    config = {"model": "org/model", "source": str(folder / "corpus"), "train_split": "train", "test_splits": ["test"]}
    save_config(FinetuneAsrConfig(**config | {"output_dir": str(folder)} | options), folder / "run.yaml")
    write(folder / "config.json", {"architectures": ["Wav2Vec2ForCTC"]})
    write(folder / "all_results.json", {"before_test_wer": wer[0], "test_wer": wer[1], "train_runtime": 61.0})
    log = [{"step": 0, "eval_wer": wer[0]}, *({"step": n, "loss": 1 / n, "eval_wer": wer[1]} for n in (5, 10))]
    write(folder / "log_history.json", {"log_history": log})
    reasons = {"silent": [{"id": f"quiet-{n}", "detail": "0.1 s"} for n in range(12)]}
    dropped = {"rows": 12, "share": 0.1, "reasons": reasons}
    train = {"kept": {"rows": 100, "hours": 1.0}, "dropped": dropped, "missing_characters": {"é": 3}}
    write(folder / "corpus_report.json", {"train": train})
    return folder


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


class Recordings:
    """The rows of a corpus, all with the same recording."""

    def __init__(self, ids: Sequence[str], folder: Path, seconds: float = 1.0) -> None:
        self.ids, self.seconds, self.file = list(ids), seconds, folder / "hum.wav"
        soundfile.write(self.file, 0.1 * np.sin(np.arange(int(seconds * RATE)) / 10), RATE)

    def __getitem__(self, key: Any) -> Any:
        if key == "id":
            return self.ids
        return {"id": self.ids[key], "audio": str(self.file), "start": 0.0, "seconds": self.seconds, "channel": None}
