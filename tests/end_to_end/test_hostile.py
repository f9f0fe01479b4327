"""Models, checkpoints and settings from elsewhere: none of them runs code or publishes anything."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from sft_speech.cli import main
from sft_speech.errors import UserError
from sft_speech.training import checkpoints

PACKAGE = Path(__file__).parents[2] / "sft_speech"


class Evil:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def poison(file: Path, mark: Path, as_torch: bool) -> None:
    """Write the pickle as torch does, or as a bare pickle."""
    if as_torch:
        torch.save({"state": Evil(mark)}, file)
    else:
        file.write_bytes(pickle.dumps(Evil(mark)))


def test_the_poisoned_file_runs_code_if_it_is_unpickled(tmp_path):
    poison(tmp_path / "a.pt", tmp_path / "mark", as_torch=True)
    torch.load(tmp_path / "a.pt", weights_only=False)
    assert (tmp_path / "mark").is_dir()


@pytest.fixture
def stopped(arguments, tmp_path):
    """Return a command that resumes from the middle checkpoint of a run, which was copied elsewhere."""
    arguments += ["--max_steps", "4", "--eval_steps", "2", "--learning_rate", "1e-4"]
    assert main(arguments) == 0
    shutil.copytree(tmp_path / "out/checkpoint-2", tmp_path / "fetched")
    return [*arguments, "--output_dir", str(tmp_path / "again"), "--resume_from_checkpoint", str(tmp_path / "fetched")]


def test_no_file_of_a_checkpoint_runs_code(stopped, tmp_path, capsys):
    fetched, mark = tmp_path / "fetched", tmp_path / "mark"
    names = {path.name for path in fetched.iterdir() if path.suffix in (".pt", ".pth", ".bin")}
    assert names == {"optimizer.pt", "scheduler.pt", "rng_state.pth", "unlogged_0.pt"}, "all the pickled files"
    for name in sorted(names):
        shutil.copytree(fetched, tmp_path / "whole")
        poison(fetched / name, mark, as_torch=name != "scheduler.pt")
        listed = json.loads((fetched / checkpoints.LIST).read_text())
        listed[name] = checkpoints.fingerprint(fetched / name)  # an attacker can do that too
        (fetched / checkpoints.LIST).write_text(json.dumps(listed))
        assert main(stopped) == 2
        assert not mark.exists(), name
        shutil.rmtree(fetched)
        (tmp_path / "whole").rename(fetched)
        shutil.rmtree(tmp_path / "again", ignore_errors=True)
    assert capsys.readouterr().err.count("isn't what a run writes") == 4


def test_pickled_weights_beside_safetensors_are_ignored(small, tmp_path):
    from sft_speech.tasks.asr.ctc.checkpoint import load_checkpoint

    shutil.copytree(small, tmp_path / "model")
    poison(tmp_path / "model/pytorch_model.bin", tmp_path / "mark", as_torch=True)
    for allow in (False, True):
        assert load_checkpoint(tmp_path / "model", allow_pickle=allow).new_weights == []
    assert not (tmp_path / "mark").exists()


@pytest.fixture
def pickled(small, tmp_path):
    """A model whose weights are pickled."""
    shutil.copytree(small, tmp_path / "pickled")
    torch.save(load_file(small / "model.safetensors"), tmp_path / "pickled/pytorch_model.bin")
    (tmp_path / "pickled/model.safetensors").unlink()
    return tmp_path / "pickled"


def test_pickled_weights_need_an_option(pickled, tones, tmp_path, capsys):
    arguments = ["evaluate", str(pickled), "--source", str(tones), "--split", "dev-tones", "-o", str(tmp_path)]
    assert main(arguments) == 2
    assert "its weights are pickled (pytorch_model.bin)" in capsys.readouterr().err
    assert main([*arguments, "--allow_pickle"]) == 0


@pytest.mark.parametrize("as_torch", [True, False])
def test_allowed_pickles_run_no_code(pickled, tmp_path, as_torch):
    from sft_speech import Transcriber

    poison(pickled / "pytorch_model.bin", tmp_path / "mark", as_torch)
    with pytest.raises(UserError, match="cannot be loaded"):
        Transcriber(pickled, allow_pickle=True)
    assert not (tmp_path / "mark").exists()


def test_nothing_but_safetensors_from_the_hub():
    from sft_speech.models.load import how_to_read_weights

    assert how_to_read_weights("somebody/model", allow_pickle=True) == {"use_safetensors": True}


def test_the_code_of_a_model_is_not_run(small, tones, tmp_path, capsys):
    shutil.copytree(small, tmp_path / "model")
    (tmp_path / "model/evil.py").write_text(f"import os; os.mkdir({str(tmp_path / 'mark')!r})")
    config = (tmp_path / "model/config.json").read_text()
    auto_map = '{"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCTC": "evil.Model"}, "model_type": "evil",'
    (tmp_path / "model/config.json").write_text(config.replace("{", auto_map, 1).replace('"wav2vec2"', '"evil"'))
    arguments = ["evaluate", str(tmp_path / "model"), "--source", str(tones), "--split", "dev-tones"]
    assert main(arguments) == 2
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("key", ["trust_remote_code", "allow_pickle", "push_to_hub"])
@pytest.mark.parametrize("value", [True, "yes", 1, [False]])
def test_options_that_a_yaml_must_not_set(arguments, tmp_path, capsys, key, value):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({key: value}))
    assert main([*arguments, "--config", str(tmp_path / "run.yaml")]) == 2
    assert f"{key}: only the command line can switch this on" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_repeating_a_run_needs_the_option_again(arguments, tmp_path, capsys):
    keys = ["--max_steps", "1", "--eval_steps", "1"]
    assert main([*arguments, *keys, "--allow_pickle"]) == 0
    again = ["finetune-asr", "--config", str(tmp_path / "out/run.yaml"), "--output_dir", str(tmp_path / "again")]
    assert main(again) == 2
    assert "add --allow_pickle" in capsys.readouterr().err
    assert main([*again, "--allow_pickle"]) == 0
    assert main([*again, "--allow_pickle", "false", "--output_dir", str(tmp_path / "third")]) == 0


# ---- what the package calls

FORBIDDEN = {"eval", "exec", "compile", "pickle.load", "dill.load", "yaml.load", "yaml.full_load", "yaml.unsafe_load"}
FORBIDDEN |= {"os.system", "os.popen", "tempfile.mktemp", "joblib.load", "marshal.loads", "shelve.open"}
ANYWHERE = {"extractall", "unpack_archive", "read_pickle"}
OWN_PICKLES = {"training/start.py"}  # between the processes of one run, which have the same rights anyway


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def findings(source: str) -> list[str]:
    """Return the calls in a module that could run the content of a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name, given = dotted(node.func), {word.arg: getattr(word.value, "value", ...) for word in node.keywords}
        bad = name in FORBIDDEN or name.split(".")[-1] in ANYWHERE or name == "pickle.loads"
        bad |= name == "torch.load" and given.get("weights_only") is not True
        bad |= name in ("np.load", "numpy.load") and given.get("allow_pickle") is not False
        bad |= given.get("shell", False) is not False
        bad |= given.get("trust_remote_code", False) is True or given.get("weights_only", True) is False
        if bad:
            found.append(f"line {node.lineno}: {name}")
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_call_runs_the_content_of_a_file(path):
    allowed = ["pickle.loads"] if str(path.relative_to(PACKAGE)) in OWN_PICKLES else []
    assert [found.split(": ")[1] for found in findings(path.read_text())] == allowed


def test_such_calls_are_found():
    lines = ["torch.load(f)", "np.load(f)", "yaml.load(f)", "eval(x)", "tar.extractall(p)", "run(x, shell=True)"]
    lines += ["a.from_pretrained(x, trust_remote_code=True)", "torch.load(f, weights_only=False)"]
    assert len(findings("\n".join(lines))) == len(lines)
    assert findings("torch.load(f, weights_only=True); yaml.safe_load(f); np.load(f, allow_pickle=False)") == []
