"""Manifests of NeMo, alone and in a folder."""

from __future__ import annotations

import json

import pytest

from sft_speech.corpora import load_corpus
from sft_speech.corpora.layout import open_source
from sft_speech.corpora.layouts.nemo import NemoFolder
from sft_speech.corpora.load import splits_of
from sft_speech.errors import UserError


def lines(*rows: dict) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def test_the_fields_of_a_manifest(fill, write):
    write("c/wavs/a.wav", 3.0)
    rows = [
        {"audio_filepath": "wavs/a.wav", "duration": 3.0, "text": "whole", "lang": "en", "pred_text": "hole"},
        {"audio_filepath": "wavs/a.wav", "offset": 0.5, "duration": 1.25, "text": "part", "speaker": 7, "pnc": "yes"},
    ]
    folder = fill({"c/train_manifest.json": lines(*rows)}) / "c"
    for source in (folder / "train_manifest.json", folder):
        corpus = load_corpus(source, columns={"language": None})
        assert [(row["text"], row["start"], row["seconds"], row["speaker"], row["language"]) for row in corpus] == [
            ("whole", None, 3.0, "", "en"),
            ("part", 0.5, 1.25, "7", ""),
        ]
        assert corpus[0]["audio"]["path"] == str(folder / "wavs/a.wav")


def test_the_manifests_of_a_folder_are_its_splits(fill, listed):
    row = {"audio_filepath": "a.wav", "duration": 1.0, "text": "a"}
    folder = fill(
        {
            "train_manifest.json": lines(row),
            "manifest_dev.json": lines(row, row | {"text": "b"}),
            "test.jsonl": lines(row),
            "tokenizer.json": "{}",
            "a.wav": "",
            "a.txt": "another transcript",
        }
    )
    assert splits_of(folder) == ["dev", "test", "train"]
    source = open_source(folder)
    assert isinstance(source, NemoFolder)
    assert [row[2] for row in listed(source, "dev")] == ["a", "b"]
    with pytest.raises(UserError, match="there is no split 'tokenizer'"):
        source.listing("tokenizer")
    with pytest.raises(UserError, match="it has the splits dev, test, train"):
        load_corpus(folder)
    fill({"dev_manifest.json": lines(row)})
    with pytest.raises(UserError, match=r"the split dev is in dev_manifest.json and manifest_dev.json"):
        open_source(folder).listing("dev")


def test_another_layout_comes_first(fill):
    folder = fill(
        {"dev.json": lines({"audio_filepath": "a.wav", "text": "a"}), "dev-clean/84/5/84-5.trans.txt": "84-5-0 A"}
    )
    assert splits_of(folder) == ["dev-clean"]
