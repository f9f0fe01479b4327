"""What the trainer does beside its loss (see test_exact_loss.py), and what it relies on."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
import transformers.trainer
import transformers.training_args
from transformers import TrainingArguments

import sft_speech
from sft_speech.training.trainer import PRIVATE_NAMES, one_gpu


def private_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Lines and names of the private attributes that are read, set, asked for by name or defined in a class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.ClassDef):
            yield from ((one.lineno, one.name) for one in node.body if isinstance(one, ast.FunctionDef))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("attr"):
            yield from ((one.lineno, str(one.value)) for one in node.args if isinstance(one, ast.Constant))


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def of_transformers() -> set[str]:
    """Private attributes of the Trainer and of TrainingArguments, by the source of both."""
    sources = [inspect.getsource(cls) for cls in (transformers.trainer.Trainer, TrainingArguments)]
    names = {name for source in sources for _, name in private_names(ast.parse(source))}
    return set(filter(is_private, names))


def test_transformers_still_has_each_private_name_that_we_rely_on():
    gone = {name: why for name, why in PRIVATE_NAMES.items() if name not in of_transformers()}
    assert gone == {}, "transformers moved: find another way for each of these"
    assert len(PRIVATE_NAMES) <= 6


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("_save_checkpoint", ["self", "model", "trial"]),
        ("_determine_best_metric", ["self", "metrics", "trial"]),
        ("_load_best_model", ["self"]),
        ("_get_grad_norm", ["self", "model", "grad_norm"]),
    ],
)
def test_transformers_still_calls_them_as_we_expect(name, parameters):
    assert list(inspect.signature(getattr(transformers.Trainer, name)).parameters) == parameters
    inside = inspect.getsource(transformers.trainer.Trainer)
    assert f"self.{name}(" in inside


def test_no_other_private_name_of_transformers_is_used():
    theirs, found = of_transformers(), set()
    for file in Path(sft_speech.__file__).parent.rglob("*.py"):
        for line, name in private_names(ast.parse(file.read_text(encoding="utf-8"))):
            if is_private(name) and name in theirs:
                found.add(name)
                assert name in PRIVATE_NAMES, f"{file}:{line} uses {name}"
    assert found == set(PRIVATE_NAMES), "one of them is not used any more"


def test_the_search_finds_what_it_looks_for():
    source = "class A:\n    def _save(self): self.b._tr_loss = getattr(self, '_x')"
    assert {name for _, name in private_names(ast.parse(source))} == {"_save", "b", "_tr_loss", "_x"}
    assert {"_save", "_tr_loss", "_n_gpu", "_load_rng_state"} <= of_transformers()


def test_without_a_launcher_one_gpu_is_used(tmp_path, caplog):
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    one_gpu(arguments)
    assert not caplog.records
    arguments._n_gpu = 4  # what a machine with four of them says
    one_gpu(arguments)
    assert arguments.n_gpu == 1
    assert "there are 4 GPUs, but only one is used" in caplog.text
