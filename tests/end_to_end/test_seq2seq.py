"""Fine-tuning a Whisper with the real command: what it trains and saves; resuming, streams, the Hub, shards."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from sft_speech.cli import main
from sft_speech.tasks.asr.seq2seq.transcripts import Transcripts

SCRIPT = str(Path(__file__).parents[2] / "scripts" / "finetune_asr.py")


def command(tones: Path, model: Path, output: Path, **keys: object) -> list[str]:
    """Return the command of a run of eight steps with every source of randomness, and a checkpoint after four."""
    settings = {
        "model": model,
        "language": "de",
        "source": tones,
        "train_split": "train-tones",
        "output_dir": output,
        "max_batch_seconds": 12,
        "max_steps": 8,
        "eval_steps": 4,
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "hidden_dropout": 0.1,
        "mask_time_prob": 0.2,
        "mask_time_length": 4,
        "mask_feature_prob": 0.1,
        "mask_feature_length": 2,
        "label_smoothing": 0.1,
        "augment": True,
        "dataloader_num_workers": 0,
        "report_to": "none",
    }
    return ["finetune-asr", *(part for key, value in (settings | keys).items() for part in (f"--{key}", str(value)))]


@pytest.fixture(scope="module")
def whisper(tiny_seq2seq) -> Path:
    return tiny_seq2seq("whisper")


@pytest.fixture(scope="module")
def done(tones, whisper, tmp_path_factory) -> Path:
    """The output of a run; no test changes it."""
    output = tmp_path_factory.mktemp("whisper") / "out"
    assert main(command(tones, whisper, output)) == 0
    return output


def losses(output: Path) -> list[float]:
    history = json.loads((output / "log_history.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def test_every_trained_weight_moves_and_the_positions_do_not(done, whisper):
    before, after = load_file(whisper / "model.safetensors"), load_file(done / "model.safetensors")
    assert before.keys() == after.keys()
    still = {name for name, weights in before.items() if torch.equal(weights, after[name])}
    assert still == {"model.encoder.embed_positions.weight"}


def test_a_plain_whisper_is_saved_that_writes_the_language(done):
    from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

    model, processor = AutoModelForSpeechSeq2Seq.from_pretrained(done), AutoProcessor.from_pretrained(done)
    settings = model.generation_config
    assert (settings.language, settings.task, settings.is_multilingual) == ("de", "transcribe", True)
    prefix = processor.tokenizer("a").input_ids[:4]
    names = ["<|startoftranscript|>", "<|de|>", "<|transcribe|>", "<|notimestamps|>"]
    assert processor.tokenizer.convert_ids_to_tokens(prefix) == names
    written = model.generate(torch.zeros(1, 16, 400), max_new_tokens=3)
    assert written.shape[0] == 1
    assert json.loads((done / "config.json").read_text())["encoder_seconds"] == "auto"
    assert len(losses(done)) == 8


def test_resumed_after_a_kill_it_ends_with_the_same_weights(done, tones, whisper, tmp_path, faulty_run):
    output = tmp_path / "out"
    killed = faulty_run(command(tones, whisper, output), faults=[("step", "after 6", "kill", "")])
    assert killed.exit_code() == -signal.SIGKILL, killed.output()
    assert main(command(tones, whisper, output, resume_from_checkpoint="auto")) == 0
    assert losses(output) == losses(done)
    assert (output / "model.safetensors").read_bytes() == (done / "model.safetensors").read_bytes()


def test_it_is_uploaded_and_downloaded(done, hub, tmp_path, monkeypatch):
    from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

    assert main(["push", str(done), "me/model"]) == 0
    monkeypatch.chdir(tmp_path)
    model, processor = AutoModelForSpeechSeq2Seq.from_pretrained("me/model"), AutoProcessor.from_pretrained("me/model")
    wanted = load_file(done / "model.safetensors")
    assert all(torch.equal(model.state_dict()[name], weights) for name, weights in wanted.items())
    assert model.generation_config.language == "de"
    assert processor.tokenizer.convert_tokens_to_ids("<|de|>") == model.generation_config.lang_to_id["<|de|>"]


@pytest.fixture
def parquet(tones, tmp_path) -> Path:
    """The tones as one file of four row groups; every tenth row has no language, another one that no model has."""
    folder = tmp_path / "parquet"
    folder.mkdir()
    files = sorted((tones / "train-tones").rglob("*.flac"))[:40]
    languages = [["", "xx", "de", "Spanish"][min(number % 10, 2 + number % 2)] for number in range(40)]
    rows = {
        "id": [file.stem for file in files],
        "audio": [{"bytes": file.read_bytes(), "path": file.name} for file in files],
        "text": [f"Ton {number}" for number in range(40)],
        "locale": languages,
    }
    pq.write_table(pa.table(rows), folder / "train.parquet", row_group_size=10)
    return folder


@pytest.mark.parametrize(("encoder_seconds", "clips"), [("full", 3), ("auto", 12)])
def test_a_stream_of_several_languages(parquet, whisper, tmp_path, encoder_seconds, clips, monkeypatch):
    """A batch has 12 seconds of the encoder: three clips of 4 s, or more if each takes only what it needs."""
    from sft_speech.tasks.asr.seq2seq.collator import Seq2SeqCollator

    collate, sizes = Seq2SeqCollator.__call__, []

    def counted(self, utterances):
        sizes.append(len(utterances))
        return collate(self, utterances)

    monkeypatch.setattr(Seq2SeqCollator, "__call__", counted)
    keys = {"language_column": "locale", "streaming": True, "augment": False, "max_dropped_share": 0.3}
    keys |= {"encoder_seconds": encoder_seconds, "max_steps": 14 if clips == 3 else 8, "source": parquet}
    line = command(parquet, whisper, tmp_path / "out", train_split="train", **keys)
    place = line.index("--language")
    assert main(line[:place] + line[place + 2 :]) == 0
    report = json.loads((tmp_path / "out" / "corpus_report.json").read_text())["train"]
    assert {reason: len(rows) for reason, rows in report["dropped"]["reasons"].items()} == {
        "no language": 4,
        "unknown language": 4,
    }
    assert report["kept"]["rows"] == 32
    assert max(sizes) == clips if clips == 3 else 3 < max(sizes) <= clips


def test_rows_are_evaluated_in_their_languages(done, parquet, tmp_path, capsys, caplog):
    where = ["--source", str(parquet), "--split", "train", "--language_column", "locale", "--output", str(tmp_path)]
    assert main(["evaluate", str(done), *where]) == 0
    assert "train: 32 utterances" in capsys.readouterr().out
    assert "4 no language" in caplog.text
    assert "4 unknown language" in caplog.text


@pytest.mark.slow
def test_a_sharded_whisper_trains_like_a_whole_one(tones, whisper, tmp_path, two_processes, two_pieces):
    """Layers of the encoder and the decoder are dropped, and recomputed in the backward pass of the sharded one."""
    from transformers import AutoModelForSpeechSeq2Seq

    keys = {"hidden_dropout": 0.0, "gradient_accumulation_steps": 2, "max_batch_seconds": 3}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    two_processes(SCRIPT, *command(tones, whisper, whole, **keys)[1:])
    two_pieces(SCRIPT, *command(tones, whisper, cut, **keys, gradient_checkpointing=True)[1:])
    assert losses(cut) == pytest.approx(losses(whole), rel=1e-4)
    weights = load_file(cut / "model.safetensors")
    torch.testing.assert_close(weights, load_file(whole / "model.safetensors"), rtol=1e-3, atol=1e-4)
    model = AutoModelForSpeechSeq2Seq.from_pretrained(cut)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in weights.items())


def test_the_figures_of_a_mixed_whisper_are_of_what_is_saved(tones, whisper, tmp_path):
    """Those as plain transformers uses it, too; its fixed positions stay."""
    keys = {"eval_split": "dev-tones:4", "keep_splits": "dev-tones[4:7]", "interpolate": 0.5, "max_steps": 4}
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert main(command(tones, whisper, out, **keys)) == 0
    assert main(command(tones, whisper, whole, **keys | {"interpolate": 1})) == 0
    start, end, found = (load_file(one / "model.safetensors") for one in (whisper, whole, out))
    assert all(torch.allclose(one, (start[name] + end[name]) / 2, atol=1e-6) for name, one in found.items())
    assert torch.equal(found["model.encoder.embed_positions.weight"], start["model.encoder.embed_positions.weight"])
    figures = json.loads((out / "all_results.json").read_text())
    assert {"eval_wer_plain", "keep_LibriSpeech_dev-tones_4_7_wer_plain"} <= figures.keys()
    again = tmp_path / "again"
    place = ["--source", str(tones), "--split", "dev-tones:4", "-o", str(again)]
    assert main(["evaluate", str(out), *place]) == 0
    saved = json.loads((again / "evaluation" / "dev-tones_4.json").read_text())
    assert (saved["wer"], saved["cer"]) == (figures["eval_wer"], figures["eval_cer"])


def test_each_source_of_a_mix_has_its_language(tones, whisper, tmp_path):
    """The tokens that the decoder is given tell them apart, in training and in the evaluation of each."""
    tables = [
        {"source": str(tones), "split": "train-tones", "language": "de", "eval_split": "dev-tones"},
        {"source": str(tones), "split": "train-tones:0.4", "language": "en"},
    ]
    given = command(tones, whisper, tmp_path / "out", max_steps=2, eval_steps=2, sources=json.dumps(tables))
    kept, words = [], iter(given)
    for word in words:
        if word in ("--source", "--train_split", "--language"):
            next(words)
        else:
            kept.append(word)
    tokens = set()
    plain = Transcripts.prefix

    def watched(self, language, *args, **more):
        tokens.add(language)
        return plain(self, language, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transcripts, "prefix", watched)
        assert main(kept) == 0
    assert {"de", "en"} <= tokens
    assert "eval_LibriSpeech_train-tones_wer" in " ".join(
        json.loads((tmp_path / "out" / "all_results.json").read_text())
    )
