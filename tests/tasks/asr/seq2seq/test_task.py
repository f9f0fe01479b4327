"""Which rows a run of Whisper trains on, and in which language; what it refuses."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sft_speech.corpora import CorpusReport, load_corpus
from sft_speech.errors import UserError
from sft_speech.tasks.asr.config import FinetuneAsrConfig
from sft_speech.tasks.asr.evaluate import with_transcript
from sft_speech.tasks.asr.loading import build, load_checkpoint
from sft_speech.training.rows import StoredRows

RATE = 16_000


@pytest.fixture
def corpus(tmp_path):
    """`corpus(*rows)` writes a manifest of clips of noise; a row is (text, language, seconds)."""

    def write(*rows: tuple[str, str, float]) -> Path:
        with (tmp_path / "corpus.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["audio", "text", "lang"])
            for number, (text, language, seconds) in enumerate(rows):
                samples = np.random.default_rng(number).normal(0, 0.1, round(seconds * RATE))
                soundfile.write(tmp_path / f"{number}.wav", samples, RATE)
                table.writerow([f"{number}.wav", text, language])
        return tmp_path / "corpus.csv"

    return write


def task_of(source: Path, model: Path, **options):
    """Return the loaded task of a run, and its rows."""
    settings = {"model": str(model), "source": str(source), "output_dir": "unused", **options}
    config = FinetuneAsrConfig(**settings)
    rows = StoredRows(load_corpus(source, columns=config.columns))
    task = build(config)
    task.load(rows)
    return task, rows


def kept_and_dropped(task, rows) -> tuple[list[str], dict[str, tuple[str, str]]]:
    report = CorpusReport()
    kept = task.usable("train", rows, report).table["id"][:]
    return kept, {row.id: (row.reason, row.detail) for row in report.dropped("train")}


def test_rows_that_cannot_be_learned_are_dropped_with_a_reason(corpus, tiny_seq2seq):
    rows = [
        ("Good morning.", "", 1.0),
        ("", "", 1.0),
        ("Good morning.", "", 5.0),
        ("the " * 100, "", 1.0),
        ("Доброе утро, Anna", "", 1.0),
    ]
    task, given = task_of(corpus(*rows), tiny_seq2seq("whisper-en"), language="en")
    kept, dropped = kept_and_dropped(task, given)
    assert kept == ["0.wav"]
    assert dropped == {
        "1.wav": ("empty transcript", ""),
        "2.wav": ("too long", "5.0 s, max_seconds is 4: `sft-speech cut` cuts it"),
        "3.wav": ("more tokens than the decoder takes", "103, it takes 64: `sft-speech cut` cuts it"),
        "4.wav": ("another script", "Cyrillic, its language is en"),
    }


def test_the_longest_transcript_fills_the_decoder(corpus, tiny_seq2seq):
    """64 inputs: 4 tokens of the prefix, or 3 with a timestamp, then one of the timestamps, and the text."""
    words = {count: " ".join(["the"] * count) for count in (59, 60)}
    source = corpus(*((text, "", 1.0) for text in words.values()))
    task, given = task_of(source, tiny_seq2seq("whisper"), language="en")
    kept, _ = kept_and_dropped(task, given)
    assert kept == ["0.wav"]
    labels = task.checkpoint.encode(words[59], times=(0.0, 1.0))
    assert len(task.checkpoint.transcripts.prefix(timestamps=True)) + len(labels) - 1 == 64


def test_each_row_is_learned_in_its_language(corpus, tiny_seq2seq):
    rows = [
        ("Guten Morgen", "German", 1.0),
        ("Buenos días", "es-MX", 1.0),
        ("你好", "zh-Hans", 1.0),
        ("Bonjour", "French", 1.0),
        ("Hello", "", 1.0),
        ("Привет", "de", 1.0),
    ]
    model = tiny_seq2seq("whisper")
    task, given = task_of(corpus(*rows), model, language_column="lang", timestamp_share=0.0)
    report = CorpusReport()
    usable = task.usable("train", given, report)
    assert {row.id: row.reason for row in report.dropped("train")} == {
        "3.wav": "unknown language",
        "4.wav": "no language",
        "5.wav": "another script",
    }
    dataset, names = task.dataset(usable), task.checkpoint.transcripts.tokenizer.convert_ids_to_tokens
    made = [dataset[(0, number)] for number in range(3)]
    assert [names(one["prefix"])[1] for one in made] == ["<|de|>", "<|es|>", "<|zh|>"]
    decoded = [task.checkpoint.transcripts.tokenizer.decode(one["labels"]) for one in made]
    assert [text.removesuffix("<|endoftext|>") for text in decoded] == [" Guten Morgen", " Buenos días", "你好"]


def test_evaluation_keeps_rows_of_known_languages(corpus, tiny_seq2seq):
    rows = [("Guten Morgen", "German", 1.0), ("Bonjour", "French", 1.0), ("Hello", "", 1.0), ("", "de", 1.0)]
    task, given = task_of(corpus(*rows), tiny_seq2seq("whisper"), language_column="lang")
    report = CorpusReport()
    assert with_transcript(task.checkpoint, given.table, "dev", report)["id"][:] == ["0.wav"]
    reasons = {row.id: row.reason for row in report.dropped("dev")}
    assert reasons == {"1.wav": "unknown language", "2.wav": "no language", "3.wav": "empty transcript"}


def test_each_clip_is_evaluated_in_its_language(corpus, tiny_seq2seq, monkeypatch):
    from sft_speech.tasks.asr.seq2seq.checkpoint import Checkpoint

    rows = [("Guten Morgen", "German", 1.0), ("Hola", "spa", 1.5), ("你好", "cmn", 0.7)]
    task, given = task_of(corpus(*rows), tiny_seq2seq("whisper"), language_column="lang")
    recognize, seen = Checkpoint.recognize, []

    def watched(self, clips, **options):
        seen.extend(clips)
        return recognize(self, seen, **options)

    monkeypatch.setattr(Checkpoint, "recognize", watched)
    result = task.evaluate(with_transcript(task.checkpoint, given.table, "dev", CorpusReport()))
    assert [clip.language for clip in seen] == ["de", "es", "zh"]
    encode = task.checkpoint.transcripts.encode
    assert [list(clip.labels) for clip in seen] == [encode(text, language) for text, language, _ in rows]
    assert len(result.utterances) == 3
    # The loss is that of training, with each language in the prefix.
    batch = task.collator()([task.dataset(task.usable("train", given, CorpusReport()))[(0, n)] for n in range(3)])
    task.model.eval()
    loss = task.criterion.loss(task.model, batch).total.item() / task.criterion.count(batch)
    assert result.loss == pytest.approx(loss, rel=1e-4)


def test_a_model_of_several_languages_detects_them_afterwards(corpus, tiny_seq2seq, tmp_path):
    """The language of the run before is forgotten."""
    german = tmp_path / "german"
    source = corpus(("Guten Morgen", "de", 1.0))
    task, _ = task_of(source, tiny_seq2seq("whisper"), language="German")
    task.save(german)
    saved = json.loads((german / "generation_config.json").read_text())
    assert (saved["language"], saved["task"]) == ("de", "transcribe")
    assert task_of(source, german)[0].checkpoint.transcripts.language == "de"
    task, _ = task_of(source, german, language_column="lang")
    assert task.checkpoint.transcripts.language is None
    task.save(tmp_path / "several")
    assert json.loads((tmp_path / "several" / "generation_config.json").read_text()).get("language") is None


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("whisper", {}, "no language: .* writes 4 languages.\n-> set `language: de`, for example, or language_column"),
        ("whisper", {"language": "fr"}, "language fr: .* has no token for it.\n-> choose one of de, en, es, zh"),
        ("whisper-en", {"language": "de"}, "language de: .* writes only English.\n-> take a multilingual checkpoint"),
        ("whisper-en", {"language_column": "lang"}, "language_column lang: .* writes one language"),
        ("whisper", {"language": "de", "target_lang": "deu"}, "target_lang deu: only CTC models have it"),
        ("whisper", {"language": "de", "freeze_encoder_steps": 10}, "freeze_encoder_steps 10: only CTC models have it"),
    ],
)
def test_what_is_refused(corpus, tiny_seq2seq, kind, options, message):
    with pytest.raises(UserError, match=message):
        task_of(corpus(("Hello", "en", 1.0)), tiny_seq2seq(kind), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"label_smoothing": 0.1},
        {"lower_case": True},
        {"timestamp_share": 0.1},
        {"encoder_seconds": "full"},
        {"language_column": "lang"},
    ],
)
def test_a_ctc_model_has_none_of_the_options(corpus, tiny_directory, options):
    ((name, _),) = options.items()
    with pytest.raises(
        UserError, match=rf"{name} .*: only models that write token by token have it.\n-> leave {name} out"
    ):
        task_of(corpus(("Hello", "en", 1.0)), tiny_directory("wav2vec2-layer"), **options)


def test_a_corpus_in_another_script_ends_the_run(corpus, tiny_seq2seq):
    task, given = task_of(corpus(*[("Привет", "", 1.0)] * 3, ("Hi", "", 1.0)), tiny_seq2seq("whisper"), language="en")
    report = CorpusReport()
    task.usable("train", given, report)
    with pytest.raises(UserError, match=re.compile("75.0%.*3 another script", re.DOTALL)):
        report.check(task.config.max_dropped_share)


@pytest.mark.parametrize(("options", "share"), [({"encoder_seconds": "full"}, 4.0), ({}, 1.1 + 64 * 0.02)])
def test_the_cost_of_a_clip_is_what_the_encoder_computes(corpus, tiny_seq2seq, options, share):
    task, given = task_of(corpus(("Hi", "", 1.0), ("Ho", "", 1.0)), tiny_seq2seq("whisper"), language="en", **options)
    usable = task.usable("train", given, CorpusReport())
    assert usable.cost(np.array([1.0, 1.0])).tolist() == pytest.approx([share, share])


@pytest.mark.parametrize(
    ("texts", "warned"), [(["HELLO", "1 2"], True), (["Hello", "A"], False), (["1 2"], False), (["你好"], False)]
)
def test_transcripts_in_capitals_are_pointed_out(corpus, tiny_seq2seq, caplog, texts, warned):
    task_of(corpus(*((text, "", 1.0) for text in texts)), tiny_seq2seq("whisper"), language="en")
    assert ("all transcripts are in capitals" in caplog.text) == warned


@pytest.mark.parametrize("given", ["de", "de-AT", "de_DE.UTF-8", "deu", "German", "<|de|>"])
def test_a_language_is_given_by_code_locale_name_or_token(tiny_seq2seq, given):
    assert load_checkpoint(tiny_seq2seq("whisper"), language=given).language == "de"


def test_trust_in_code_is_not_needed_but_allowed(tiny_seq2seq):
    assert load_checkpoint(tiny_seq2seq("whisper-en"), trust_remote_code=True).language == "en"
