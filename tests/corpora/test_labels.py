"""Labels: from columns of tables, names of classes and names of folders."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_speech.corpora import CorpusReport, load_corpus
from sft_speech.corpora.columns import label_of, split_labels
from sft_speech.corpora.load import splits_of
from sft_speech.corpora.rows import features
from sft_speech.errors import UserError


@pytest.mark.parametrize(
    ("value", "names", "label"),
    [
        ("yes", (), "yes"),
        (None, (), ""),
        (3, (), "3"),
        (1, ("no", "yes"), "yes"),
        (-1, ("no", "yes"), ""),
        (2, ("no", "yes"), ""),
        (["dog", "bark"], (), "dog|bark"),
        ([1, 0], ("no", "yes"), "yes|no"),
        ([], (), ""),
        (["a|b", "c\\"], (), r"a\|b|c\\"),
        ("a|b", (), "a|b"),
    ],
)
def test_label_of(value, names, label):
    assert label_of(value, names) == label


@pytest.mark.parametrize(
    ("label", "labels"),
    [("", []), ("dog", ["dog"]), ("dog | bark", ["dog", "bark"]), (r"a\|b|c", ["a|b", "c"]), ("C:\\x", ["C:\\x"])],
)
def test_split_labels(label, labels):
    assert split_labels(label) == labels


@given(st.lists(st.text("ab|\\ ", min_size=1).map(str.strip).filter(bool)))
def test_joined_labels_are_split_into_the_same(labels):
    assert split_labels(label_of(labels)) == labels


def test_a_column_of_a_table(tmp_path, write):
    for name in "abc":
        write(f"{name}.wav")
    (tmp_path / "metadata.csv").write_text("file_name,keyword,text\na.wav,yes,Ja\nb.wav,no,Nein\nc.wav,,?\n")
    rows = load_corpus(tmp_path, columns={"label": "keyword"})
    assert rows.features == features("label")
    assert [(row["label"], row["text"]) for row in rows] == [("yes", "Ja"), ("no", "Nein"), ("", "?")]
    assert load_corpus(tmp_path).column_names == ["id", "audio", "text", "speaker", "seconds", "start"]
    assert load_corpus(tmp_path, columns={"label": "text"})["text"][:] == ["Ja", "Nein", "?"]
    with pytest.raises(UserError, match="did you mean 'keyword'"):
        load_corpus(tmp_path, columns={"label": "keywrd"})


def test_labels_need_no_transcripts(tmp_path, write):
    write("a.wav")
    (tmp_path / "m.jsonl").write_text('{"audio": "a.wav", "labels": ["dog", 7]}\n')
    with pytest.raises(UserError, match="no column for the text"):
        load_corpus(tmp_path / "m.jsonl")
    (row,) = load_corpus(tmp_path / "m.jsonl", columns={"label": None})
    assert (row["label"], row["text"]) == ("dog|7", "")


def test_the_speaker_is_a_label(librispeech):
    rows = load_corpus(librispeech, "dev-clean", columns={"label": "speaker"})
    assert rows["label"][:] == rows["speaker"][:] == ["174"] * 3 + ["84"] * 3
    with pytest.raises(UserError, match="no column 'accent'"):
        load_corpus(librispeech, "dev-clean", columns={"label": "accent"})


@pytest.fixture
def classes(tmp_path, write):
    for name in ("yes/1.wav", "yes/far/2.wav", "no/1.wav", "_background_noise_/hum.wav", "stray.wav"):
        write(f"words/{name}")
    return tmp_path / "words"


def test_a_folder_per_label(classes):
    report = CorpusReport()
    rows = load_corpus(classes, columns={"label": "label"}, report=report)
    assert rows.features == features("label")
    labels = {"no/1.wav": "no", "yes/1.wav": "yes", "yes/far/2.wav": "yes"}
    assert {row["id"]: row["label"] for row in rows} == labels
    assert set(rows["text"]) == {""}
    dropped = {row.id: row.reason for row in report.dropped("words")}
    assert dropped == {"stray.wav": "no label", "_background_noise_/hum.wav": "no label"}
    with pytest.raises(UserError, match="no corpus of a known layout"):
        load_corpus(classes)
    with pytest.raises(UserError, match=r"no column 'keyword'.*\n-> use label=label"):
        load_corpus(classes, columns={"label": "keyword"})


def test_folders_of_splits_above_those_of_labels(classes):
    (classes / "stray.wav").unlink()
    root = classes.parent / "corpus"
    root.mkdir()
    classes.rename(root / "train")
    (root / "test").symlink_to(root / "train")
    columns = {"label": None}
    assert splits_of(root, columns=columns) == ["test", "train"]
    assert load_corpus(root, "train", columns=columns)["label"][:] == ["no", "yes", "yes"]
    with pytest.raises(UserError, match="it has the splits test, train"):
        load_corpus(root, columns=columns)


def test_a_table_comes_before_folders_and_transcripts_too(classes, librispeech):
    (classes / "metadata.csv").write_text("file_name,word\nyes/1.wav,ja\n")
    assert load_corpus(classes, columns={"label": "word"})["label"][:] == ["ja"]
    assert load_corpus(librispeech, "dev-clean", columns={"label": None})["label"][:] == [""] * 6


def test_classes_of_the_hub(tmp_path, write):
    import datasets

    audio = [{"bytes": write(f"{name}.wav").read_bytes(), "path": f"{name}.wav"} for name in "abc"]
    types = {
        "audio": datasets.Audio(decode=False),
        "label": datasets.ClassLabel(names=["no", "yes"]),
        "tags": datasets.List(datasets.ClassLabel(names=["loud", "far"])),
    }
    dataset = datasets.Dataset.from_dict({"audio": audio, "label": [1, 0, -1], "tags": [[0, 1], [], [1]]})
    (tmp_path / "hub").mkdir()
    dataset.cast(datasets.Features(types)).to_parquet(tmp_path / "hub" / "test.parquet")
    for streaming in (False, True):
        rows = load_corpus(tmp_path / "hub", "test", columns={"label": "label"}, streaming=streaming)
        assert rows.features == features("label")
        assert [(row["id"], row["label"], row["text"]) for row in rows] == [
            ("a.wav", "yes", ""),
            ("b.wav", "no", ""),
            ("c.wav", "", ""),
        ]
        rows = load_corpus(tmp_path / "hub", "test", columns={"label": "tags"}, streaming=streaming)
        assert [row["label"] for row in rows] == ["loud|far", "", "far"]


def test_real_words(data):
    columns = {"label": "keyword"}
    source = data / "arabic_speech_commands"
    assert splits_of(source, columns=columns) == ["test", "train", "val"]
    rows = load_corpus(source, "train", columns=columns)
    assert set(rows["label"]) == set("backward close down forward left no open right start stop up yes".split())
    assert 0 < len(rows) < len(load_corpus(source, columns=columns)) == 1440


# ---- languages, read like labels


@pytest.mark.parametrize("name", ["metadata.csv", "m.jsonl"])
def test_a_column_of_languages(tmp_path, write, name):
    for clip in "ab":
        write(f"{clip}.wav")
    lines = ["audio,text,locale", "a.wav,Ja,de", "b.wav,Yes,"]
    if name == "m.jsonl":
        lines = ['{"audio": "a.wav", "text": "Ja", "locale": "de"}']
        lines += ['{"audio": "b.wav", "text": "Yes", "locale": null}']
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    rows = load_corpus(tmp_path / name, columns={"language": "locale"})
    assert rows.features == features("language")
    assert [(row["text"], row["language"]) for row in rows] == [("Ja", "de"), ("Yes", "")]
    assert load_corpus(tmp_path / name, columns={"language": None})["language"][:] == ["de", ""]
    assert "language" not in load_corpus(tmp_path / name).column_names
    both = load_corpus(tmp_path / name, columns={"language": "locale", "label": "text"})
    assert both.column_names[-2:] == ["label", "language"]
    with pytest.raises(UserError, match="did you mean 'locale'"):
        load_corpus(tmp_path / name, columns={"language": "local"})


def test_languages_do_not_replace_transcripts(tmp_path, write, librispeech):
    write("a.wav")
    (tmp_path / "m.csv").write_text("audio,language\na.wav,de\n")
    with pytest.raises(UserError, match="no column for the text"):
        load_corpus(tmp_path / "m.csv", columns={"language": "language"})
    with pytest.raises(UserError, match="no column 'language'"):
        load_corpus(librispeech, "dev-clean", columns={"language": "language"})


def test_languages_of_the_hub(tmp_path, write):
    import datasets

    audio = [{"bytes": write(f"{name}.wav").read_bytes(), "path": f"{name}.wav"} for name in "ab"]
    names = datasets.ClassLabel(names=["German", "Spanish"])
    types = {"audio": datasets.Audio(decode=False), "text": datasets.Value("string"), "lang": names}
    dataset = datasets.Dataset.from_dict({"audio": audio, "text": ["Ja", "Sí"], "lang": [0, 1]})
    (tmp_path / "hub").mkdir()
    dataset.cast(datasets.Features(types)).to_parquet(tmp_path / "hub" / "test.parquet")
    for streaming in (False, True):
        rows = load_corpus(tmp_path / "hub", "test", columns={"language": "lang"}, streaming=streaming)
        assert rows.features == features("language")
        assert [(row["text"], row["language"]) for row in rows] == [("Ja", "German"), ("Sí", "Spanish")]
