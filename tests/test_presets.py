"""The presets under configs/: they load, hold only differences from the defaults, and name their command."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from sft_speech.options.settings import load_config
from sft_speech.tasks import specs
from sft_speech.tasks.asr.config import FinetuneAsrConfig

CONFIGS = Path(__file__).parents[1] / "configs"
CONFIG_OF = {spec.name: spec.config for spec in specs()}
VERB_OF = {spec.name: spec.verb for spec in specs()}
PRESETS = sorted(path for kind in CONFIG_OF for path in (CONFIGS / kind).glob("*.yaml"))
LAUNCH = sorted((CONFIGS / "accelerate").glob("*.yaml"))
# WER on test-clean and test-other without a language model (Baevski et al. 2020, tables 9 and 10)
PUBLISHED = {
    "wav2vec2-base_10min": (46.9, 50.9),
    "wav2vec2-base_1h": (24.5, 29.7),
    "wav2vec2-base_10h": (11.1, 17.6),
    "wav2vec2-base_100h": (6.1, 13.3),
    "wav2vec2-base_960h": (3.4, 8.5),
    "wav2vec2-large-lv60_10min": (40.2, 38.7),
    "wav2vec2-large-lv60_1h": (17.2, 20.3),
    "wav2vec2-large-lv60_10h": (6.3, 10.0),
    "wav2vec2-large-lv60_100h": (3.1, 6.3),
    "wav2vec2-large-lv60_960h": (2.2, 4.5),
}

# WER with LibriSpeech's 4-gram, and its published weights (table 7)
WITH_LM = {
    "wav2vec2-base_10min": (9.1, 15.6, 3.23, -0.26),
    "wav2vec2-base_1h": (5.5, 11.3, None, None),
    "wav2vec2-base_10h": (4.3, 9.5, None, None),
    "wav2vec2-base_100h": (3.4, 8.0, 2.15, -0.52),
    "wav2vec2-base_960h": (2.6, 6.1, 1.74, 0.52),
    "wav2vec2-large-lv60_10min": (6.6, 10.3, 3.86, -1.18),
    "wav2vec2-large-lv60_1h": (3.8, 7.1, None, None),
    "wav2vec2-large-lv60_10h": (3.0, 5.8, None, None),
    "wav2vec2-large-lv60_100h": (2.3, 4.6, 2.15, -0.52),
    "wav2vec2-large-lv60_960h": (2.0, 3.6, 1.57, -0.64),
}

every_preset = pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
every_published = pytest.mark.parametrize("name", PUBLISHED)


def opening(preset: Path) -> list[str]:
    """Return the comment at the beginning of a preset."""
    lines = preset.read_text(encoding="utf-8").splitlines()
    return lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]


@every_preset
def test_it_loads(preset):
    config = load_config(CONFIG_OF[preset.parent.name], str(preset), {})
    assert config.model == yaml.safe_load(preset.read_text())["model"]


@every_preset
def test_it_holds_only_differences_from_the_defaults(preset):
    given, config = yaml.safe_load(preset.read_text()), load_config(CONFIG_OF[preset.parent.name], str(preset), {})
    for field in dataclasses.fields(config):
        if field.name in given:
            default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
            assert getattr(config, field.name) != default, f"{field.name} is the default"


@every_preset
def test_it_opens_with_its_own_command(preset):
    commands = [line for line in opening(preset) if "sft-speech " in line and " --config " in line]
    assert commands == [f"#   sft-speech {VERB_OF[preset.parent.name]} --config {preset.relative_to(CONFIGS.parent)}"]


@every_preset
def test_it_names_its_data_and_its_target(preset):
    text = "\n".join(opening(preset))
    for heading in ("# Data: ", "# Target: ", "# Settings: "):
        assert text.count(heading) == 1


@every_preset
def test_every_key_has_a_comment_and_no_line_is_too_long(preset):
    lines = preset.read_text().splitlines()
    for line in lines:
        assert len(line) <= 120 or "accelerate launch" in line, line
    for line in lines[len(opening(preset)) :]:
        assert not line or re.fullmatch(r"\w+: .*\S +# \S.*", line), line


@every_preset
def test_it_has_its_own_output_dir(preset):
    same = [
        other
        for other in PRESETS
        if f"output_dir: {yaml.safe_load(preset.read_text())['output_dir']} " in other.read_text()
    ]
    assert same == [preset]


@every_published
def test_it_names_the_published_figures(name):
    clean, other = PUBLISHED[name]
    text = "\n".join(opening(CONFIGS / "asr" / f"{name}.yaml"))
    assert f"WER {clean} on test-clean, {other} on test-other, without a language model (Baevski et al. 2020" in text


@every_published
def test_it_names_the_figures_with_a_language_model_and_its_weights(name):
    clean, other, weight, score = WITH_LM[name]
    target = f"WER {clean} on test-clean, {other} on test-other"
    text, preset = "\n".join(opening(CONFIGS / "asr" / f"{name}.yaml")), CONFIGS / "lm" / f"{name}.yaml"
    assert f"# With LibriSpeech's 4-gram: {target}" in text
    assert preset.exists() == (weight is not None)
    if weight is None:
        return
    assert f"configs/lm/{name}.yaml" in text
    assert target in preset.read_text()
    values = yaml.safe_load(preset.read_text())
    assert values == {"lm_weight": weight, "word_score": score, "beam_size": 1500}


@pytest.mark.parametrize("preset", sorted((CONFIGS / "lm").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_command_of_a_decoding_preset_loads_it(preset, tmp_path, monkeypatch):
    from sft_speech.tasks.asr.ctc.decoding import decoding_of
    from sft_speech.tools import evaluate

    command = " ".join(line.strip("#\\ ") for line in opening(preset)[2:4]).split()
    assert command[:2] == ["sft-speech", "evaluate"]
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    args = parser.parse_args(command[2:])
    assert args.model == yaml.safe_load((CONFIGS / "asr" / preset.name).read_text())["output_dir"]
    (tmp_path / "configs").symlink_to(CONFIGS)
    (tmp_path / "data").mkdir()
    (tmp_path / args.lm).touch()
    monkeypatch.chdir(tmp_path)
    assert decoding_of(args).beam_size == 1500


@every_published
def test_published_presets_share_their_common_values(name):
    config = load_config(FinetuneAsrConfig, str(CONFIGS / "asr" / f"{name}.yaml"), {})
    seconds = {"wav2vec2-large-lv60_960h": 1920.0, "wav2vec2-base_10min": 600.0, "wav2vec2-large-lv60_10min": 600.0}
    assert config.update_seconds == seconds.get(name, 1600.0)
    assert (config.lr_scheduler_type, config.warmup_steps, config.hold_share) == ("tri_stage", 0.1, 0.4)
    assert (config.final_lr_scale, config.adam_beta2, config.max_grad_norm) == (0.05, 0.98, 0.0)
    assert config.freeze_feature_encoder
    assert config.attention_dropout == config.hidden_dropout == 0.0
    assert (config.mask_time_length, config.mask_feature_length) == (10, 64)
    assert config.mask_time_prob >= 0.5


@pytest.mark.parametrize("preset", sorted((CONFIGS / "asr").glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_of_wav2vec2_set_all_regularization(preset):
    """So the result does not depend on the configuration of the checkpoint, unlike in later families, without any."""
    given = yaml.safe_load(preset.read_text())
    if "wav2vec2" not in given["model"]:
        return
    names = "hidden_dropout activation_dropout attention_dropout feat_proj_dropout final_dropout layerdrop "
    names += "mask_time_prob mask_time_length mask_feature_prob"
    assert set(names.split()) <= given.keys()
    assert given["mask_feature_prob"] == 0.0 or given["mask_feature_length"] == 64
    assert [given[name] for name in names.split() if name.endswith("dropout") and name[:4] != "acti"] == [0.0] * 4


@every_published
def test_the_arguments_for_a_local_copy_are_valid(name):
    """The lines after ``add:`` are appended to the command."""
    preset = CONFIGS / "asr" / f"{name}.yaml"
    given = yaml.safe_load(preset.read_text())
    text = " ".join(line.strip("#\\ ") for line in opening(preset))
    words = re.findall(r"--(\w+) (\S+)", text.split("add:")[1]) if "add:" in text else []
    if given["source"].startswith("data/"):
        assert not words
        return
    overrides = {key: None if value == "null" else value for key, value in words}
    config = load_config(FinetuneAsrConfig, str(preset), overrides)
    assert config.source_config is None
    assert config.train_split == given["train_split"].replace(".", "-")
    assert (config.eval_split, config.test_splits) == ("dev-other", ["test-clean", "test-other"])


@pytest.mark.parametrize("file", LAUNCH, ids=lambda path: path.stem)
def test_accelerate_takes_its_file(file):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    config = load_config_from_file(str(file))
    assert config.mixed_precision == "no"  # only the preset decides
    command = next(line for line in file.read_text().splitlines() if "accelerate launch" in line)
    words = command.lstrip("# ").split()
    assert words[3] == f"configs/accelerate/{file.name}"
    args = launch_command_parser().parse_args(["--config_file", str(file), *words[4:]])
    assert args.training_script == "scripts/finetune_asr.py"
    assert (CONFIGS.parent / args.training_script_args[1]).is_file()
    args, *_ = _validate_launch_command(args)
    assert args.multi_gpu == (file.stem in ("multi_gpu", "multi_node"))
    assert args.use_fsdp == file.stem.endswith("fsdp")
    assert args.use_cpu == (file.stem == "cpu")
    assert (args.num_processes > 1) == (args.multi_gpu or args.use_fsdp)
    assert (args.num_machines > 1) == file.stem.startswith("multi_node")


def test_all_launch_files_are_tested():
    assert [file.stem for file in LAUNCH] == ["cpu", "fsdp", "multi_gpu", "multi_node", "multi_node_fsdp", "one_gpu"]


@pytest.mark.parametrize("launch", ["multi_node", "multi_node_fsdp"])
def test_slurm_starts_a_launcher_on_each_machine(tmp_path, launch):
    """Check the arguments of Slurm's two commands and of `accelerate`, which are replaced by stubs."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    stands_in = {
        "scontrol": 'echo node7; echo node8; test "$*" = "show hostnames node[7-8]"',
        "srun": 'shift; for rank in 0 1; do SLURM_PROCID=$rank "$@"; done',
        "accelerate": "printf '%s\\n' \"$*\" >> " + str(tmp_path / "arguments"),
    }
    for name, what in stands_in.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{what}\n")
        (tmp_path / name).chmod(0o755)
    given = {"JOB_NODELIST": "node[7-8]", "NNODES": "2", "GPUS_ON_NODE": "4", "JOB_ID": "123456"}
    environment = {f"SLURM_{name}": value for name, value in given.items()}
    environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LAUNCH": f"configs/accelerate/{launch}.yaml"}
    script = CONFIGS / "accelerate" / "slurm.sh"
    subprocess.run(["bash", script, "--run_name", "a b"], check=True, env=environment, cwd=CONFIGS.parent)
    for rank, line in enumerate((tmp_path / "arguments").read_text().splitlines()):
        words = line.replace("configs/accelerate", str(CONFIGS / "accelerate")).split()
        args, *_ = _validate_launch_command(launch_command_parser().parse_args(words[1:]))
        assert (args.num_machines, args.num_processes, args.machine_rank) == (2, 8, rank)
        assert (args.main_process_ip, args.main_process_port) == ("node7", 23456)
        assert args.use_fsdp == (launch == "multi_node_fsdp")
        assert args.training_script_args == ["--run_name", "a", "b"]
    assert rank == 1


@pytest.mark.parametrize("file", LAUNCH, ids=lambda path: path.stem)
def test_every_unobvious_key_of_a_launch_file_has_a_comment(file):
    plain = ("compute_environment", "distributed_type", "num_machines", "same_network", "fsdp_config")
    for line in file.read_text().splitlines():
        assert len(line) <= 120 or "accelerate launch" in line, line
        assert (
            line.startswith(("#", *plain)) or line == "num_processes: 1" or re.fullmatch(r" *\w+: \S+ +# \S.*", line)
        ), line


def test_sharding_is_the_same_on_one_machine_and_on_several():
    one, several = (
        yaml.safe_load((CONFIGS / "accelerate" / name).read_text()) for name in ("fsdp.yaml", "multi_node_fsdp.yaml")
    )
    assert one["fsdp_config"] == several["fsdp_config"]
    plain = yaml.safe_load((CONFIGS / "accelerate" / "multi_node.yaml").read_text())
    assert several == plain | {"distributed_type": "FSDP", "fsdp_config": one["fsdp_config"]}


def test_accelerate_launches_on_the_cpu(tmp_path, monkeypatch):
    import subprocess
    import sys

    script = tmp_path / "script.py"
    script.write_text("from accelerate import Accelerator\nprint('device', Accelerator().device)\n")
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(CONFIGS / "accelerate/cpu.yaml"),
    ]
    done = subprocess.run([*command, str(script)], capture_output=True, text=True, check=True)
    assert "device cpu" in done.stdout


@every_preset
def test_its_splits_are_valid_and_share_no_rows(preset):
    from sft_speech.corpora.splits import parse_split

    config = load_config(CONFIG_OF[preset.parent.name], str(preset), {})
    training = parse_split(config.train_split)
    held_out = [part for split in (config.eval_split, *config.test_splits) for part in parse_split(split)]
    assert held_out
    if config.eval_source is not None:
        return
    for ours in training:
        for theirs in held_out:
            apart = ours.upper <= theirs.lower or not (
                ours.name == theirs.name and (set(ours.speakers) & set(theirs.speakers) or not ours.speakers)
            )
            assert apart, (ours, theirs)
