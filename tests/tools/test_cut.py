"""Long recordings cut at the ends of sentences."""

from __future__ import annotations

import csv
from importlib.resources import files

import numpy as np
import pytest
import soundfile

from sft_speech import cli
from sft_speech.corpora import load_corpus
from sft_speech.corpora.espeak import ESPEAK_RATE, Voice, speak
from sft_speech.tasks.asr.transcriber import Span
from sft_speech.tools.cut import matches, segments

RATE = 1000


def normalize(text: str) -> str:
    return "".join(character for character in text.lower() if character.isalpha() or character == " ")


def spoken(hypothesis: str) -> tuple[list[Span], np.ndarray]:
    """Return spans and waveform: 0.1 s for each character, loud except for spaces; "_" is half a second of silence."""
    spans, seconds, waveform = [], 0.0, []
    for character in hypothesis:
        length = 0.5 if character == "_" else 0.1
        if character != "_":
            spans.append(Span(character, seconds, seconds + length))
        seconds += length
        waveform.append(np.full(round(length * RATE), 0.0 if character in " _" else 0.5, np.float32))
    return spans, np.concatenate(waveform)


def cut(text: str, hypothesis: str, max_seconds: float):
    return segments(text, normalize, *spoken(hypothesis), RATE, max_seconds)


def test_sentences_are_cut_in_their_pauses_and_kept_together_while_they_fit():
    text, hypothesis = "The cat sat. A dog ran! Who knows?", "the cat sat_ a dog ran_ who knows"
    apart = cut(text, hypothesis, 1.5)
    assert [segment.text for segment in apart] == ["The cat sat.", "A dog ran!", "Who knows?"]
    assert apart[0].start == 0
    assert 1.1 < apart[0].end == apart[1].start < 1.7
    assert 2.6 < apart[1].end == apart[2].start < 3.2
    assert apart[2].end == pytest.approx(4.1)
    assert [segment.error_rate for segment in apart] == [0, 0, 0]
    assert [segment.text for segment in cut(text, hypothesis, 3.0)] == ["The cat sat. A dog ran!", "Who knows?"]
    assert [segment.text for segment in cut(text, hypothesis, 10.0)] == [text]


def test_a_wrong_character_is_an_error_of_its_segment():
    first, second = cut("The cat sat. A dog ran.", "the bat sat_ a fog ram", 1.0)
    assert first.error_rate == pytest.approx(1 / 11)
    assert second.error_rate == pytest.approx(2 / 9)


def test_no_cut_where_the_end_of_the_sentence_was_not_recognized():
    text = "The cat sat on an expensive carpet. A dog ran by."
    (whole,) = cut(text, "the cat sat zzzzzzzzzzzzzzzzzzzzzz a dog ran by", 1.0)
    assert whole.text == text


@pytest.mark.parametrize(("text", "hypothesis"), [("...", "yes"), ("Yes. No.", "_")])
def test_no_letters_or_nothing_recognized_gives_nothing(text, hypothesis):
    assert cut(text, hypothesis, 1.0) == []


def test_spaces_match_nothing():
    assert matches("ab c", "ab c").tolist() == [0, 1, -1, 3]
    assert matches("abc", "xbc").tolist() == [-1, 1, 2]


def test_the_command_on_synthetic_speech_by_the_embedded_recognizer(tmp_path, capsys):
    said = ["the ferry leaves at nine.", "my father is looking for his hearing aid.", "you can take your bicycles."]
    clips = [speak(sentence, Voice()) for sentence in said]
    pause = np.zeros(ESPEAK_RATE // 2, np.float32)
    (tmp_path / "wavs").mkdir()
    soundfile.write(tmp_path / "wavs" / "long.wav", np.concatenate([x for c in clips for x in (c, pause)]), ESPEAK_RATE)
    soundfile.write(tmp_path / "wavs" / "short.wav", clips[0], ESPEAK_RATE)
    rows = [f"long|{' '.join(said)}|{' '.join(said)}", f"short|{said[0]}|{said[0]}"]
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    model, manifest = str(files("sft_speech") / "assets/wav2vec2-small"), str(tmp_path / "cut.csv")
    arguments = ["cut", str(tmp_path), "--recognizer", model, "-o", manifest, "--max_seconds", "3.5"]
    assert cli.main([*arguments, "--max_error_rate", "1"]) == 0
    assert "1 recording is short enough; 1 was cut into 3 segments" in capsys.readouterr().out
    corpus = load_corpus(manifest)
    assert corpus["text"] == [*said, said[0]]
    assert corpus["id"] == ["long-0", "long-1", "long-2", "short"]
    seconds = [len(clip) / ESPEAK_RATE for clip in clips]
    ends = np.cumsum([length + 0.5 for length in seconds])[:2]
    # Within the pauses, or within the silence that espeak-ng adds to a sentence.
    assert np.all(np.abs(np.array(corpus["start"][1:3]) - (ends - 0.4)) < 0.45)

    assert cli.main([*arguments, "--max_error_rate", "0"]) == 0
    assert " left out, a CER" in capsys.readouterr().out
    with open(manifest) as file:
        assert len(list(csv.DictReader(file))) < 4


@pytest.mark.parametrize(("channel", "expected"), [(None, [""]), ("right", ["right"])])
def test_the_manifest_names_the_channel_that_was_chosen(tmp_path, channel, expected):
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "call.wav", 0.1 * rng.normal(size=(16000, 2)), 16000)
    (tmp_path / "calls.csv").write_text("audio,text\ncall.wav,hello\n")
    model, manifest = str(files("sft_speech") / "assets/wav2vec2-small"), str(tmp_path / "cut.csv")
    arguments = ["cut", str(tmp_path / "calls.csv"), "--recognizer", model, "-o", manifest]
    assert cli.main([*arguments, *(["--channel", channel] if channel else [])]) == 0
    with open(manifest) as file:
        assert [row.get("channel") or "" for row in csv.DictReader(file)] == expected


def test_a_manifest_without_segments_is_refused(tmp_path, capsys):
    noise = 0.01 * np.random.default_rng(0).normal(size=2 * 16000)
    soundfile.write(tmp_path / "noise.wav", noise, 16000)
    (tmp_path / "corpus.csv").write_text("audio,text\nnoise.wav,nobody says this\n")
    model, manifest = str(files("sft_speech") / "assets/wav2vec2-small"), tmp_path / "cut.csv"
    arguments = ["--recognizer", model, "--max_seconds", "1", "--max_error_rate", "0", "-o", str(manifest)]
    assert cli.main(["cut", str(tmp_path / "corpus.csv"), *arguments]) == 2
    assert "corpus.csv: nothing is left of it: 1 left out, a CER above 0 %" in capsys.readouterr().err
    assert not list(tmp_path.glob("cut.*"))


def test_the_source_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "corpus.csv").write_text("audio,text\n")
    assert cli.main(["cut", str(tmp_path / "corpus.csv"), "--recognizer", "m", "-o", str(tmp_path / "corpus.csv")]) == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert (tmp_path / "corpus.csv").read_text() == "audio,text\n"


@pytest.mark.parametrize("output", ["cut.txt", "nowhere/cut.csv"])
def test_the_manifest_needs_a_name(tmp_path, output, capsys):
    assert cli.main(["cut", str(tmp_path), "--recognizer", "m", "-o", str(tmp_path / output)]) == 2
    assert "it must be a .csv file in an existing folder" in capsys.readouterr().err
