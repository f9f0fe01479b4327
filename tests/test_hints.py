"""What a user is told who confuses a model, a recording and a corpus, or gives an option of another verb."""

from __future__ import annotations

import ast
import dataclasses
import re
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sft_speech.cli import main, verbs
from sft_speech.options.parser import Parser
from sft_speech.tools.self_train.options import RoundOptions

MODEL = str(files("sft_speech") / "assets/wav2vec2-small")
RUN = ("finetune-asr", "--model", MODEL, "--output_dir", "out", "--source")


@pytest.mark.parametrize(
    ("command", "why", "do"),
    [
        ((*RUN, "a.wav"), "a.wav: it is a recording, not a corpus", "sft-speech transcribe MODEL a.wav"),
        ((*RUN, MODEL), "it holds a model, not a corpus", f"give the model as --model {MODEL}"),
        ((*RUN, ".", "--split", "dev"), "no option --split", "did you mean --train_split?"),
        ((*RUN, "table.csv", "--report_to", "clearml"), "this tracker is not installed", "pip install clearml, or"),
        (("transcribe", "a.wav", MODEL), "it holds a model, not recordings", "give the model first"),
        (("transcribe", MODEL, "a.wav", "--device", "gpu"), "device gpu: PyTorch does not know this", "give cuda"),
        ((*RUN, "odd.csv"), "odd.csv: no column for the audio", "say which it is: --audio_column NAME"),
        ((*RUN, "splits"), "splits: it has the splits dev, train", "say which: --train_split train (or several"),
        (("evaluate", MODEL, "--source", "splits", "--split", "x"), "there is no split 'x'", "there are: dev, train"),
        (
            ("build-lm", "splits", "--model", MODEL, "-o", "a"),
            "it has the splits dev, train",
            "say which: --split train",
        ),
        (("transcribe", "old/mine", "a.wav"), "old/mine: there is no such directory", "give the directory of"),
        (("evaluate", "old/mine", "--source", "."), "old/mine: there is no such directory", "give the directory of"),
        (("transcribe", "new/mine", "a.wav"), "HF_HUB_OFFLINE is set", "check the path, or unset HF_HUB_OFFLINE"),
    ],
)
def test_a_confusion_is_recognized(command, why, do, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    soundfile.write("a.wav", np.zeros(1600), 16000)
    (tmp_path / "table.csv").write_text("audio,text\na.wav,hello\n")
    (tmp_path / "odd.csv").write_text("recording_of,text\na.wav,hello\n")
    (tmp_path / "old").mkdir()
    for split in ("dev", "train"):
        (tmp_path / "splits" / split).mkdir(parents=True)
        (tmp_path / "splits" / split / "metadata.csv").write_text("file_name,text\na.wav,hello\n")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    try:
        code = main(list(command))
    except SystemExit as stopped:  # of the parser
        code = stopped.code
    assert code == 2
    error = capsys.readouterr().err
    assert why in error
    assert do in error
    assert not (tmp_path / "out").exists()


# ---- every hint of the package ----

# Commands of other programs, up to the end of the command.
OTHERS = re.compile(r"\b(?:accelerate launch|hf \w+|soffice|X --force-reinstall|docker run|in ESPnet|lmplz)\b[^`;,]*")


def texts_of(tree: ast.AST, hints_only: bool) -> Iterator[str]:
    """The strings of a module, or those that say what to do; a value in an f-string is X."""
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    roots: list[ast.AST] = [tree]
    if hints_only:
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        errors = [node for node in calls if getattr(node.func, "id", "") == "UserError"]
        assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
        named = [node for node in assigned if re.search(r"\bdo\b", ast.unparse(node.targets[0]))]  # do; why, do
        roots = [*(argument for call in errors for argument in call.args[2:3]), *(node.value for node in named)]
    for node in (inner for root in roots for inner in ast.walk(root)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents | parts:
            yield node.value


@pytest.fixture(scope="module")
def flags() -> dict[str, set[str]]:
    """The options of each verb, from its own parser."""
    found = {}
    for name, verb in verbs().items():
        parser = Parser()
        verb.load().add_arguments(parser)
        found[name] = {*parser._option_string_actions, "--debug"}
    return found


@pytest.fixture(scope="module")
def modules() -> dict[str, ast.AST]:
    root = Path(str(files("sft_speech")))
    return {str(path.relative_to(root)): ast.parse(path.read_text("utf-8")) for path in root.rglob("*.py")}


def test_every_command_in_a_text_has_a_verb_and_its_options(modules, flags):
    wrong, seen = [], set()
    for name, tree in modules.items():
        for text in texts_of(tree, hints_only=False):
            for verb, more in re.findall(r"sft-speech ([a-z][\w-]*)((?: [^\s`;,]+)*)", text):
                seen.add(verb)
                options = re.findall(r"(?<!\S)--?[a-z]\w*", more)
                wrong += [(name, text) for option in options if option not in flags.get(verb, ())]
                wrong += [] if any(re.fullmatch(verb.replace("X", ".+"), known) for known in flags) else [(name, text)]
    assert not wrong
    assert {"cut", "merge", "evaluate", "finetune-asr", "transcribe"} <= seen


def test_every_option_in_a_hint_exists(modules, flags):
    known, wrong, seen = set().union(*flags.values()), [], set()
    known |= {f"--{field.name}" for field in dataclasses.fields(RoundOptions)}  # keys of a YAML only
    for name, tree in modules.items():
        for text in texts_of(tree, hints_only=True):
            options = re.findall(r"(?<![\w-])--[a-z][\w-]*", OTHERS.sub("", text))
            keys = [f"--{key}" for key in re.findall(r"`(?!key)(\w+): ", text)]
            seen.update(options + keys)
            wrong += [(name, text, option) for option in options + keys if option not in known]
    assert not wrong
    assert {"--resume_from_checkpoint", "--max_batch_seconds"} <= seen


def test_every_extra_in_a_text_is_one_of_ours(modules):
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
    texts = [text for tree in modules.values() for text in texts_of(tree, hints_only=False)]
    found = {extra for text in texts for extra in re.findall(r"sft_speech\[([\w-]+)\]", text)}
    assert found - {"X"} == {"codecs", "demo", "demo-page", "export", "lm"}
    assert found - {"X"} <= project["optional-dependencies"].keys()
