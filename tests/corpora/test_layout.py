"""Folders are told apart by what is in them."""

from __future__ import annotations

import pytest

from sft_speech.corpora.layout import open_source
from sft_speech.corpora.layouts.audiofolder import AudioFolder
from sft_speech.corpora.layouts.librispeech import LibriSpeech
from sft_speech.corpora.layouts.ljspeech import LJSpeech
from sft_speech.corpora.layouts.manifest import Manifest
from sft_speech.errors import UserError


def fill(folder, files: dict[str, str]):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"dev/84/5/84-5.trans.txt": "84-5-0 A"}, LibriSpeech),
        ({"84/5/84-5.trans.txt": "84-5-0 A"}, LibriSpeech),
        ({"LibriTTS/dev/84/5/84_5_0.normalized.txt": "A"}, LibriSpeech),
        ({"metadata.csv": "a|text|text\n", "wavs/a.wav": ""}, LJSpeech),
        ({"metadata.csv": "a|Yes, it is|Yes, it is\n", "wavs/a.wav": ""}, LJSpeech),
        ({"metadata.csv": "file_name,text\na.wav,A\n"}, AudioFolder),
        ({"metadata.csv": "clip,words|spoken\na.wav,A\n"}, AudioFolder),
        ({"metadata.jsonl": '{"file_name": "a.wav", "text": "A"}'}, AudioFolder),
        ({"train/metadata.csv": "file_name,text\n", "test/metadata.jsonl": ""}, AudioFolder),
        ({"data/train-00000-of-00001.parquet": ""}, type(None)),
    ],
)
def test_kinds(tmp_path, files, kind):
    columns = {"audio": "clip", "text": "words|spoken"} if "clip" in str(files) else None
    assert type(open_source(fill(tmp_path, files), columns)) is kind


def test_manifest(tmp_path):
    fill(tmp_path, {"a.csv": "audio,text\n"})
    assert type(open_source(tmp_path / "a.csv")) is Manifest


def test_hub_name():
    assert open_source("openslr/librispeech_asr") is None


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "the folder is empty.\n-> correct the path, or put a corpus into it$"),
        ({"a.wav": "", "b.wav": "", "notes.md": ""}, r"(?s)it holds 2 \*.wav, 1 \*.md.*\n.*LibriSpeech"),
        ({"metadata.csv": "a|b|c\n"}, "no folder wavs"),
        ({"train.csv": "audio,text\n", "a.wav": ""}, "give a manifest itself: .*train.csv"),
        ({"metadata.csv": "audio,text\n", "train/metadata.csv": "audio,text\n"}, "so do its folders train"),
        (
            {"x/84/5/84-5.trans.txt": "", "digits/metadata.csv": "audio,text\n"},
            "several corpora are in it: digits, x/84",
        ),
        ({"84/5/84-5.trans.txt": "", "a.parquet": ""}, "several corpora are in it"),
    ],
)
def test_wrong_or_ambiguous(tmp_path, files, message):
    with pytest.raises(UserError, match=message):
        open_source(fill(tmp_path, files))


def test_the_layouts_are_listed_below_what_is_wrong_and_what_to_do(tmp_path):
    with pytest.raises(UserError) as said:
        open_source(fill(tmp_path, {"a.wav": "", "b.wav": "", "x/notes.md": ""}))
    first, second, third, *_, last = str(said.value).splitlines()
    assert first == f"{tmp_path}: no corpus of a known layout: it holds 2 *.wav, 1 folder."
    assert (second, third) == ("-> give one of these:", "   - a manifest (.csv, .tsv, .jsonl)")
    assert last == "   - a dataset on the Hub (OWNER/NAME)"


def test_missing(tmp_path):
    fill(tmp_path, {"librispeech/a": ""})
    with pytest.raises(UserError, match=r"did you mean .*/librispeech"):
        open_source(tmp_path / "libripseech")
    with pytest.raises(UserError, match=r"(?s)no such file or folder.\n-> give one of these:\n.* a LibriSpeech"):
        open_source(tmp_path / "nowhere" / "corpus")
    with pytest.raises(UserError, match="no such file"):
        open_source("data/train.csv")
