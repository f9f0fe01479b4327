"""Rows that a checkpoint can use."""

from __future__ import annotations

from collections import Counter

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_speech.corpora import mapped
from sft_speech.corpora.report import CorpusReport, Dropped
from sft_speech.corpora.rows import COLUMNS, corpus_of, features
from sft_speech.corpora.select import judge, select_usable
from sft_speech.text.normalize import Normalized

ALPHABET = set("ABC '")


def normalize(text):
    kept = "".join(character for character in text.upper() if character in ALPHABET)
    return Normalized(" ".join(kept.split()), Counter(c for c in text.upper() if c not in ALPHABET))


def rows_of(rows: list[tuple[str, float]], content: bytes | None = None) -> datasets.Dataset:
    """A corpus of texts and seconds."""
    count = len(rows)
    table = {
        "id": [str(number) for number in range(count)],
        "audio": [{"bytes": content, "path": f"{number}.wav"} for number in range(count)],
        "text": [text for text, _ in rows],
        "speaker": [""] * count,
        "seconds": [seconds for _, seconds in rows],
        "start": pa.nulls(count, pa.float64()),
    }
    return corpus_of(pa.table(table).cast(features().arrow_schema))


def select(corpus, report=None, **settings):
    settings = {"min_seconds": 0.1, "max_seconds": 20.0, "max_missing_share": 0.1} | settings
    return select_usable(
        corpus,
        "train",
        report or CorpusReport(),
        normalize=normalize,
        encode=list,
        frames_of=lambda s: np.floor(s * 10).astype(int),
        **settings,
    )


def test_each_reason():
    corpus = rows_of(
        [
            ("abc", 2.0),
            ("", 2.0),
            ("  '' "[:2], 2.0),
            ("abc", 0.05),
            ("abc", 7200.0),
            ("abcabcabc", 0.9),
            ("abcabbabc", 0.9),
            ("abcx", 2.0),
            ("abcabcabcabcabcabcx", 4.0),
            ("???", 2.0),
        ]
    )
    report = CorpusReport()
    kept = select(corpus, report)
    assert kept["id"][:] == ["0", "5", "8"]
    assert kept["text"][:] == ["ABC", "ABCABCABC", "ABC" * 6]
    assert set(report.dropped("train")) == {
        Dropped("1", "empty transcript", ""),
        Dropped("2", "empty transcript", ""),
        Dropped("3", "too short", "0.050 s, min_seconds is 0.1"),
        Dropped("4", "too long", "7200.0 s, max_seconds is 20: `sft-speech cut` cuts it"),
        Dropped("6", "more labels than frames", "10 with blanks between repeats, 9 frames"),
        Dropped("7", "characters outside the vocabulary", "1 of 4: X"),
        Dropped("9", "characters outside the vocabulary", "3 of 3: ?"),
    }
    assert report.to_dict()["train"]["kept"] == {"rows": 3, "hours": pytest.approx(6.9 / 3600)}
    assert report.to_dict()["train"]["missing_characters"] == {"?": 3, "X": 2}


def test_no_frame_is_too_short():
    report = CorpusReport()
    assert len(select(rows_of([("a", 0.05)]), report, min_seconds=0.0)) == 0
    assert report.dropped("train") == [Dropped("0", "too short", "not one frame")]


def test_columns_stay_and_a_selection_is_kept():
    corpus = rows_of([("a", 1.0), ("b", 2.0), ("c", 3.0), ("", 1.0)])
    kept = select(corpus.select([3, 2, 0]))
    assert kept.column_names == list(COLUMNS)
    assert kept.features == features()
    assert kept[0] == corpus[2] | {"text": "C"}
    assert kept[1] == corpus[0] | {"text": "A"}
    assert len(kept) == 2


def test_a_large_corpus_stays_mapped(monkeypatch):
    """What isn't written otherwise is not written again, and what is lies in a file beside."""
    rows = [("A", 1.0), ("", 1.0), ("C", 1.0)]
    small = list(select(rows_of(rows)))
    monkeypatch.setattr(mapped, "LARGE", 1)
    corpus = rows_of(rows)
    same = select(corpus)
    assert same.cache_files == corpus.cache_files
    assert list(same) == small
    lower = rows_of([(text.lower(), seconds) for text, seconds in rows])
    other = select(lower)
    assert {file["filename"] for file in lower.cache_files} < {file["filename"] for file in other.cache_files}
    assert list(other) == small


def test_audio_in_memory_is_not_copied(tmp_path):
    corpus = rows_of([("a", 1.0), ("", 1.0), ("c", 1.0)], b"encoded")
    corpus.save_to_disk(tmp_path / "corpus")
    corpus = datasets.load_from_disk(tmp_path / "corpus").select([0, 1, 2, 0])
    before = sorted(tmp_path.rglob("*"))
    kept = select(corpus)
    assert kept["text"][:] == ["A", "C", "A"]
    assert kept.cache_files == corpus.cache_files
    assert sorted(tmp_path.rglob("*")) == before


texts = st.text(st.sampled_from("abcABC 'x"), max_size=12)


@settings(deadline=None)
@given(st.lists(st.tuples(texts, st.floats(0, 30)), min_size=1, max_size=20), st.floats(0, 1))
def test_no_row_is_lost_and_every_row_kept_can_be_aligned(rows, share):
    report = CorpusReport()
    corpus = rows_of(rows)
    kept = select(corpus, report, max_missing_share=share)
    dropped = [row.id for row in report.dropped("train")]
    assert sorted([*kept["id"], *dropped], key=int) == corpus["id"][:]
    assert list(kept["id"]) == sorted(kept["id"], key=int)
    for row in kept:
        text = row["text"]
        assert text.strip()
        assert len(text) + sum(np.array(list(text[1:])) == np.array(list(text[:-1]))) <= int(row["seconds"] * 10)


def test_a_single_row_is_judged_by_the_same_rules():
    corpus = rows_of(
        [("abc", 2.0), ("", 2.0), ("abc", 0.05), ("abc", 30.0), ("abc!?", 2.0), ("aab", 0.3), ("aab", 0.4)]
    )
    kept = select(corpus, report := CorpusReport())
    rules = {"min_seconds": 0.1, "max_seconds": 20.0, "max_missing_share": 0.1, "normalize": normalize, "encode": list}
    judged = [judge(row, frames_of=lambda s: np.floor(s * 10).astype(int), **rules) for row in corpus]
    reasons = [(row["id"], *reason) for row, (_, reason) in zip(corpus, judged, strict=True) if reason]
    assert sorted(reasons) == sorted(report.dropped("train"))
    assert len(reasons) == 5
    assert [normalized.text for normalized, reason in judged if reason is None] == kept["text"][:] == ["ABC", "AAB"]
