"""STM and CTM."""

from __future__ import annotations

import pytest

from sft_speech.corpora import CorpusReport, load_corpus
from sft_speech.errors import UserError

TED = """;; a comment
A_2009 1 inter_segment_gap 0 0.5 <o,,unknown> ignore_time_segment_in_scoring
A_2009 1 A 0.5 1.25 <o,f0,male> <sil> so here 's
A_2009 1 A 1.25 2.0 <o,f0,male> ignore_time_segment_in_scoring
A_2009 1 A 2.0 x <o,f0,male> nothing
A_2009 1 A 2.00 2.50 <o,f0,male> it   is
"""


def test_stm_of_ted_lium(tmp_path, write, caplog):
    for split in ("test", "train"):
        write(f"TED/{split}/sph/A_2009.wav", 3.0)
        (tmp_path / f"TED/{split}/stm").mkdir()
        (tmp_path / f"TED/{split}/stm/A_2009.stm").write_text(TED)
    with pytest.raises(UserError, match="it has the splits test, train"):
        load_corpus(tmp_path / "TED")
    report = CorpusReport()
    corpus = load_corpus(tmp_path / "TED", "train", report=report)
    assert [(row["id"], row["text"], row["speaker"], row["start"], row["seconds"]) for row in corpus] == [
        ("train/sph/A_2009.wav#0.500-1.250", "<sil> so here 's", "A", 0.5, 0.75),
        ("train/sph/A_2009.wav#2.000-2.500", "it is", "A", 2.0, 0.5),
    ]
    assert {row["audio"]["path"] for row in corpus} == {str(tmp_path / "TED/train/sph/A_2009.wav")}
    assert "2 segments marked ignore_time_segment_in_scoring are left out" in caplog.text
    assert [(row.id, row.reason) for row in report.dropped("train")] == [
        ("train/stm/A_2009.stm line 5", "unreadable row")
    ]


def test_one_stm_for_many_recordings_as_the_source(tmp_path, write):
    for name in ("a", "b"):
        write(f"c/{name}.wav", 1.0, channels=2)
    lines = "a A anna 0 1 <sil> hello\na B bob 0 1 hi\nb A anna 0.25 0.5 yes\ngone A anna 0 1 no\n"
    (tmp_path / "c/all.stm").write_text(lines)
    report = CorpusReport()
    corpus = load_corpus(tmp_path / "c/all.stm", name="c", report=report)
    assert [(row["id"], row["text"], row["speaker"], row["channel"]) for row in corpus] == [
        ("a.wav#0.000-1.000", "<sil> hello", "anna", 0),
        ("a.wav#0.000-1.000-2", "hi", "bob", 1),
        ("b.wav#0.250-0.500", "yes", "anna", 0),
    ]
    assert [(row.id, row.detail) for row in report.dropped("c")] == [
        ("all.stm#0.000-1.000", "no recording called gone")
    ]


def test_the_words_of_a_ctm_are_joined_up_to_a_pause(tmp_path, write):
    write("c/a.wav", 5.0)
    (tmp_path / "c/a.ctm").write_text(
        ";; words\na 1 0.50 0.25 hello 0.9 lex anna\na 1 0.80 0.40 there 0.9 lex anna\n"
        "a 1 1.20 0.10 uh 0.9 non-lex anna\n"
        "a 1 1.70 0.30 again 0.9 lex anna\na 1 2.00 0.50 yes 0.9 lex bob\na 1 2.2\n"
    )
    report = CorpusReport()
    corpus = load_corpus(tmp_path / "c", name="c", report=report)
    assert [(row["text"], row["speaker"], row["start"], round(row["seconds"], 3)) for row in corpus] == [
        ("hello there", "anna", 0.5, 0.7),
        ("again", "anna", 1.7, 0.3),
        ("yes", "bob", 2.0, 0.5),
    ]
    assert [(row.id, row.reason) for row in report.dropped("c")] == [("a.ctm line 7", "unreadable row")]


def test_stm_and_ctm_of_the_same_recordings(tmp_path, write):
    write("c/a.wav", 1.0)
    (tmp_path / "c/a.stm").write_text("a 1 a 0 1 x\n")
    (tmp_path / "c/a.ctm").write_text("a 1 0 1 x\n")
    with pytest.raises(UserError, match=r"several corpora are in it: a.stm, a.ctm.\n-> move the others away"):
        load_corpus(tmp_path / "c")
