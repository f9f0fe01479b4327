"""Transcripts that a checkpoint cannot write as they are: other alphabets, signs of transcription, no spaces."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from sft_speech.cli import main

CHINESE = {token: index for index, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *"我们今天去公园"])}


@pytest.fixture
def corpus(tmp_path):
    """`corpus(*texts)` returns a manifest of noise with these transcripts."""

    def write(*texts):
        lines = ["path\ttext"]
        for number, text in enumerate(texts):
            name = f"{number}.wav"
            soundfile.write(tmp_path / name, np.random.default_rng(number).normal(0, 0.1, 16000), 16000)
            lines.append(f"{name}\t{text}")
        (tmp_path / "corpus.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return tmp_path / "corpus.tsv"

    return write


def finetune(model, source, output, *more):
    keys = (
        f"--train_split :4 --eval_split [4:] --output_dir {output} --max_steps 2 --eval_steps 1 --max_batch_seconds 4"
    )
    keys += " --learning_rate 1e-3 --dataloader_num_workers 0 --report_to none --mask_time_length 2"
    return main(["finetune-asr", "--model", str(model), "--source", str(source), *keys.split(), *more])


def test_german_on_an_english_checkpoint(tiny_directory, corpus, tmp_path, caplog):
    source = corpus("schön <COMMA> so", "Grüße", "ja [noise]", "gut", "über dir", "die Tür", "es 's")
    assert finetune(tiny_directory("wav2vec2-layer"), source, tmp_path / "out") == 0
    advice = "train with `new_vocabulary: true` (SpeechT5: `new_characters: true`), or take a checkpoint that has them"
    what = "letters that the vocabulary lacks are written without their marks"
    assert f"train: {what}: Ü 3, ẞ 1 (3 rows, the first is 1.wav); {advice}" in caplog.messages
    assert f"eval: {what}: Ö 1 (1 row, the first is 0.wav); {advice}" in caplog.messages
    removed = "eval: signs of transcription are removed: <COMMA> 1, [noise] 1 (2 rows, the first is 0.wav)"
    assert f"{removed}; `markup: keep` keeps them as words" in caplog.messages
    before_step_1 = [n for n, record in enumerate(caplog.records) if "are written without" in record.getMessage()]
    evaluated = next(n for n, record in enumerate(caplog.records) if "before training:" in record.getMessage())
    assert max(before_step_1[:2]) < evaluated
    report = json.loads((tmp_path / "out" / "corpus_report.json").read_text())
    assert report["train"]["folded"]["Ü"] == {"count": 3, "first": "1.wav"}
    (figures,) = (json.loads(path.read_text()) for path in (tmp_path / "out" / "evaluation").glob("*.json"))
    assert figures["folded"] == {"letters": {"Ö": 1}, "utterances": 1, "first": "0.wav"}


@pytest.mark.parametrize("verb", ["finetune", "evaluate"])
def test_cyrillic_on_an_english_checkpoint_is_refused(tiny_directory, corpus, tmp_path, capsys, verb):
    model, source = tiny_directory("wav2vec2-layer"), corpus(*["привет мир"] * 6)
    if verb == "finetune":
        assert finetune(model, source, tmp_path / "out") == 2
    else:
        assert main(["evaluate", str(model), "--source", str(source), "-o", str(tmp_path), "--device", "cpu"]) == 2
    told = capsys.readouterr().err
    assert "Cyrillic" in told
    assert "train with `new_vocabulary: true`" in told


def test_chinese_is_judged_by_its_cer(tiny_directory, corpus, tmp_path, caplog, capsys):
    source = corpus(*["我们今天去公园", "今天我们去"] * 3)
    model = tiny_directory("wav2vec2-layer", vocabulary=CHINESE, vocab_size=len(CHINESE))
    assert finetune(model, source, tmp_path / "out") == 0
    state = json.loads(next((tmp_path / "out").glob("checkpoint-*/trainer_state.json")).read_text())
    assert state["best_metric"] in [entry.get("eval_cer") for entry in state["log_history"]]
    assert any(": CER " in message and " -> " in message for message in caplog.messages)
    (figures,) = (json.loads(path.read_text()) for path in (tmp_path / "out" / "evaluation").glob("*.json"))
    assert (figures["headline"], figures["normalizer"], figures["words"]) == ("cer", "checkpoint, letters split", 12)
    out = str(tmp_path / "out")
    assert main(["evaluate", out, "--source", str(source), "-o", str(tmp_path), "--device", "cpu"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("CER  ")
