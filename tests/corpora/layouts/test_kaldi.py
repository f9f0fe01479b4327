"""Data directories of Kaldi and ESPnet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sft_speech.corpora import CorpusReport, load_corpus
from sft_speech.corpora.layout import open_source
from sft_speech.corpora.layouts.kaldi import Kaldi
from sft_speech.corpora.load import splits_of
from sft_speech.corpora.report import Dropped
from sft_speech.errors import UserError


def test_a_directory_with_plain_paths(fill, listed):
    folder = fill({"with space/b.wav": "", "data/train/a.flac": ""})
    fill(
        {
            "data/train/wav.scp": f"anna-1 {folder}/data/train/a.flac\nbob-1 {folder}/with space/b.wav\n"
            f"bob-2 {folder}/c.wav\n",
            "data/train/text": "anna-1  HELLO  THERE\nbob-1\nbob-3 GONE\n",
            "data/train/utt2spk": "anna-1 anna\nbob-1 bob\nbob-2 bob\n",
        }
    )
    source = open_source(folder / "data/train")
    assert source.splits() == []
    assert listed(source) == [
        ("anna-1", "data/train/a.flac", "HELLO  THERE", "anna"),
        ("bob-1", "with space/b.wav", "", "bob"),
    ]
    listing = source.listing()
    assert listing.dropped == [Dropped("bob-3", "missing file", "bob-3 is not in wav.scp")]
    assert listing.unlisted == [Dropped("bob-2", "no transcript", "not in text")]


def test_segments(fill, write):
    write("rec.wav", 3.0)
    folder = fill(
        {
            "data/dev/wav.scp": "rec rec.wav\n",
            "data/dev/segments": "u1 rec 0.5 1.25\nu2 rec 2 -1\nu3 rec x 2\nu4 other 0 1\nu6 rec 1 2\n",
            "data/dev/text": "u1 ONE\nu2 TWO\nu3 THREE\nu4 FOUR\nu5 FIVE\n",
            "data/dev/utt2spk": "u1 u1\nu2 u2\n",  # which means unknown
            "data/dev/utt2lang": "u1 en\n",
        }
    )
    report = CorpusReport()
    corpus = load_corpus(folder / "data", "dev", columns={"language": None}, report=report)  # paths from the recipe
    assert [(row["id"], row["start"], row["seconds"], row["speaker"], row["language"]) for row in corpus] == [
        ("u1", 0.5, 0.75, "", "en"),
        ("u2", 2.0, 1.0, "", ""),
    ]
    assert {(row.id, row.reason, row.detail) for row in report.dropped("dev")} == {
        ("u3", "bad segment", "start or end is not a number of seconds"),
        ("u4", "missing file", "other is not in wav.scp"),
        ("u5", "missing file", "not in segments"),
        ("u6", "no transcript", "not in text"),
    }
    assert "language" not in load_corpus(folder / "data", "dev").column_names


@pytest.mark.parametrize("below", ["", "data", "dump/raw", "dump"])
def test_directories_are_splits(fill, below):
    place = {"": "data", "data": "data", "dump/raw": "dump/raw", "dump": "dump/raw"}[below]
    files = {f"{place}/{name}/{file}": "" for name in ("train", "test") for file in ("wav.scp", "text")}
    folder = fill({**files, f"{place}/local/lexicon.txt": ""})
    assert splits_of(folder / below) == ["test", "train"]


def test_a_recipe_with_data_and_dump_is_asked_about(fill):
    folder = fill({"data/train/wav.scp": "", "dump/raw/train/wav.scp": ""})
    with pytest.raises(UserError, match=r"in data and dump/raw.\n-> give .*/data or .*/dump/raw"):
        open_source(folder)


def test_commands_are_refused_and_never_run(fill, tmp_path):
    (tmp_path / "x.flac").write_bytes(b"")
    command = f"a touch {tmp_path}/ran; flac -c -d -s {tmp_path}/x.flac |"
    folder = fill({"wav.scp": f"{command}\n", "text": "a A\n"})
    with pytest.raises(UserError, match="a is a command, which is never run: touch") as caught:
        load_corpus(folder)
    assert not (tmp_path / "ran").exists()
    hint = str(caught.value).partition("name it: ")[2].splitlines()[0]
    assert subprocess.run(["bash", "-c", hint]).returncode == 0
    assert (tmp_path / "wav.scp").read_text() == f"a {tmp_path}/x.flac\n"
    assert (tmp_path / "wav.scp.bak").read_text() == f"{command}\n"
    fill({"wav.scp": "a sox -m x.wav y.wav -t wav - |\n"})
    with pytest.raises(UserError, match=r"never run: sox.*\n-> run the commands"):
        load_corpus(folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"wav.scp": "a data.ark:42\n", "text": "a A"}, "archive of Kaldi"),
        ({"wav.scp": "a x.wav\n"}, "no file text"),
        ({"wav.scp": "a x.wav\na y.wav\n", "text": "a A"}, "line 2: a has another value above"),
        ({"wav.scp": "a\n", "text": "a A"}, "line 1 has no value: a"),
        ({"wav.scp": "a x.wav\n", "text": "a A"}, r"x.wav is not in .*\n-> write absolute paths"),
        ({"wav.scp": b"a \xe9.wav\n", "text": "a A"}, "not UTF-8 text"),
        ({"wav.scp": "a-A /x.wav\na-B /x.wav\n", "text": "", "reco2file_and_channel": ""}, "which channel"),
        ({"data.json": '{"utts": {"a": {"input": [{"feat": "x.ark:4"}]}}}'}, "names features"),
    ],
)
def test_what_cannot_be_read(fill, files, message):
    with pytest.raises(UserError, match=message):
        load_corpus(fill(files))


def test_no_relative_path_leaves_the_folder(fill, listed):
    folder = fill(
        {
            "private.wav": "",
            "c/data/train/a.wav": "",
            "c/data/train/wav.scp": "a data/train/a.wav\nb ../private.wav\nd data/train/../../../private.wav\n",
            "c/data/train/text": "a A\nb B\nd D\n",
        }
    )
    source = Kaldi(Path(folder / "c/data/train"))
    assert [row[0] for row in listed(source)] == ["a"]
    assert [(row.id, row.reason) for row in source.listing().dropped] == [
        ("b", "outside the corpus folder"),
        ("d", "outside the corpus folder"),
    ]


def test_a_folder_whose_name_is_not_utf_8(fill, write):
    write("t/a.wav")
    folder = fill({"t/wav.scp": "a a.wav\n", "t/text": "a A\n"})
    if sys.platform == "darwin":
        pytest.skip("names are UTF-8 on macOS")
    (folder / "t").rename(folder / "t\udce9")
    with pytest.raises(UserError, match="bad file name"):
        load_corpus(folder, "t\udce9", name="x")
