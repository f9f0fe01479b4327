"""Sources and rows in several languages: each clip is trained and evaluated in its own, and rows keep their order."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from sft_speech import finetune
from sft_speech.cli import main
from sft_speech.tasks.asr.seq2seq.transcripts import Transcripts
from sft_speech.tasks.asr.seq2seq.write import Writer

RATE = 16000
SECONDS = [0.3, 1.1, 0.5, 0.9, 0.2, 0.7, 1.3, 0.4, 1.0, 0.6, 0.8, 1.2]  # all different, and in no order
KEYS = {"max_steps": 2, "eval_steps": 2, "logging_steps": 1, "max_batch_seconds": 12, "dataloader_num_workers": 0}
KEYS |= {"evaluate_before": False, "report_to": "none", "learning_rate": 1e-4}


@pytest.fixture(scope="module")
def whisper(tiny_seq2seq) -> Path:
    return tiny_seq2seq("whisper")


def columns(seed: int, languages: tuple[str, ...] | None) -> dict[str, list]:
    """Return twelve recordings of noise, whose lengths tell them apart, and their languages in turn."""
    rng, audio = np.random.default_rng(seed), []
    for seconds in SECONDS:
        file = io.BytesIO()
        soundfile.write(file, rng.normal(0, 0.1, round(seconds * RATE)).astype(np.float32), RATE, format="FLAC")
        audio.append({"bytes": file.getvalue(), "path": None})
    rows = {"id": [f"row {seconds}" for seconds in SECONDS], "audio": audio, "text": [f"Ton {s}" for s in SECONDS]}
    return rows | ({"locale": [languages[n % len(languages)] for n in range(12)]} if languages else {})


def corpus(folder: Path, *languages: str) -> str:
    """Write a training and an evaluation split of twelve recordings, in shards, as on the Hub."""
    folder.mkdir()
    for split in ("train", "dev"):
        pq.write_table(pa.table(columns(len(folder.name), languages)), folder / f"{split}.parquet", row_group_size=3)
    return str(folder)


def command(model: Path, output: Path, *tables: dict) -> list[str]:
    keys = KEYS | {"model": model, "output_dir": output, "streaming": True, "sources": json.dumps(tables)}
    return ["finetune-asr", *(part for key, value in keys.items() for part in (f"--{key}", str(value)))]


@pytest.fixture
def trained(monkeypatch) -> set[str | None]:
    """The languages of what is trained on and evaluated, by the tokens that the decoder is given."""
    found: set[str | None] = set()
    plain = Transcripts.prefix

    def watched(self, language=None, *args, **more):
        found.add(language)
        return plain(self, language, *args, **more)

    monkeypatch.setattr(Transcripts, "prefix", watched)
    return found


@pytest.fixture
def searched(monkeypatch) -> set[tuple[float, str | None]]:
    """The seconds of every clip that was recognized, and the language in which it was."""
    found: set[tuple[float, str | None]] = set()
    plain = Writer.__call__

    def watched(self, model, encoded, seconds, languages):
        found.update((round(one, 3), language) for one, language in zip(seconds, languages, strict=True))
        return plain(self, model, encoded, seconds, languages)

    monkeypatch.setattr(Writer, "__call__", watched)
    return found


def in_order(file: Path, seconds: list[float] = SECONDS) -> bool:
    """Return whether the lines of an evaluation are in the order of the rows, each with its own reference and audio."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    given = [(line["id"], line["reference"], line["seconds"]) for line in lines]
    return given == [(f"row {one}", f"Ton {one}", one) for one in seconds]


def test_the_only_source_of_a_stream_has_its_language(whisper, tmp_path, trained):
    """The model's first language would be another one."""
    table = {"source": corpus(tmp_path / "a"), "split": "train", "language": "es", "eval_split": "dev"}
    assert main(command(whisper, tmp_path / "out", table)) == 0
    assert trained == {"es"}


def test_streams_of_several_languages_are_evaluated_in_order_and_each_clip_in_its_own(
    whisper, tmp_path, trained, searched
):
    tables = [
        {"source": corpus(tmp_path / "one"), "language": "es"},
        {"source": corpus(tmp_path / "several", "de", "Spanish", "en"), "language_column": "locale"},
    ]
    more = {"split": "train", "eval_split": "dev", "weight": 1}
    assert main(command(whisper, tmp_path / "out", *(table | more for table in tables))) == 0
    codes = ("de", "es", "en")
    assert searched == {(one, "es") for one in SECONDS} | {(one, codes[n % 3]) for n, one in enumerate(SECONDS)}
    assert {"es", "de"} <= trained <= {"es", "de", "en", "Spanish"}
    for name in ("one", "several"):
        assert in_order(tmp_path / "out" / "evaluation" / f"eval_{name}.jsonl"), name


def test_rows_that_are_left_out_shift_neither_languages_nor_order(whisper, tmp_path, searched):
    """Every fourth row has no language."""
    where = ["--source", corpus(tmp_path / "a", "de", "", "es", "en"), "--split", "dev", "--language_column", "locale"]
    assert main(["evaluate", str(whisper), *where, "--output", str(tmp_path)]) == 0
    kept = [one for number, one in enumerate(SECONDS) if number % 4 != 1]
    assert searched == {(one, ("de", "es", "en")[number % 3]) for number, one in enumerate(kept)}
    assert in_order(tmp_path / "evaluation" / "dev.jsonl", kept)


def test_streams_from_python_have_the_languages_of_their_tables(whisper, tmp_path, trained, searched):
    import datasets

    rows = {name: datasets.Dataset.from_dict(columns(1, None)) for name in ("a", "b")}
    result = finetune(
        whisper,
        train={name: one.to_iterable_dataset(3) for name, one in rows.items()},
        eval=rows,
        sources=[{"source": "a", "language": "de", "weight": 1}, {"source": "b", "language": "es", "weight": 1}],
        output_dir=tmp_path / "out",
        **KEYS,
    )
    assert trained == {"de", "es"}
    assert searched == {(one, language) for one in SECONDS for language in ("de", "es")}
    assert in_order(tmp_path / "out" / "evaluation" / "eval_a.jsonl")
    assert result.metrics["eval_a_loss"] > 0
