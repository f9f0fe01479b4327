"""ELAN annotations."""

from __future__ import annotations

import pytest

from sft_speech.corpora import CorpusReport, load_corpus
from sft_speech.errors import UserError

DOCUMENT = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT AUTHOR="" DATE="2026-01-01T00:00:00+00:00" FORMAT="3.0" VERSION="3.0">
  <HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">
    <MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/x/my%20talk.wav" MIME_TYPE="audio/x-wav" {origin}
      RELATIVE_MEDIA_URL="./my%20talk.wav"/>
  </HEADER>
  <TIME_ORDER>
    <TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="0"/><TIME_SLOT TIME_SLOT_ID="ts2" TIME_VALUE="1250"/>
    <TIME_SLOT TIME_SLOT_ID="ts3"/><TIME_SLOT TIME_SLOT_ID="ts4" TIME_VALUE="2000"/>
  </TIME_ORDER>
  {tiers}
  <LINGUISTIC_TYPE LINGUISTIC_TYPE_ID="utterance" TIME_ALIGNABLE="true"/>
</ANNOTATION_DOCUMENT>
"""


def tier(name: str, *annotations: tuple[str, str, str], participant: str = "", kind: str = "utterance") -> str:
    rows = "".join(
        f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a{number}" TIME_SLOT_REF1="{start}" TIME_SLOT_REF2="{end}">'
        f"<ANNOTATION_VALUE>{text}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>"
        for number, (start, end, text) in enumerate(annotations, 1)
    )
    person = f' PARTICIPANT="{participant}"' if participant else ""
    return f'<TIER TIER_ID="{name}" LINGUISTIC_TYPE_REF="{kind}"{person}>{rows}</TIER>'


REFERRING = """<TIER TIER_ID="gloss" PARENT_REF="a" LINGUISTIC_TYPE_REF="gloss"><ANNOTATION>
<REF_ANNOTATION ANNOTATION_ID="r1" ANNOTATION_REF="a1"><ANNOTATION_VALUE>HALLO</ANNOTATION_VALUE></REF_ANNOTATION>
</ANNOTATION></TIER>"""


@pytest.fixture
def corpus(tmp_path, write):
    """Writes a document and reads it: its rows and what was dropped."""

    def read(*tiers: str, columns=None, origin: str = "", name: str = "my talk.eaf", document: str = DOCUMENT):
        write("c/my talk.wav", 3.0)
        (tmp_path / "c" / name).write_text(document.format(tiers="".join(tiers), origin=origin))
        report = CorpusReport()
        rows = load_corpus(tmp_path / "c", name="c", columns=columns, report=report)
        return [(row["text"], row["speaker"], row["start"], row["seconds"]) for row in rows], report.dropped("c")

    return read


@pytest.mark.parametrize("name", ["my talk.eaf", "annotated.eaf"])
def test_one_tier(corpus, caplog, name):
    first = tier("a", ("ts1", "ts2", "Hello &amp; good day"), ("ts2", "ts4", " "), ("ts3", "ts4", "x"), participant="A")
    rows, dropped = corpus(first, REFERRING, name=name)
    assert rows == [("Hello &amp; good day".replace("&amp;", "&"), "A", 0.0, 1.25)]
    assert [(row.id, row.reason, row.detail) for row in dropped] == [
        (f"{name} a3", "bad segment", "its time slots have no times")
    ]
    assert "the tiers gloss are not read: their annotations refer to other tiers" in caplog.text


def test_a_tier_for_each_participant(corpus):
    tiers = [tier(f"x@{who}", ("ts1", "ts2", f"I am {who}"), participant=who) for who in ("anna", "bob")]
    assert corpus(*tiers)[0] == [("I am anna", "anna", 0.0, 1.25), ("I am bob", "bob", 0.0, 1.25)]


def test_the_offset_of_the_recording(corpus):
    assert corpus(tier("a", ("ts1", "ts2", "hi")), origin='TIME_ORIGIN="500"')[0] == [("hi", "", 0.5, 1.25)]


def test_which_of_several_tiers_is_asked(corpus):
    said, notes = tier("said", ("ts1", "ts2", "hi")), tier("notes", ("ts1", "ts2", "laughs"), kind="note")
    with pytest.raises(UserError, match=r"in the tiers said, notes.\n-> say which: --text_column said"):
        corpus(said, notes)
    assert corpus(said, notes, columns={"text": "said"})[0] == [("hi", "", 0.0, 1.25)]
    assert corpus(said, notes, columns={"text": "note"})[0] == [("laughs", "", 0.0, 1.25)]
    assert corpus(said, notes, columns={"speaker": "tier"})[0][1] == ("laughs", "notes", 0.0, 1.25)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (
            '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><ANNOTATION_DOCUMENT>&e;</ANNOTATION_DOCUMENT>',
            "DOCTYPE",
        ),
        ("<ANNOTATION_DOCUMENT>", "not XML"),
        ("<html/>", "not an ELAN document"),
        ('<ANNOTATION_DOCUMENT><HEADER TIME_UNITS="NTSC-frames"/></ANNOTATION_DOCUMENT>', "in NTSC-frames, not in"),
    ],
)
def test_documents_that_cannot_be_read(tmp_path, corpus, document, why):
    (tmp_path / "c").mkdir()
    (tmp_path / "c/b.eaf").write_text(document)
    rows, dropped = corpus(tier("a", ("ts1", "ts2", "hi")))
    assert len(rows) == 1
    assert (dropped[0].id, dropped[0].reason) == ("b.eaf", "unreadable")
    assert why in dropped[0].detail
