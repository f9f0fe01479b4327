"""The layout of Common Voice."""

from __future__ import annotations

import pytest
import soundfile

from sft_speech.corpora import CorpusReport, load_corpus
from sft_speech.corpora.layout import open_source
from sft_speech.corpora.layouts.commonvoice import CommonVoice
from sft_speech.corpora.load import splits_of
from sft_speech.errors import UserError

HEADER = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccents\tlocale\tsegment\n"


def table(*clips: str, locale: str = "de") -> str:
    rows = [f"anna{number}\t{clip}\tSatz {clip[-7:]}\t2\t0\t\t\t\t{locale}\t\n" for number, clip in enumerate(clips)]
    return HEADER + "".join(rows)


@pytest.fixture
def release(fill):
    return fill(
        {
            "cv/de/train.tsv": table("common_voice_de_1.mp3", "common_voice_de_2.mp3"),
            "cv/de/dev.tsv": table("common_voice_de_3.mp3"),
            "cv/de/test.tsv": table("common_voice_de_4.mp3"),
            "cv/de/validated.tsv": table(*(f"common_voice_de_{number}.mp3" for number in (1, 2, 3, 4, 5))),
            "cv/de/reported.tsv": "sentence_id\tsentence\tlocale\treason\n1\tSatz\tde\toffensive\n",
            "cv/de/clip_durations.tsv": "clip\tduration[ms]\n",
            **{f"cv/de/clips/common_voice_de_{number}.mp3": "" for number in (1, 2, 3, 4, 5)},
        }
    )


def test_the_official_splits_and_others_by_name(release, listed):
    source = open_source(release / "cv/de")
    assert isinstance(source, CommonVoice)
    assert source.splits() == ["dev", "test", "train"]
    assert listed(source, "train") == [
        ("common_voice_de_1.mp3", "cv/de/clips/common_voice_de_1.mp3", "Satz e_1.mp3", "anna0"),
        ("common_voice_de_2.mp3", "cv/de/clips/common_voice_de_2.mp3", "Satz e_2.mp3", "anna1"),
    ]
    assert len(listed(source, "validated")) == 5
    with pytest.raises(UserError, match=r"there is no split 'reported'.\n.*dev, test, train, validated"):
        source.listing("reported")


def test_the_one_language_of_a_release(release):
    assert splits_of(release / "cv") == ["dev", "test", "train"]


def test_several_languages_are_asked_about(release, fill):
    fill({"cv/fr/train.tsv": table("a.mp3"), "cv/fr/clips/a.mp3": ""})
    with pytest.raises(UserError, match=r"it has the languages de, fr.\n-> give one of them: .*/cv/de"):
        open_source(release / "cv")


def test_paths_without_suffix_and_the_language(fill, listed):
    folder = fill({"train.tsv": table("a", "b.wav", "", locale="sv-SE"), "clips/a.mp3": "", "clips/b.wav": ""})
    source = open_source(folder, {"language": None})
    listing = source.listing("train")
    assert listing.rows["language"].to_pylist() == ["sv-SE", "sv-SE"]
    assert [row[:2] for row in listed(source, "train")] == [("a", "clips/a.mp3"), ("b.wav", "clips/b.wav")]
    assert [row.reason for row in listing.dropped] == ["missing file"]


def test_a_release_without_official_splits(fill):
    folder = fill({"validated.tsv": table("a.mp3"), "other.tsv": table("b.mp3"), "clips/a.mp3": ""})
    assert splits_of(folder) == ["other", "validated"]


def test_missing_clips(fill, write, release):
    with pytest.raises(UserError, match="no folder clips"):
        CommonVoice(fill({"de/train.tsv": table("a.mp3")}) / "de").listing("train")
    for number in (1, 3):
        path = write(f"{number}.wav")
        soundfile.write(release / f"cv/de/clips/common_voice_de_{number}.mp3", *soundfile.read(path), format="MP3")
    (release / "cv/de/clips/common_voice_de_2.mp3").unlink()
    report = CorpusReport()
    corpus = load_corpus(release / "cv", "train", report=report)
    assert corpus["id"][:] == ["common_voice_de_1.mp3"]
    assert [(row.id, row.reason) for row in report.dropped("train")] == [("common_voice_de_2.mp3", "missing file")]


def test_no_clip_is_taken_from_elsewhere(fill):
    folder = fill({"cv/train.tsv": table("../../private.mp3", "a.mp3"), "cv/a.mp3": "", "private.mp3": ""})
    (folder / "cv/clips").mkdir()
    listing = open_source(folder / "cv").listing("train")
    assert listing.rows["id"].to_pylist() == ["a.mp3"]
    assert [row.reason for row in listing.dropped] == ["outside the corpus folder"]
    (folder / "cv/train.tsv").write_text(table("a", "b"))
    for name, target in (("a", "private.mp3"), ("b", "cv/a.mp3")):
        (folder / f"cv/clips/{name}.mp3").symlink_to(folder / target)
    listing = open_source(folder / "cv").listing("train")
    assert listing.rows["id"].to_pylist() == ["b"]
    assert [row.reason for row in listing.dropped] == ["outside the corpus folder"]
