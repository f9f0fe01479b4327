"""The real command, in-process: its output, the weights that it trains, resuming, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import pipeline

from sft_speech.cli import main


def losses(output: Path) -> list[float]:
    """Return the logged loss of every step, from the newest checkpoint."""
    newest = max(output.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    history = json.loads((newest / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def test_a_run_writes_everything_that_the_readme_lists(arguments, tmp_path, small):
    assert main([*arguments, "--test_splits", "dev-tones"]) == 0
    out = tmp_path / "out"
    for name in ("config.json", "model.safetensors", "preprocessor_config.json", "vocab.json", "README.md", "run.yaml"):
        assert (out / name).is_file(), name
    results = json.loads((out / "all_results.json").read_text())
    assert {"train_loss", "train_runtime", "eval_wer", "eval_cer", "eval_loss", "dev-tones_wer"} <= results.keys()
    assert results["audio_seconds_per_second"] > 0
    assert results["train_loss"] == pytest.approx(sum(losses(out)) / 8)
    report = json.loads((out / "corpus_report.json").read_text())
    assert report["train"]["kept"]["rows"] == 48
    lines = [json.loads(line) for line in (out / "evaluation" / "dev-tones.jsonl").read_text().splitlines()]
    assert len(lines) == 12
    assert {"id", "reference", "hypothesis", "seconds", "word_errors", "words"} <= lines[0].keys()
    figures = json.loads((out / "evaluation" / "dev-tones.json").read_text())
    assert figures["wer"] == sum(line["word_errors"] for line in lines) / sum(line["words"] for line in lines)
    assert not (out / "training_args.bin").exists(), "nothing pickled is handed on"
    page = (out / "report.html").read_text()
    before = json.loads((out / "evaluation" / "before" / "dev-tones.json").read_text())["wer"]
    assert f"dev-tones: WER {100 * before:.2f} % → {100 * figures['wer']:.2f} %" in page
    assert "<audio controls" in page


def test_a_run_under_a_named_normalizer(arguments, tmp_path, small):
    assert main([*arguments, "--normalizer", "whisper"]) == 0
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert results["eval_wer_as_written"] > 0
    assert results["eval_loops"] >= 0
    figures = json.loads((tmp_path / "out" / "evaluation" / "dev-tones.json").read_text())
    assert figures["normalizer"] == "whisper without spellings"
    assert (figures["wer"], figures["wer_as_written"]) == (results["eval_wer"], results["eval_wer_as_written"])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| WER % | WER as written % | CER % |" in card
    assert "WER % (whisper without spellings)" in card


def test_plain_transformers_gives_the_same_transcripts(arguments, tmp_path, tones):
    assert main([*arguments, "--max_steps", "10", "--eval_steps", "5"]) == 0
    lines = (tmp_path / "out" / "evaluation" / "dev-tones.jsonl").read_text().splitlines()
    ours = {row["id"]: row["hypothesis"] for row in map(json.loads, lines)}
    assert any(ours.values()), "a silent model would prove nothing"
    plain = pipeline("automatic-speech-recognition", str(tmp_path / "out"))
    files = sorted((tones / "dev-tones").rglob("*.flac"))
    texts = {file.stem: re.sub(r"</?s>|<unk>", "", plain(read(file))["text"]) for file in files}
    assert {name: " ".join(text.split()) for name, text in texts.items()} == ours  # ours leaves special tokens out


def test_a_model_of_subwords_is_trained(arguments, tmp_path, tones, tiny_directory):
    """Frames of 20 ms, as the utterances have few of them."""
    model = tiny_directory("parakeet", subsampling_factor=2)
    place = arguments.index("--mask_time_length")
    command = [*arguments[:place], *arguments[place + 2 :], "--model", str(model), "--max_steps", "10"]
    assert main([*command, "--eval_steps", "10", "--learning_rate", "1e-3"]) == 0
    lines = (tmp_path / "out" / "evaluation" / "dev-tones.jsonl").read_text().splitlines()
    ours = {row["id"]: row["hypothesis"] for row in map(json.loads, lines)}
    assert any(ours.values()), "a silent model would prove nothing"
    plain = pipeline("automatic-speech-recognition", str(tmp_path / "out"))
    files = sorted((tones / "dev-tones").rglob("*.flac"))
    assert {file.stem: plain(read(file))["text"] for file in files} == ours


def read(file: Path):
    import soundfile

    return soundfile.read(file, dtype="float32")[0]


def test_run_yaml_repeats_the_run(arguments, tmp_path):
    assert main(arguments) == 0
    again = ["finetune-asr", "--config", str(tmp_path / "out" / "run.yaml"), "--output_dir", str(tmp_path / "again")]
    assert main(again) == 0
    assert losses(tmp_path / "again") == losses(tmp_path / "out")


@pytest.mark.parametrize("decay", ["1.0", "0.8"])
def test_trained_weights_change_and_frozen_ones_do_not(arguments, tmp_path, small, decay):
    keys = ["--layerwise_lr_decay", decay, "--mask_time_prob", "0.5"]
    assert main([*arguments, *keys]) == 0
    before, after = load_file(small / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    for name, weights in before.items():
        moved = not torch.equal(weights, after[name])
        assert moved != name.startswith("wav2vec2.feature_extractor"), name


def test_only_the_head_changes_at_first(arguments, tmp_path, small):
    assert main([*arguments, "--freeze_encoder_steps", "8"]) == 0
    before, after = load_file(small / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    moved = {name for name, weights in before.items() if not torch.equal(weights, after[name])}
    assert moved == {"lm_head.weight", "lm_head.bias"}


def test_the_encoder_changes_after_freeze_encoder_steps(arguments, tmp_path, small):
    assert main([*arguments, "--freeze_encoder_steps", "4"]) == 0
    before, after = load_file(small / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    moved = {name for name, weights in before.items() if not torch.equal(weights, after[name])}
    assert any("encoder.layers" in name for name in moved)


def test_a_stopped_run_saves_first(arguments, tmp_path, start_python):
    run = [*arguments, "--max_steps", "3000", "--eval_steps", "3000", "--logging_steps", "1"]
    code = f"import sys; from sft_speech.cli import main; sys.exit(main({run!r}))"
    reads, writes = os.pipe()
    process = start_python(code, output=(1, writes))
    os.close(writes)
    with open(reads) as stderr:
        for line in stderr:
            if "step 2/3000" in line:
                process.send_signal(signal.SIGINT)
                break
        printed = stderr.read()
    assert process.wait(timeout=120) == 75
    assert "resume with --resume_from_checkpoint auto" in printed
    assert list((tmp_path / "out").glob("checkpoint-*/files.json"))


def test_two_stopped_processes_save_first(arguments, tmp_path):
    """As under Slurm, all processes of the job get the signal, and the workers get it again from the launcher."""
    run = [*arguments, "--max_steps", "3000", "--eval_steps", "3000", "--num_processes", "2"]
    launcher = subprocess.Popen(
        [sys.executable, "-m", "sft_speech", *run],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"ACCELERATE_USE_CPU": "true"},
    )
    for line in launcher.stderr:
        if "step 2/3000" in line:
            for process in (*psutil.Process(launcher.pid).children(), launcher):
                process.send_signal(signal.SIGTERM)
            break
    printed = launcher.stderr.read()
    assert launcher.wait(timeout=120) == 75
    assert "resume with --resume_from_checkpoint auto" in printed
    (saved,) = (tmp_path / "out").glob("checkpoint-*/files.json")
    assert {"rng_state_0.pth", "rng_state_1.pth", "unlogged_1.pt"} <= json.loads(saved.read_text()).keys()


def test_two_processes_print_an_error_once_and_nothing_after_it(arguments, tmp_path, run_python):
    (tmp_path / "out" / "checkpoint-1").mkdir(parents=True)
    command = "import sys; from sft_speech.cli import main; sys.exit(main(sys.argv[1:]))"
    code, _, printed = run_python(command, *arguments, "--num_processes", "2")
    assert code == 2
    skipped, what, do = printed.splitlines()
    assert "checkpoint-1 is skipped" in skipped
    assert "it holds another run (checkpoint-1)" in what
    assert do.startswith("-> choose another --output_dir")


def half_an_epoch(tones: Path) -> int:
    """Return the number of batches per epoch for each of two processes."""
    import soundfile

    from sft_speech.training.plan import epoch_plan

    seconds = [soundfile.info(file).duration for file in sorted((tones / "train-tones").rglob("*.flac"))]
    return len(epoch_plan(np.array(seconds), 6.0, seed=42, epoch=0, world=2))


def test_two_processes_give_one_result_and_resume(arguments, tones, tmp_path, two_processes):
    """The encoder is frozen in step 4 but not in step 6; layers are dropped throughout."""
    script = str(Path(__file__).parents[2] / "scripts" / "finetune_asr.py")
    run = [script, *arguments[1:], "--layerdrop", "0.5", "--freeze_encoder_steps", "5", "--save_total_limit", "3"]
    two_processes(*run)
    lines = (tmp_path / "out" / "evaluation" / "dev-tones.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["id"] for line in lines) == [f"4-10-{number:04}" for number in range(12)]
    assert (tmp_path / "out" / "model.safetensors").is_file()
    newest = json.loads((tmp_path / "out" / "checkpoint-8" / "trainer_state.json").read_text())
    assert newest["log_history"][-1]["epoch"] == pytest.approx(8 / half_an_epoch(tones)), (
        "each took half of the batches"
    )
    resumed = tmp_path / "resumed"
    two_processes(
        *run, "--output_dir", str(resumed), "--resume_from_checkpoint", str(tmp_path / "out" / "checkpoint-4")
    )
    assert losses(resumed) == pytest.approx(losses(tmp_path / "out"), rel=1e-6)


def test_fewer_evaluation_utterances_than_processes(arguments, tmp_path, two_processes):
    script = str(Path(__file__).parents[2] / "scripts" / "finetune_asr.py")
    two_processes(script, *arguments[1:], "--eval_split", "dev-tones:1", "--max_steps", "2", "--eval_steps", "1")
    (figures,) = (json.loads(path.read_text()) for path in (tmp_path / "out" / "evaluation").glob("*.json"))
    assert figures["utterances"] == 1


def test_an_output_directory_that_holds_another_run(arguments, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.yaml").write_text("model: another\n")
    assert main(arguments) == 2
    assert "holds another run" in capsys.readouterr().err
    assert (tmp_path / "out" / "run.yaml").read_text() == "model: another\n"


def test_a_failed_start_does_not_block_the_next_run(arguments, capsys):
    assert main([*arguments, "--eval_split", "dev-none"]) == 2
    assert main([*arguments, "--max_dropped_share", "0", "--min_seconds", "0.5"]) == 2
    assert "max_dropped_share" in capsys.readouterr().err
    assert main([*arguments, "--max_steps", "1"]) == 0


def test_a_run_without_checkpoints_cannot_be_resumed(arguments, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.yaml").write_text("model: another\n")
    assert main(arguments) == 2
    assert "or remove it: it has no checkpoint to resume from" in capsys.readouterr().err


def test_resumed_into_another_directory(arguments, tmp_path, capsys):
    """The loss is that of the whole run, and run.yaml repeats the run, not the resumption."""
    assert main(arguments) == 0
    whole, other = json.loads((tmp_path / "out" / "all_results.json").read_text()), tmp_path / "new" / "other"
    go_on = ["--resume_from_checkpoint", str(tmp_path / "out" / "checkpoint-4")]
    assert main([*arguments, *go_on, "--output_dir", str(other)]) == 0
    resumed = json.loads((other / "all_results.json").read_text())
    assert resumed["train_loss"] == pytest.approx(whole["train_loss"])
    assert resumed["eval_wer"] == whole["eval_wer"]
    assert "resume_from_checkpoint: null" in (other / "run.yaml").read_text()
    assert main([*arguments, *go_on, "--output_dir", str(other)]) == 2
    assert "holds another run" in capsys.readouterr().err


def test_evaluation_on_training_data_is_reported(arguments, caplog):
    assert main([*arguments, "--train_split", "dev-tones", "--test_splits", "train-tones", "--max_steps", "1"]) == 0
    assert "eval: 12 of its 12 utterances are trained on as well" in caplog.messages
    assert len([message for message in caplog.messages if message.endswith("are trained on as well")]) == 1


@pytest.mark.parametrize("share", ["0.3", "0"])
def test_masks_are_switched_on_if_the_checkpoint_has_them_off(arguments, small, tmp_path, share):
    quiet = shutil.copytree(small, tmp_path / "quiet")
    config = json.loads((quiet / "config.json").read_text())
    (quiet / "config.json").write_text(json.dumps(config | {"apply_spec_augment": False}))
    assert main([*arguments, "--model", str(quiet), "--mask_time_prob", share, "--max_steps", "1"]) == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["apply_spec_augment"] == (share != "0")


def test_a_nan_loss_is_never_the_best(arguments, tmp_path, monkeypatch):
    from sft_speech.tasks.asr.results import EvaluationResult

    monkeypatch.setattr(EvaluationResult, "loss", float("nan"))
    assert main([*arguments, "--metric_for_best_model", "loss", "--max_steps", "2", "--eval_steps", "1"]) == 0
    state = json.loads((tmp_path / "out" / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["best_global_step"] is None


def test_early_stopping_counts_across_resumption(arguments, tmp_path, caplog):
    """Without a learning rate nothing improves: the evaluations after steps 2 and 3 are no better than the first."""
    run = [*arguments, "--eval_steps", "1", "--learning_rate", "0", "--early_stopping_patience", "2"]
    assert main([*run, "--max_steps", "2"]) == 0
    assert "ends early" not in caplog.text
    assert main([*run, "--max_steps", "8", "--resume_from_checkpoint"]) == 0
    assert "step 3: no improvement in 2 evaluations, training ends early" in caplog.messages
    log = json.loads((tmp_path / "out" / "log_history.json").read_text())["log_history"]
    assert [line["step"] for line in log if "eval_wer" in line] == [0, 1, 2, 3]


def test_a_run_without_evaluation_explains_the_consequences(arguments, caplog):
    caplog.set_level("INFO", "sft_speech")
    assert main([*arguments, "--eval_split", "null", "--max_steps", "1"]) == 0
    line = "no eval_split: there is no best checkpoint and no early stopping; the last weights are kept"
    assert caplog.messages.count(line) == 1
    assert caplog.messages.index(line) < next(n for n, one in enumerate(caplog.messages) if one.startswith("trained: "))


def test_regularization_of_the_checkpoint_stays_unless_an_option_is_set(arguments, small, tmp_path):
    before = json.loads((small / "config.json").read_text()) | {"hidden_dropout": 0.3, "layerdrop": 0.2}
    own = shutil.copytree(small, tmp_path / "own")
    (own / "config.json").write_text(json.dumps(before))
    given = ["--layerdrop", "0", "--mask_feature_prob", "0.1"]
    assert main([*arguments, "--model", str(own), "--max_steps", "1", *given]) == 0
    after = json.loads((tmp_path / "out" / "config.json").read_text())
    names = "hidden_dropout activation_dropout attention_dropout feat_proj_dropout final_dropout mask_time_prob"
    assert {name: after[name] for name in names.split()} == {name: before[name] for name in names.split()}
    assert (after["layerdrop"], after["mask_feature_prob"], after["mask_time_length"]) == (0.0, 0.1, 2)


def test_a_run_that_began_under_old_names_is_resumed(arguments, tmp_path, caplog):
    assert main(arguments) == 0
    file = tmp_path / "out" / "run.yaml"
    text = file.read_text().replace("max_nonfinite_steps:", "max_bad_steps:").replace("tri_stage", "three_stage")
    file.write_text(text.replace("oom_check:", "rehearse:").replace("gradient_check", "activation_check"))
    assert text.count("max_bad_steps: 10") == text.count("three_stage") == 1
    assert main([*arguments, "--resume_from_checkpoint", "auto"]) == 0
    assert f"{tmp_path / 'out'}: the run is finished; there is nothing left to do" in caplog.messages


def test_a_tracker_that_is_not_installed(arguments, tmp_path, capsys):
    assert main([*arguments, "--report_to", "tensorboard, tensorbored"]) == 2
    assert "report_to tensorbored: there is no such tracker" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_evaluation_split_without_readable_audio(arguments, tones, tmp_path, capsys, monkeypatch):
    """Without utterances there are no errors, but the WER is not 0."""
    from sft_speech.audio import read as audio
    from sft_speech.inference import clips

    def unreadable(*_, **__):
        raise audio.AudioError("unreadable", "gone")

    monkeypatch.setattr(clips, "read", unreadable)
    assert main(arguments) == 2
    assert "none of its utterances could be read" in capsys.readouterr().err


def test_an_output_directory_that_cannot_be_made(arguments, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([*arguments, "--output_dir", str(tmp_path / "file" / "out")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_resuming_with_other_settings_is_reported(arguments, caplog):
    assert main(arguments) == 0
    assert main([*arguments, "--resume_from_checkpoint", "--learning_rate", "0.1"]) == 0
    assert "resumed with options that differ from those at its start: learning_rate" in caplog.text


def test_slowed_clips_fit_into_a_batch(arguments, tmp_path, monkeypatch):
    from sft_speech.tasks.asr.ctc.collator import CTCCollator

    collate, costs = CTCCollator.__call__, []

    def watch(self, utterances):
        batch = collate(self, utterances)
        costs.append(batch["input_values"].numel() / self.rate)
        return batch

    monkeypatch.setattr(CTCCollator, "__call__", watch)
    assert main([*arguments, "--augment", "--oom_check", "false"]) == 0
    assert 3 < max(costs) <= 6.0, "max_batch_seconds is 6"


def test_nothing_to_resume(arguments, capsys):
    assert main([*arguments, "--resume_from_checkpoint"]) == 2
    assert "no complete checkpoint" in capsys.readouterr().err


def test_too_many_unusable_rows_stop_it_before_step_1(arguments, tones, tmp_path, capsys):
    manifest = tmp_path / "corpus.csv"
    files = sorted(tones.rglob("*.flac"))[:8]
    rows = [f"{file},{'AH' if index else ''}" for index, file in enumerate(files)]
    manifest.write_text("audio,text\n" + "\n".join(rows) + "\n")
    command = [*arguments, "--source", str(manifest), "--train_split", "[0:1.0]", "--eval_source", str(tones)]
    assert main(command) == 2
    assert "max_dropped_share" in capsys.readouterr().err


def test_an_utterance_with_damaged_data_is_left_out(arguments, tones, tmp_path, caplog):
    """The header is fine, so the damage is found, logged and skipped when the data is decoded."""
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(tones, copy)
    victim = sorted(copy.rglob("*.flac"))[20]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
    victim.write_bytes(bytes(data))
    assert main([*arguments, "--source", str(copy)]) == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()
