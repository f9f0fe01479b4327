from __future__ import annotations

import io
import json
import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from sft_speech.cli import main
from sft_speech.corpora.report import CorpusReport, file_stem
from sft_speech.errors import UserError
from sft_speech.metrics.words import Errors
from sft_speech.tasks.asr.ctc.checkpoint import load_checkpoint
from sft_speech.tasks.asr.ctc.recognition import CtcCounts
from sft_speech.tasks.asr.evaluate import evaluate_corpus, with_transcript
from sft_speech.tasks.asr.recognizer import Clip, Counts
from sft_speech.tasks.asr.results import EvaluationResult, Utterance
from sft_speech.tasks.asr.transcriber import Transcriber

RATE = 16_000


def wav(seconds: float, seed: int) -> bytes:
    rng = np.random.default_rng((seed, 11))
    samples = round(seconds * RATE)
    buffer = io.BytesIO()
    waveform = rng.normal(size=samples) * np.sin(np.arange(samples) / 2000) * 0.1
    soundfile.write(buffer, waveform, RATE, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def row(number: int, text: str, seconds: float, speaker: str = "") -> dict:
    audio = {"path": None, "bytes": wav(seconds, number)}
    return {"id": f"u{number}", "audio": audio, "text": text, "speaker": speaker, "seconds": seconds, "start": None}


@pytest.fixture(scope="module")
def checkpoint(tiny_directory):
    return load_checkpoint(tiny_directory("wav2vec2-layer"))


@pytest.fixture(scope="module")
def rows(checkpoint):
    """Eight utterances; the transcript of every second one is the model's, so that not everything is wrong."""
    drawn = [row(n, "SOME WORDS", seconds, f"s{n % 6}") for n, seconds in enumerate([1, 0.4, 2, 0.7, 3, 1.1, 0.5, 2.2])]
    hypotheses = checkpoint.recognize([Clip(one["audio"], one["seconds"]) for one in drawn])
    for number, (one, found) in enumerate(zip(drawn, hypotheses, strict=True)):
        if number % 2:
            one["text"] = checkpoint.normalizer(found.text).text
    return drawn


@pytest.fixture(scope="module")
def result(checkpoint, rows):
    return evaluate_corpus(checkpoint, rows)


def test_every_utterance_is_there_once_in_order(result, rows):
    assert [one.id for one in result.utterances] == [one["id"] for one in rows]
    assert [one.reference for one in result.utterances] == [one["text"] for one in rows]
    assert [one.words.total == 0 for one in result.utterances] == [False, True] * 4
    assert result.seconds == pytest.approx(sum(one["seconds"] for one in rows))


def test_rates_are_sums_over_sums(result):
    errors = sum(one.words.total for one in result.utterances)
    assert result.wer == errors / sum(len(one.reference.split()) for one in result.utterances)
    assert result.cer == result.characters.total / sum(len(one.reference) for one in result.utterances)


def test_loss_is_per_label_and_batches_do_not_matter(checkpoint, rows, result):
    import torch

    checkpoint.model.config.ctc_loss_reduction = "sum"
    total = count = 0.0
    for one in rows:
        waveform, _ = soundfile.read(io.BytesIO(one["audio"]["bytes"]), dtype="float32")
        labels = checkpoint.encode(one["text"])
        with torch.no_grad():
            total += float(checkpoint.model(**checkpoint.features([waveform]), labels=torch.tensor([labels])).loss)
        count += len(labels)
    assert result.loss == pytest.approx(total / count, rel=1e-4)
    assert evaluate_corpus(checkpoint, rows, max_batch_seconds=1).loss == pytest.approx(result.loss, rel=1e-5)


def test_merged_shards_are_the_whole(checkpoint, rows, result):
    merged = EvaluationResult.merge(evaluate_corpus(checkpoint, rows[rank::3]) for rank in range(3))
    figures, whole = merged.summary(), result.summary()
    for name in ("wer", "cer", "substitutions", "deletions", "insertions", "words", "utterances", "speakers"):
        assert figures[name] == whole[name]
    for name in ("hours", "loss", "blank_share"):
        assert figures[name] == pytest.approx(whole[name], rel=1e-5)
    assert merged.metrics().keys() == {"loss", "wer", "cer", "loops", "blank_share"}


def test_rows_of_a_dataset(checkpoint, rows, result):
    from datasets import Audio, Dataset

    corpus = Dataset.from_list(rows).cast_column("audio", Audio(decode=False))
    found = evaluate_corpus(checkpoint, corpus)
    assert [one.hypothesis for one in found.utterances] == [one.hypothesis for one in result.utterances]


def test_the_two_files_of_the_contract(result, tmp_path):
    written = result.save(tmp_path / "evaluation", "test-other")
    assert written == tmp_path / "evaluation" / "test-other.json"
    lines = [json.loads(line) for line in (tmp_path / "evaluation" / "test-other.jsonl").read_text().splitlines()]
    counts = ["word_errors", "words", "character_errors", "characters"]
    assert list(lines[0]) == ["id", "reference", "hypothesis", "seconds", *counts, "confidence", "speaker"]
    figures = json.loads(written.read_text())
    assert figures["wer"] == sum(line["word_errors"] for line in lines) / sum(line["words"] for line in lines)
    assert figures["wer_interval"][0] <= figures["wer"] <= figures["wer_interval"][1]
    assert figures["interval_over"] == "speakers"
    assert figures["utterances"] == 8
    assert figures["hours"] == pytest.approx(10.9 / 3600)
    assert figures["real_time_factor"] > 0
    assert {"cer", "cer_interval", "substitutions", "deletions", "insertions"} <= figures.keys()


def test_calibration_counts_the_words_of_the_hypotheses(result):
    figures = result.summary()["calibration"]
    assert figures["words"] == sum(len(one.hypothesis.split()) for one in result.utterances)
    hits = sum(one.words.hits for one in result.utterances)
    assert sum(one["right"] * one["words"] for one in figures["bins"]) == pytest.approx(hits)
    assert "expected calibration error" in result.table()
    bare = EvaluationResult([replace(one, judged=()) for one in result.utterances])
    assert (bare.calibration, "calibration" in bare.summary()) == (None, False)


def test_rates_are_compared_with_those_of_an_earlier_evaluation(result):
    before = [one.row() | {"word_errors": one.words.reference, "character_errors": 0} for one in result.utterances]
    for metric, difference in {"wer": result.wer - 1, "cer": result.cer}.items():
        assert result.compare(before, metric).difference == pytest.approx(difference)
    assert result.compare(before, "loss") is None
    assert result.compare(before[1:], "wer") is None


def test_an_unwritable_folder_is_a_user_error(result, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        result.save(tmp_path / "file" / "evaluation", "dev")


def test_the_table_is_literal():
    words, characters = Errors(2, 2, 0, 1), Errors(9, 4, 1, 2)
    utterance = Utterance("u", "", "the cat the cat", "a cat a cat sat", 36.0, words, characters)
    result = EvaluationResult([utterance], {"x": "gone"}, counts=CtcCounts(1000, 605), runtime=3.6)
    assert result.table("dev").splitlines() == [
        "dev: 1 utterance, 0.01 h, 10 x real time, 60.5 % blank frames",
        "WER  75.00 %  [75.00, 75.00] over utterances   2 substituted, 0 deleted, 1 inserted of 4",
        "CER  50.00 %  [50.00, 50.00] over utterances   4 substituted, 1 deleted, 2 inserted of 14",
        "1 utterance could not be read and is not counted",
        "",
        "times  reference  hypothesis",
        "    2  the        a",
    ]


def test_counts_of_a_family_add_up_and_no_counts_are_neutral():
    assert CtcCounts(10, 5, 1) + CtcCounts(20, 2, 0) == CtcCounts(30, 7, 1)
    assert Counts() + CtcCounts(3, 2, 1) == CtcCounts(3, 2, 1) + Counts() == CtcCounts(3, 2, 1)
    assert CtcCounts(4, 1, 2).figures() == {"infeasible": 2, "blank_share": 0.25}
    assert (Counts().figures(), Counts().warning(9.0), CtcCounts(1000, 995).warning(9.0)) == ({}, "", "")


def test_the_hypothesis_of_an_empty_transcript_is_inserted(checkpoint):
    found = evaluate_corpus(checkpoint, [row(1, "", 1.0), row(2, "A B", 1.0)])
    silent = found.utterances[0]
    assert silent.words == Errors(insertions=len(silent.hypothesis.split()))
    assert silent.words.total > 0
    assert found.wer == found.words.total / 2


def test_an_unreadable_row_is_left_out_and_named(checkpoint, rows, result, caplog):
    broken = {**rows[0], "id": "broken", "audio": {"path": None, "bytes": b"no audio"}}
    with caplog.at_level(logging.WARNING):
        found = evaluate_corpus(checkpoint, [rows[1], broken, rows[2]])
    assert [one.id for one in found.utterances] == ["u1", "u2"]
    assert [one.hypothesis for one in found.utterances] == [one.hypothesis for one in result.utterances[1:3]]
    assert list(found.failed) == ["broken"]
    assert "broken is left out" in caplog.text
    assert found.summary()["failed"] == found.failed


@pytest.mark.parametrize(
    ("bias", "why"), [(5.0, "usual in the first few hundred"), (1e4, "it diverged, or was not trained")]
)
def test_only_blanks_give_a_warning(tiny_directory, rows, caplog, bias, why):
    import torch

    mute = load_checkpoint(tiny_directory("wav2vec2-layer"))
    with torch.no_grad():
        mute.model.lm_head.weight.zero_()
        mute.model.lm_head.bias.zero_()
        mute.model.lm_head.bias[mute.blank] = bias
    with caplog.at_level(logging.WARNING):
        found = evaluate_corpus(mute, rows[:2])
    assert found.counts.blank_share == 1
    assert found.utterances[0].hypothesis == ""
    assert "100.0 % of all frames are blank" in caplog.text
    assert why in caplog.text


def test_no_row_gives_no_figure():
    empty = EvaluationResult()
    assert math.isnan(empty.loss)
    assert empty.summary()["loss"] is None
    assert empty.summary()["wer_interval"] == [None, None]
    assert "0 utterances" in empty.table()


def test_names_of_splits_become_names_of_files():
    assert file_stem("train-clean-100+test") == "train-clean-100+test"
    assert file_stem("train:0.1") == "train_0.1"
    assert file_stem(":0.9") != file_stem("[0.9:]") == "0.9-end"
    assert file_stem("speaker=anna[:100]") == "speaker=anna_start-100"
    assert file_stem("a/b c") == "a_b_c"


# ---- foreign alphabets, signs of transcription ----


def test_folded_references_are_marked_beside_the_figures(checkpoint):
    found = evaluate_corpus(checkpoint, [row(0, "schöne Grüße", 0.5), row(1, "SOME", 0.5), row(2, "SCHÖN", 0.5)])
    expected = {"letters": {"Ö": 2, "Ü": 1, "ẞ": 1}, "utterances": 2, "first": "u0"}
    assert found.summary()["folded"] == expected
    line = (
        "WER and CER are of references without characters and marks that the vocabulary lacks: Ö 2, Ü 1, ẞ 1 in 2 "
        "of 3 references, the first is u0"
    )
    assert line in found.table().splitlines()
    assert "folded" not in evaluate_corpus(checkpoint, [row(1, "SOME", 0.5)]).summary()
    lacking = evaluate_corpus(checkpoint, [row(0, "SOME Я", 0.5)])  # left out of the reference, too
    assert (lacking.summary()["folded"], lacking.words.reference) == (
        {"letters": {"Я": 1}, "utterances": 1, "first": "u0"},
        1,
    )
    plain = evaluate_corpus(checkpoint, [row(0, "schöne", 0.5)], normalizer="basic")
    assert "folded" not in plain.summary()  # these references keep their marks


def test_a_corpus_in_another_alphabet_is_refused_with_a_way_out(checkpoint):
    from datasets import Audio, Dataset

    rows = Dataset.from_list([row(0, "привет мир", 0.5), row(1, "OK да", 0.5)]).cast_column(
        "audio", Audio(decode=False)
    )
    with pytest.raises(UserError, match=r"(?s)lacks most of its letters, which are Cyrillic.*new_vocabulary: true"):
        with_transcript(checkpoint, rows, "dev", CorpusReport())


def test_rows_are_evaluated_without_signs_of_transcription(checkpoint):
    from datasets import Audio, Dataset

    texts = ["[noise] SOME <COMMA> WORDS", "<SIL>", "IT 'S [foo]", "[foo] SO"]
    rows = Dataset.from_list([row(n, text, 0.5) for n, text in enumerate(texts)])
    report = CorpusReport()
    kept = with_transcript(checkpoint, rows.cast_column("audio", Audio(decode=False)), "dev", report)
    assert kept["text"] == ["SOME, WORDS", "IT'S [foo]", "[foo] SO"]
    assert [(one.id, one.reason, one.detail) for one in report.dropped("dev")] == [
        ("u1", "only signs of transcription", "<SIL>")
    ]
    assert report.note_lines("dev") == [
        "signs of transcription are removed: 'S 1, <COMMA> 1, <SIL> 1, [noise] 1 (3 rows, the first is u0)",
        "brackets that no known convention explains are kept as words: [foo] 2 (2 rows, the first is u2)",
    ]
    whole = with_transcript(
        checkpoint, rows.cast_column("audio", Audio(decode=False)), "dev", CorpusReport(), markup="keep"
    )
    assert whole["text"] == texts


# ---- sft-speech evaluate ----


@pytest.fixture
def manifest(tmp_path, rows):
    lines = ["audio\ttext"]
    for one in rows[:4]:
        (tmp_path / f"{one['id']}.wav").write_bytes(one["audio"]["bytes"])
        lines.append(f"{one['id']}.wav\t{one['text'].lower()}")
    path = tmp_path / "corpus.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_verb_writes_both_files_and_prints_the_table(tiny_directory, manifest, result, tmp_path, capsys):
    model = tiny_directory("wav2vec2-layer")
    arguments = ["evaluate", str(model), "--source", str(manifest), "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert main(arguments) == 0
    (figures,) = (tmp_path / "out" / "evaluation").glob("*.json")
    assert json.loads(figures.read_text())["utterances"] == 4
    lines = [json.loads(line) for line in figures.with_suffix(".jsonl").read_text().splitlines()]
    assert [line["hypothesis"] for line in lines] == [one.hypothesis for one in result.utterances[:4]]
    assert [line["normalized_reference"] for line in lines] == [one.reference for one in result.utterances[:4]]
    assert [line["reference"] for line in lines] == [one.reference.lower() for one in result.utterances[:4]]
    assert "WER" in capsys.readouterr().out


def test_verb_reports_rows_without_a_transcript(tiny_directory, manifest, tmp_path, rows, caplog):
    (tmp_path / "mute.wav").write_bytes(rows[5]["audio"]["bytes"])
    with open(manifest, "a") as lines:
        lines.write("mute.wav\t♪\n")
    model = tiny_directory("wav2vec2-layer")
    assert main(["evaluate", str(model), "--source", str(manifest), "-o", str(tmp_path), "--device", "cpu"]) == 0
    figures = json.loads((tmp_path / "evaluation" / "corpus.json").read_text())
    assert figures["utterances"] == 4
    assert "1 empty transcript" in caplog.text


def test_verb_names_characters_that_the_vocabulary_lacks(tiny_directory, manifest, tmp_path, caplog):
    manifest.write_text(manifest.read_text().rstrip("\n") + " ♪♪\n")
    model = tiny_directory("wav2vec2-layer")
    assert main(["evaluate", str(model), "--source", str(manifest), "-o", str(tmp_path), "--device", "cpu"]) == 0
    assert "not in the vocabulary, left out of the transcripts: '♪' 2" in caplog.text


def test_verb_with_a_normalizer(tiny_directory, manifest, tmp_path, capsys):
    model = tiny_directory("wav2vec2-layer")
    arguments = ["evaluate", str(model), "--source", str(manifest), "-o", str(tmp_path), "--device", "cpu"]
    assert main([*arguments, "--normalizer", "none"]) == 0
    figures = json.loads((tmp_path / "evaluation" / "corpus.json").read_text())
    assert (figures["normalizer"], figures["wer"], figures["wer_as_written"]) == (
        "none",
        figures["wer"],
        figures["wer"],
    )
    assert figures["wer"] >= 1  # upper case against lower case
    assert "WER as written" in capsys.readouterr().out


def test_verb_without_a_corpus(tiny_directory, capsys):
    assert main(["evaluate", str(tiny_directory("wav2vec2-layer")), "--source", "/nowhere"]) == 2
    assert "/nowhere" in capsys.readouterr().err


def test_transcriber_and_evaluation_give_the_same(tiny_directory, rows, result):
    transcriber = Transcriber(str(tiny_directory("wav2vec2-layer")), device="cpu")
    found = transcriber([one["audio"] for one in rows])
    assert [one.text for one in found] == [one.hypothesis for one in result.utterances]
