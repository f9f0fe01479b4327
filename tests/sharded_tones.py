"""The corpus of tones as parquet shards, as on the Hub."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def shard(tones: Path, folder: Path, cuts: tuple[int, ...]) -> Path:
    """Write the tones as parquet files: ``train-*`` with ``cuts`` rows each, and one ``dev-*``."""
    folder.mkdir()
    texts = {
        (words := line.split(" ", 1))[0]: words[1]
        for file in tones.rglob("*.txt")
        for line in file.read_text().splitlines()
    }
    for split, subset, sizes in (("train", "train-tones", cuts), ("dev", "dev-tones", (12,))):
        files = sorted((tones / subset).rglob("*.flac"))
        for number, size in enumerate(sizes):
            own, files = files[:size], files[size:]
            rows = {
                "id": [file.stem for file in own],
                "audio": [{"bytes": file.read_bytes(), "path": file.name} for file in own],
                "text": [texts[file.stem] for file in own],
            }
            pq.write_table(pa.table(rows), folder / f"{split}-{number:05}-of-{len(sizes):05}.parquet", row_group_size=6)
    return folder
