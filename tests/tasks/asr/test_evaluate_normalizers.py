"""Evaluation of ordinary text under its normalizers, by a recognizer that writes what it is told."""

from __future__ import annotations

import json
from collections import Counter
from typing import ClassVar
from unittest import mock

import pytest
import torch

from sft_speech.corpora.report import CorpusReport
from sft_speech.tasks.asr.evaluate import evaluate_corpus, with_transcript
from sft_speech.tasks.asr.recognizer import Hypothesis
from sft_speech.tasks.asr.results import EvaluationResult
from sft_speech.tasks.asr.task import Recognition
from sft_speech.text.normalize import Normalized, TranscriptNormalizer
from sft_speech.text.scoring import normalizer_for
from sft_speech.training.rows import StoredRows

# ---- a recognizer that writes ordinary text ----


class Writer:
    """Writes the texts that it is given, with case and punctuation."""

    languages = ()
    search: ClassVar = {"search": "greedy"}
    model = torch.nn.Linear(1, 1)  # on the CPU

    def __init__(self, language: str | None, *hypotheses: str, spellings: dict[str, str] | None = None, **more: object):
        self.language, self.hypotheses, self.more = language, hypotheses, more
        self.spellings = spellings or {}
        self.default_normalizer = normalizer_for(language)

    def normalizer(self, text: str) -> Normalized:
        return Normalized(text.strip(), Counter())

    def encode(self, text: str) -> list[int]:
        return [*text.encode()]

    def recognize(self, clips, **options):
        for clip, text in zip(clips, self.hypotheses, strict=True):
            yield Hypothesis(text=text, seconds=clip.seconds, **self.more)


def written(*texts: str, seconds: float = 10.0) -> list[dict]:
    return [
        {"id": f"u{n}", "audio": {}, "text": text, "speaker": "", "seconds": seconds, "start": None}
        for n, text in enumerate(texts)
    ]


REFERENCES = ("Twenty one.", "It's my favourite colour!")
HYPOTHESES = ("21", "It is my favorite color.")


def test_two_word_error_rates_in_english(tmp_path):
    table = {"favourite": "favorite", "colour": "color"}
    found = evaluate_corpus(Writer("en", *HYPOTHESES, spellings=table), written(*REFERENCES))
    assert found.metrics() == {"wer": 0.0, "wer_as_written": 1.0, "cer": 0.0, "loops": 0}
    figures = json.loads(found.save(tmp_path, "dev").read_text())
    assert (figures["normalizer"], figures["wer"], figures["words"]) == ("whisper", 0.0, 6)
    # "Twenty one." has two errors; of "It's my favourite colour!" only "my" is right, and "It is" are two words.
    assert figures["wer_as_written"] == (2 + 4) / (2 + 4)
    assert figures["wer_as_written_interval"] == [1.0, 1.0]
    assert [json.loads(line) for line in (tmp_path / "dev.jsonl").read_text().splitlines()] == [
        {
            "id": "u0", "reference": "Twenty one.", "hypothesis": "21", "normalized_reference": "21",
            "seconds": 10.0, "word_errors": 0, "words": 1,
            "character_errors": 0, "characters": 2, "word_errors_as_written": 2, "words_as_written": 2,
        },
        {
            "id": "u1", "reference": "It's my favourite colour!", "hypothesis": "It is my favorite color.",
            "normalized_reference": "it is my favorite color", "normalized_hypothesis": "it is my favorite color",
            "seconds": 10.0, "word_errors": 0, "words": 5,
            "character_errors": 0, "characters": 23, "word_errors_as_written": 4, "words_as_written": 4,
        },
    ]  # fmt: skip
    assert found.table("dev").splitlines()[1:4] == [
        "WER              0.00 %  [0.00, 0.00] over utterances   0 substituted, 0 deleted, 0 inserted of 6",
        "WER as written 100.00 %  [100.00, 100.00] over utterances   4 substituted, 1 deleted, 1 inserted of 6",
        "CER              0.00 %  [0.00, 0.00] over utterances   0 substituted, 0 deleted, 0 inserted of 25",
    ]
    assert found.table("dev").splitlines()[0].endswith(" x real time, normalizer: whisper")


def test_without_a_table_of_spellings_the_name_says_so():
    found = evaluate_corpus(Writer("en", *HYPOTHESES), written(*REFERENCES)).summary()
    assert (found["normalizer"], found["wer"]) == ("whisper without spellings", 2 / 6)


def test_german_under_basic_and_any_normalizer_by_name():
    rows, writer = written("Er zahlte 21 Euro."), Writer("de", "er zahlte, einundzwanzig Euro")
    found = evaluate_corpus(writer, rows).summary()
    assert (found["normalizer"], found["wer"], found["wer_as_written"]) == ("basic", 1 / 4, 4 / 4)
    assert evaluate_corpus(writer, rows, normalizer="none").summary()["wer"] == 4 / 4
    alike = evaluate_corpus(writer, rows, normalizer="checkpoint")
    assert (alike.normalizer, alike.wer) == ("checkpoint", 4 / 4)
    assert "wer_as_written" not in alike.summary().keys() | alike.metrics().keys()


def test_chinese_is_counted_in_letters():
    found = evaluate_corpus(Writer("zh", "你好世间"), written("你好，世界！"))
    assert (found.normalizer, found.words.reference) == ("basic, letters split", 4)
    assert (found.wer, found.cer, found.wer_as_written) == (1 / 4, 1 / 4, 3 / 6)
    assert found.confusions() == [(("界", "间"), 1)]


def test_hindi_words_are_cut_with_a_warning(caplog):
    found = evaluate_corpus(Writer("hi", "हिन्दी में"), written("हिन्दी में"))
    assert (found.words.reference, sum(one.reference for one in found.written)) == (4, 2)
    assert "cuts words at the vowel signs and marks of 1 of 1 references" in caplog.text


def test_loops_are_counted_and_named(tmp_path, caplog):
    loop = "Thanks for watching! " * 12
    found = evaluate_corpus(Writer("en", "Yes.", loop, loop, "No."), written("Yes.", "Thank you.", loop, "No."))
    assert [one.loop for one in found.utterances] == [None, "repetition", None, None]  # the third one was said
    figures = json.loads(found.save(tmp_path, "dev").read_text())
    assert (figures["loops"], figures["loop_reasons"], figures["loop_ids"]) == (1, {"repetition": 1}, ["u1"])
    assert json.loads((tmp_path / "dev.jsonl").read_text().splitlines()[1])["loop"] == "repetition"
    line = "1 of 4 hypotheses were likely not spoken (repetition 1): u1"
    assert line in found.table()
    assert line in caplog.text
    assert found.metrics()["loops"] == 1
    whole = EvaluationResult.merge([found, evaluate_corpus(Writer("en", "Hi"), written("Hi"))])
    assert (len(whole.loops), whole.normalizer, len(whole.written)) == (1, "whisper without spellings", 5)


def test_text_on_silence_and_impossible_speed():
    found = evaluate_corpus(Writer("en", "Thank you.", silent=True), written("(sighs) Oh."))
    assert found.summary()["loop_reasons"] == {"silence": 1}
    fast = evaluate_corpus(Writer("en", "The quick brown fox jumps over the lazy dog."), written("Fox.", seconds=0.4))
    assert fast.summary()["loop_reasons"] == {"speed": 1}


def test_rows_without_words_under_the_normalizer_are_dropped(caplog):
    from datasets import Dataset

    rows, report = Dataset.from_list(written("Hmm.", "(laughs)", "Yes.")), CorpusReport()
    kept = with_transcript(Writer("en"), rows, "dev", report)
    assert kept["id"] == ["u2"]
    assert report.to_dict()["dev"]["dropped"]["reasons"].keys() == {"empty transcript", "only signs of transcription"}
    assert len(with_transcript(Writer("en"), rows, "dev", CorpusReport(), "none")) == 2
    assert len(with_transcript(Writer("en"), rows, "dev", CorpusReport(), "none", "keep")) == 3
    with_transcript(Writer("de"), rows, "dev", CorpusReport(), "whisper")
    assert "the normalizer whisper is for English, but the model's language is de: use basic" in caplog.text


def test_a_language_without_spaces_is_scored_by_letters(chinese):
    found = evaluate_corpus(chinese, written("我们今天去公园玩"))
    assert (found.normalizer, found.cer, found.wer) == ("checkpoint, letters split", 1 / 8, 1 / 8)
    assert list(found.summary())[:3] == ["headline", "cer", "cer_interval"]
    assert found.summary()["headline"] == "cer"
    assert list(found.metrics())[:3] == ["cer", "wer", "loops"]
    lines = found.table().splitlines()
    assert lines[1].startswith("CER             12.50 %")
    assert lines[2].startswith("WER of letters  12.50 %")


@pytest.fixture
def chinese():
    """A CTC model of Chinese whose language is not known: "en" is the default."""
    writer = Writer("en", "我们今天去公园看")
    writer.normalizer = TranscriptNormalizer(set("我们今天去公园看玩"), "keep", "en")
    writer.default_normalizer = "checkpoint"
    return writer


@pytest.mark.parametrize(
    ("chosen", "text", "metric"),
    [(None, "我们今天去公园", "cer"), (None, "we go to the park", "wer"), ("wer", "我们今天去公园", "wer")],
)
def test_the_best_checkpoint_of_a_language_without_spaces_has_the_lowest_cer(chinese, chosen, text, metric):
    config = mock.Mock(metric_for_best_model=chosen, selecting=["eval"])
    task = mock.Mock(config=config, checkpoint=chinese, metric=chosen or "wer")
    Recognition.begin(task, {"eval": StoredRows({"text": [text]})})
    assert task.metric == metric
