"""The command on a tiny model and a tiny corpus."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sft_speech.cli import main
from sft_speech.tasks.speech.checkpoint import load_speech_checkpoint
from sft_speech.tasks.tts.synthesizer import Synthesizer

RATE = 16_000
TEXTS = [
    "hello",
    "how do you do?",
    "one, two, three",
    "four",
    "it was late.",
    "a b c",
    "fine",
    "GOOD MORNING",
    "no",
    "yes",
]


def tone(seconds: float, hertz: float, seed: int) -> np.ndarray:
    samples = np.arange(int(seconds * RATE)) / RATE
    hum = sum(np.sin(2 * np.pi * hertz * n * samples) / n for n in range(1, 6))
    return 0.1 * hum * np.abs(np.sin(3 * samples)) + np.random.default_rng(seed).normal(0, 1e-3, len(samples))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, write_metadata):
    """An audiofolder of two speakers; the model can't use the last two rows."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for number, text in enumerate([*TEXTS, "long " * 30, "x"]):
        speaker = ("anna", "bob")[number % 2]
        seconds = 8.0 if text == "x" else 0.4 + 0.1 * number
        soundfile.write(folder / f"{number}.wav", tone(seconds, (110, 190)[number % 2], number), RATE)
        rows.append({"file_name": f"{number}.wav", "text": text, "speaker": speaker})
    return write_metadata(folder, rows)


@pytest.fixture
def arguments(tiny_speaker, corpus, tmp_path):
    def build(output="out", **keys):
        settings = {
            "model": tiny_speaker,
            "source": corpus,
            "train_split": ":8",
            "eval_split": "[8:]",
            "output_dir": tmp_path / output,
            "max_dropped_share": 0.9,
            "max_batch_seconds": 3,
            "learning_rate": 0.003,
            "max_steps": 6,
            "logging_steps": 1,
            "eval_steps": 3,
            "dataloader_num_workers": 0,
            "report_to": "none",
            "samples": 1,
        }
        return ["finetune-tts", *(f"--{key}={value}" for key, value in (settings | keys).items())]

    return build


def losses(folder) -> dict[int, float]:
    state = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime)[-1]
    return {entry["step"]: entry["loss"] for entry in json.loads(state.read_text())["log_history"] if "loss" in entry}


def test_from_a_corpus_to_a_model(arguments, tiny_speaker, tmp_path):
    assert main(arguments(max_steps=30, eval_steps=15, logging_steps=5, report_to="tensorboard")) == 0
    out = tmp_path / "out"
    figures = json.loads((out / "all_results.json").read_text())
    assert {"eval_loss", "eval_mel_loss", "eval_stop_loss", "eval_attention_loss", "train_loss"} <= figures.keys()
    assert figures["before_eval_loss"] > figures["eval_loss"]
    history = losses(out)
    assert min(history.values()) < 0.8 * history[5]

    report = json.loads((out / "corpus_report.json").read_text())
    assert report["train"]["kept"]["rows"] + report["eval"]["kept"]["rows"] == len(TEXTS)
    reasons = (out / "corpus_report.json").read_text()
    assert "text too long" in reasons
    assert "mel frames" in reasons

    before, after = load_file(tiny_speaker / "model.safetensors"), load_file(out / "model.safetensors")
    still = [name for name in before if torch.equal(before[name], after[name])]
    assert all(re.search(r"running_|num_batches_tracked|prenet\.embed_positions", name) for name in still), still

    rows = [json.loads(line) for line in next((out / "evaluation").glob("*.jsonl")).read_text().splitlines()]
    assert len(rows) == report["eval"]["kept"]["rows"]
    for row in rows:
        assert row["text"] == TEXTS[int(row["id"].removesuffix(".wav"))].lower()
    total = sum((row["before"] + row["after"] + row["stop"] + row["guided"]) * row["frames"] for row in rows)
    assert total / sum(row["frames"] for row in rows) == pytest.approx(figures["eval_loss"], rel=1e-3)
    assert sorted(path.suffix for path in (out / "samples").iterdir()) == [".jsonl", ".png", ".png", ".wav", ".wav"]
    samples = [json.loads(line) for line in (out / "samples" / "samples.jsonl").read_text().splitlines()]
    assert [sample["evaluation"] for sample in samples] == [1, 2]

    shown = EventAccumulator(str(out / "tensorboard"), {"images": 0, "audio": 0}).Reload()
    (name,) = shown.Tags()["images"]
    assert [event.step for event in shown.Images(name)] == [event.step for event in shown.Audio(name)] == [1, 2]

    synthesizer = Synthesizer(str(out), device="cpu")
    assert sorted(synthesizer.checkpoint.speakers) == ["anna", "bob", "mean of all"]
    assert synthesizer("hello", "anna").seconds > 0
    card = (out / "README.md").read_text()
    assert "text-to-speech" in card
    assert f"Samples after the last evaluation: 1 {samples[1]['ending']}" in card
    assert "Synthesizer" in card


def test_only_some_parts_are_trained_one_after_another(arguments, tiny_speaker, tmp_path, caplog):
    """From step 2 on the decoder's layer is trained, from step 4 on the encoder's, and the learning rate falls."""
    caplog.set_level("INFO", "sft_speech")
    parts = "[head, decoder.layers.1, encoder.layers.1, not biases]"
    keys = {"train": parts, "unfreeze_every_steps": 2, "layerwise_lr_decay": 0.5, "samples": 0}
    assert main(arguments("out", max_steps=4, **keys)) == 0
    (line,) = (line for line in caplog.messages if line.startswith("trained: "))
    assert re.search(r"decoder .* from step 2 on, encoder .* from step 4 on, frozen encoder", line), line
    assert "unfreeze_every_steps: the run has 4 steps, and the last part would be trained from step 4 on" in caplog.text
    before, after = (
        load_file(folder / "model.safetensors") for folder in (tiny_speaker, tmp_path / "out" / "checkpoint-4")
    )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {
        name
        for name in before
        if re.search(r"speech_decoder_postnet|wrapped_decoder\.layers\.1\.", name)
        and not re.search(r"bias$|running_|num_batches_tracked", name)
    }


def test_a_resumed_run_has_the_same_losses(arguments, tmp_path, run_python):
    assert main(arguments("whole", save_total_limit=3)) == 0
    assert main(arguments("parts", max_steps=6, save_total_limit=3)) == 0
    import shutil

    shutil.rmtree(tmp_path / "parts" / "checkpoint-6")
    assert main(arguments("parts", resume_from_checkpoint="true", save_total_limit=3)) == 0
    whole, parts = losses(tmp_path / "whole"), losses(tmp_path / "parts")
    assert sorted(parts) == [1, 2, 3, 4, 5, 6]
    for step, loss in whole.items():
        assert parts[step] == pytest.approx(loss, rel=1e-5), step


def test_a_killed_and_resumed_run_has_the_same_losses(arguments, tmp_path, run_python):
    keys = {"max_steps": 12, "eval_steps": 4, "samples": 0}
    assert main(arguments("whole", **keys)) == 0
    killed = arguments("killed", **keys)
    code = f"""import os, sys
from sft_speech.cli import main
last = "checkpoint-8/files.json."
sys.addaudithook(lambda event, args: event == "open" and last in str(args[0]) and os.kill(os.getpid(), 9))
main({killed!r})"""
    assert run_python(code)[0] == -9
    assert (tmp_path / "killed" / "checkpoint-4" / "files.json").exists()
    assert not (tmp_path / "killed" / "checkpoint-8" / "files.json").exists()
    assert main([*killed, "--resume_from_checkpoint", "auto"]) == 0
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("killed", "whole")]
    assert weights[0] == weights[1]


def test_two_processes_share_the_work(arguments, tmp_path, two_processes):
    """Each evaluates one of two utterances and trains on its share of the batches."""
    script = str(Path(__file__).parents[3] / "scripts" / "finetune_tts.py")
    two_processes(script, *arguments(max_steps=5, eval_steps=5)[1:])
    out = tmp_path / "out"
    rows = [json.loads(line) for line in next((out / "evaluation").glob("*.jsonl")).read_text().splitlines()]
    assert len({row["id"] for row in rows}) == len(rows) == 2
    figures = json.loads((out / "all_results.json").read_text())
    assert figures["train_loss"] > 0
    assert sorted(Synthesizer(str(out), device="cpu").checkpoint.speakers) == ["anna", "bob", "mean of all"]


def test_a_new_language_adds_its_letters(arguments, tmp_path, corpus, write_metadata):
    files = [str(corpus / f"{number}.wav") for number in range(8)]
    rows = [{"file_name": file, "text": f"schön {n}", "speaker": "a"} for n, file in enumerate(files)]
    keys = {"language": "de", "new_characters": "true", "train_split": ":6", "eval_split": "[6:]"}
    assert main(arguments(source=write_metadata(tmp_path, rows), **keys)) == 0
    made = load_speech_checkpoint(tmp_path / "out")
    assert made.tokenizer.tokenize("schön") == ["▁", "s", "c", "h", "ö", "n"]
    assert made.model.get_input_embeddings().num_embeddings == len(made.tokenizer)
    texts = [json.loads(line)["text"] for line in next((tmp_path / "out/evaluation").glob("*.jsonl")).open()]
    assert all(text.startswith("schön") for text in texts)


def test_capitals_are_lowercased_and_the_voices_are_those_of_the_corpus(arguments, tmp_path, monkeypatch, caplog):
    """Samples that would take too long are left out."""
    monkeypatch.setattr("sft_speech.tasks.speech.samples.BUDGET_SECONDS", -1)
    keys = {"train_split": "speaker=bob", "eval_split": "speaker=anna", "samples": 3}
    assert main(arguments(max_steps=1, eval_steps=1, **keys)) == 0
    assert len(list((tmp_path / "out" / "samples").glob("*.wav"))) == 1
    assert "2 samples left out" in caplog.text
    text = (tmp_path / "out" / "evaluation" / "speaker=anna.jsonl").read_text()
    assert "hello" in text
    voices = load_speech_checkpoint(tmp_path / "out").speakers
    assert voices["anna"] @ voices["bob"] < 0.999


def test_a_model_on_the_hub_synthesizes_the_same(arguments, hub, tmp_path, monkeypatch):
    assert main(arguments(max_steps=2, eval_steps=1, push_to_hub="true", hub_model_id="me/voice")) == 0
    files = hub.repos["me/voice"].files
    assert {"spm_char.model", "speakers.safetensors", "tokenizer_config.json", "model.safetensors"} <= files.keys()
    assert not [name for name in files if "samples" in name or name.endswith((".wav", ".jsonl"))]
    card = files["README.md"].decode()
    assert "pipeline_tag: text-to-speech" in card
    assert "Named voices (speakers.safetensors): anna, bob, mean of all." in card
    assert "| mel L1 (log10) |" in card
    monkeypatch.chdir(tmp_path)
    here, there = Synthesizer("out"), Synthesizer("me/voice")
    assert sorted(there.checkpoint.speakers) == ["anna", "bob", "mean of all"]
    waveforms = [synthesizer(["hello"], "bob")[0].waveform for synthesizer in (here, there)]
    assert np.array_equal(*waveforms)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"source": "/nowhere"}, "nowhere"),
        ({"model": "/nowhere"}, "nowhere"),
        ({"speaker_encoder": "/nowhere"}, "nowhere"),
        ({"max_dropped_share": 0.0}, "text too long"),
        ({"trim_db": 1}, "trim_db"),
        ({"learning_rat": 1}, "learning_rat"),
        ({"vocoder": "."}, "config.json"),
    ],
)
def test_bad_input_gives_a_line_before_training(arguments, tmp_path, capsys, keys, message):
    code = None
    try:
        code = main(arguments(**keys))
    except SystemExit as stopped:  # the argument parser
        code = stopped.code
    shown = capsys.readouterr().err
    assert code == 2
    assert message in shown
    assert "Traceback" not in shown
    assert not (tmp_path / "out" / "run.yaml").exists()


def test_an_x_vector_model_of_another_size_is_refused(arguments, tiny_x_vectors, capsys):
    assert main(arguments(speaker_encoder=tiny_x_vectors())) == 2
    assert "32 numbers, the model takes 16" in capsys.readouterr().err


def test_lora_trains_new_letters_fully(arguments, tiny_speaker, tmp_path, corpus, write_metadata):
    files = [str(corpus / f"{number}.wav") for number in range(8)]
    rows = [{"file_name": file, "text": f"schön {n}", "speaker": "a"} for n, file in enumerate(files)]
    keys = {"language": "de", "new_characters": "true", "train_split": ":6", "eval_split": "[6:]", "lora_rank": 2}
    assert main(arguments(source=write_metadata(tmp_path, rows), learning_rate=1e-2, **keys)) == 0
    out = tmp_path / "out"
    before, after = load_file(tiny_speaker / "model.safetensors"), load_file(out / "model.safetensors")
    letters = "speecht5.encoder.prenet.embed_tokens.weight"
    moved = {name for name, weights in before.items() if not torch.equal(weights, after[name])}
    layers = {name for name in before if re.search(r"wrapped_..coder\.layers\..*(_proj|_dense)\.weight", name)}
    assert moved == {letters} | layers
    assert after[letters].shape[0] == before[letters].shape[0] + 1
    settings = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert settings["modules_to_save"] == [letters.removesuffix(".weight")]
    assert main(["merge", str(out / "adapter"), "-o", str(tmp_path / "merged")]) == 0
    torch.testing.assert_close(load_file(tmp_path / "merged" / "model.safetensors"), after)
    assert (tmp_path / "merged" / "speakers.safetensors").read_bytes() == (out / "speakers.safetensors").read_bytes()


def test_it_keeps_and_is_mixed(arguments, tiny_speaker, tmp_path):
    """The statistics of batch norms are mixed, too; the difference of losses has an interval."""
    keys = {"keep_splits": "[speaker=anna]", "samples": 0}
    assert main(arguments(**keys, interpolate=1)) == 0
    assert main(arguments(output="mixed", **keys, interpolate=0.5)) == 0
    start, end, found = (
        load_file(one / "model.safetensors") for one in (tiny_speaker, tmp_path / "out", tmp_path / "mixed")
    )
    for name, one in found.items():
        if one.is_floating_point():
            torch.testing.assert_close(one, (start[name] + end[name]) / 2)
    (row,) = json.loads((tmp_path / "mixed" / "all_results.json").read_text())["keep"]
    assert row["interval"][0] <= row["difference"] <= row["interval"][1]
    assert row["after"] != row["unmixed"]


def test_speakers_of_two_sources_that_share_a_name_are_two_voices(arguments, corpus, tmp_path):
    other = shutil.copytree(corpus, tmp_path / "other")
    tables = [{"source": str(corpus), "split": ":8"}, {"source": str(other), "split": ":8"}]
    command = [one for one in arguments(max_steps=2, eval_steps=2) if not one.startswith(("--source", "--train_split"))]
    keys = [f"--sources={json.dumps(tables)}", f"--eval_source={corpus}", "--eval_split=[8:]"]
    assert main([*command, *keys]) == 0
    figures = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert {f"train_loss_{corpus.name}", "train_loss_other"} <= figures.keys()
    voices = load_speech_checkpoint(tmp_path / "out").speakers
    assert voices["other/anna"] @ voices["other/bob"] < 0.999
    assert voices[f"{corpus.name}/anna"] @ voices["other/anna"] > 0.999, "they are the same recordings"
