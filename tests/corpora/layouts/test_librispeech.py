"""The layouts of LibriSpeech and LibriTTS."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from sft_speech.corpora import CorpusReport, load_corpus
from sft_speech.corpora.layouts.librispeech import LibriSpeech
from sft_speech.corpora.report import Dropped
from sft_speech.errors import UserError


def test_rows(librispeech):
    source = LibriSpeech(librispeech)
    assert source.splits() == ["dev-clean", "train-clean-100"]
    rows = source.listing("dev-clean").rows.to_pylist()
    assert [row["id"] for row in rows] == [
        f"{speaker}-5-{number:04d}" for speaker in ("174", "84") for number in range(3)
    ]
    assert rows[3] == {
        "id": "84-5-0000",
        "path": str(librispeech / "dev-clean/84/5/84-5-0000.flac"),
        "text": "SPEAKER 84 SAYS 0",
        "speaker": "84",
        "start": None,
        "end": None,
    }


def test_parent_subset_and_nested_subset(librispeech):
    expected = LibriSpeech(librispeech).listing("dev-clean").rows
    assert LibriSpeech(librispeech.parent).listing("dev-clean").rows == expected
    assert LibriSpeech(librispeech / "dev-clean").splits() == []
    assert LibriSpeech(librispeech / "dev-clean").listing(None).rows == expected
    (librispeech / "1h").mkdir()
    shutil.move(librispeech / "dev-clean", librispeech / "1h" / "0")  # as in Libri-light
    moved = LibriSpeech(librispeech)
    assert moved.splits() == ["1h", "train-clean-100"]
    for split in ("1h", "1h/0"):
        assert moved.listing(split).rows.drop(["path"]) == expected.drop(["path"])


@pytest.mark.parametrize("split", ["dev-claen", "dev_clean", "dev-clean2"])
def test_a_near_miss_is_suggested(librispeech, split):
    with pytest.raises(UserError, match=f"no split '{split}'.\n-> did you mean 'dev-clean'"):
        LibriSpeech(librispeech).listing(split)


@pytest.mark.parametrize("split", ["../LibriSpeech/dev-clean", "/tmp"])
def test_a_split_is_no_path(librispeech, split):
    with pytest.raises(UserError, match="there is no split"):
        LibriSpeech(librispeech).listing(split)


def test_transcript_without_audio_and_audio_without_transcript(librispeech, write):
    chapter = librispeech / "dev-clean" / "84" / "5"
    (chapter / "84-5-0001.flac").unlink()
    extra = write(chapter / "84-5-0009.flac")
    listing = LibriSpeech(librispeech).listing("dev-clean")
    assert listing.dropped == [Dropped("84-5-0001", "missing file", "no audio beside 84-5.trans.txt")]
    assert listing.unlisted == [Dropped("84-5-0009", "no transcript", str(extra))]
    assert len(listing.rows) == 5


def test_an_empty_transcript_is_a_row(librispeech):
    transcripts = librispeech / "dev-clean" / "84" / "5" / "84-5.trans.txt"
    transcripts.write_text("84-5-0000\n\n84-5-0001 WORDS\n84-5-0002  \n")
    assert LibriSpeech(librispeech).listing("dev-clean").rows["text"].to_pylist()[3:] == ["", "WORDS", ""]


def test_what_macos_leaves_on_other_disks_is_no_corpus(librispeech):
    chapter = librispeech / "dev-clean" / "84" / "5"
    for path in list(chapter.iterdir()):
        (chapter / f"._{path.name}").write_bytes(b"\0\5\x16\7")
    listing = LibriSpeech(librispeech).listing("dev-clean")
    assert len(listing.rows) == 6
    assert listing.dropped == listing.unlisted == []


def test_a_tab_behind_the_id(librispeech):
    transcripts = librispeech / "dev-clean" / "84" / "5" / "84-5.trans.txt"
    transcripts.write_text("84-5-0000\tSOME WORDS\n")
    listing = LibriSpeech(librispeech).listing("dev-clean")
    assert listing.rows.to_pylist()[-1]["text"] == "SOME WORDS"
    assert listing.dropped == []


def test_the_speaker_is_known_from_within_its_folder(librispeech, monkeypatch):
    monkeypatch.chdir(librispeech / "dev-clean" / "84")
    assert set(LibriSpeech(Path()).listing(None).rows["speaker"].to_pylist()) == {"84"}


def test_libritts(tmp_path, write):
    chapter = tmp_path / "LibriTTS" / "dev-clean" / "84" / "5"
    for number in range(3):
        write(chapter / f"84_5_000001_{number:06d}.wav", rate=24_000)
    (chapter / "84_5_000001_000000.normalized.txt").write_text("Mister Smith, he said,\nis here.\n")
    (chapter / "84_5_000001_000000.original.txt").write_text("Mr. Smith, he said, is here.")
    (chapter / "84_5_000001_000001.normalized.txt").write_text("Yes.")
    (chapter / "84_5_000001_000009.normalized.txt").write_text("Nobody says this.")
    (chapter / "84_5.trans.tsv").write_text("84_5_000001_000000\tMr. Smith\tMister Smith\n")
    source = LibriSpeech(tmp_path)
    assert source.splits() == ["dev-clean"]
    listing = source.listing("dev-clean")
    rows = listing.rows.to_pylist()
    assert [(row["id"], row["text"], row["speaker"]) for row in rows] == [
        ("84_5_000001_000000", "Mister Smith, he said, is here.", "84"),
        ("84_5_000001_000001", "Yes.", "84"),
    ]
    assert rows[0]["path"] == str(chapter / "84_5_000001_000000.wav")
    assert [dropped.id for dropped in listing.dropped] == ["84_5_000001_000009"]
    assert [dropped.id for dropped in listing.unlisted] == ["84_5_000001_000002"]


def test_a_file_name_that_is_no_utf_8_is_dropped(librispeech, tmp_path):
    folder = os.fsencode(librispeech / "dev-clean/84/5")
    os.rename(folder + b"/84-5-0000.flac", folder + b"/84-5-000\xe9.flac")
    os.rename(os.fsencode(librispeech / "dev-clean/174/5"), os.fsencode(librispeech / "dev-clean/174") + b"/\xe9")
    report = CorpusReport()
    assert load_corpus(librispeech, "dev-clean", report=report)["id"][:] == ["84-5-0001", "84-5-0002"]
    reasons = Counter(row.reason for row in report.dropped("dev-clean"))
    assert reasons == {"bad file name": 3, "missing file": 1, "no transcript": 1}
    report.save(tmp_path / "report.json")
    assert r"84-5-000\udce9" in (tmp_path / "report.json").read_text()
