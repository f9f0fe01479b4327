"""The same clips give the same loss and the same gradients, however they are split (transformers#47688)."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("one_step.py")
spec = importlib.util.spec_from_file_location("one_step", SCRIPT)
one_step = importlib.util.module_from_spec(spec)
spec.loader.exec_module(one_step)

SMALL = 5e-5  # 4e-6 were measured


@pytest.fixture(scope="module")
def whole():
    """All 16 clips in one batch, by the kind of the model."""
    return {kind: one_step.one_step(16, 1, kind=kind) for kind in one_step.KINDS}


@pytest.mark.parametrize("kind", one_step.KINDS)
@pytest.mark.parametrize(("size", "batches", "uneven"), [(1, 16, False), (4, 4, True)])
def test_accumulation_changes_nothing(whole, kind, size, batches, uneven):
    assert one_step.difference(one_step.one_step(size, batches, uneven, kind), whole[kind]) < SMALL


def check_same(printed: str, whole, kinds=one_step.KINDS) -> None:
    found = json.loads(printed.splitlines()[-1])
    assert tuple(found) == kinds
    for kind, figures in found.items():
        assert one_step.difference(figures, whole[kind]) < SMALL, kind


@pytest.mark.parametrize(
    ("arguments", "kinds"), [(["4", "2", "few"], one_step.FEW), (["2", "4", "uneven"], one_step.KINDS)]
)
def test_two_processes_change_nothing(whole, two_processes, arguments, kinds):
    check_same(two_processes(str(SCRIPT), *arguments), whole, kinds)


def test_a_model_in_two_pieces_changes_nothing(whole, two_pieces):
    """Accumulation and pieces together."""
    check_same(two_pieces(str(SCRIPT), "2", "4", "uneven", "sharded"), whole, one_step.SHARDED)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["multi_node.yaml", "multi_node_fsdp.yaml"])
def test_two_machines_change_nothing(whole, two_machines, config):
    check_same(two_machines(config, str(SCRIPT), "2", "2", "uneven", "few")[0], whole, one_step.FEW)


def test_loss_is_nats_per_label(whole):
    """Against PyTorch's own loss, clip by clip."""
    import torch

    model = one_step.tiny_model().train()
    clips = one_step.Clips(model)
    total, labels = 0.0, 0
    for index in range(one_step.CLIPS):
        batch = clips.collate([clips[(0, index)]])
        logits = model(input_values=batch["input_values"], attention_mask=batch["attention_mask"]).logits
        probabilities = logits.log_softmax(-1).transpose(0, 1)
        length = batch["labels"].shape[1]
        total += torch.nn.functional.ctc_loss(
            probabilities, batch["labels"], batch["frames"], torch.tensor([length]), reduction="sum"
        ).item()
        labels += length
    assert whole["ctc"]["loss"] == pytest.approx(total / labels, rel=1e-4)


def test_weights_are_factors_on_loss_and_count(whole):
    """A weighted mean over the labels of the clips, of losses that are computed clip by clip."""
    model, clips, criterion = one_step.parts("ctc")
    total = count = 0.0
    for index, weight in enumerate(one_step.WEIGHTS):
        batch = clips.collate([clips[(0, index)]])
        factor = 1.0 if weight is None else weight
        total += factor * criterion.loss(model.train(), batch).total.item()
        count += factor * batch["labels"].shape[1]
    assert whole["ctc: weighted"]["loss"] == pytest.approx(total / count, rel=1e-4)
    assert whole["ctc: weighted"]["grad_norm"] != pytest.approx(whole["ctc"]["grad_norm"], rel=1e-2)


def test_loss_of_a_whisper_is_nats_per_label(whole):
    """Against PyTorch's own loss, clip by clip; with all positions of the encoder, against that of plain Whisper."""
    import torch
    from transformers import WhisperForConditionalGeneration

    clips = one_step.Seq2SeqClips("whisper")
    checkpoint, total, count = clips.checkpoint, 0.0, 0
    for utterance in clips.utterances:
        batch = clips.collate([utterance])
        labels = batch.pop("labels")
        logits = checkpoint.model(**{name: value for name, value in batch.items() if name != "seconds"}).logits
        total += torch.nn.functional.cross_entropy(logits[0], labels[0], reduction="sum").item()
        count += len(utterance["labels"])
    assert whole["whisper"]["loss"] == pytest.approx(total / count, rel=1e-4)

    checkpoint.train_on(own_length=False)
    plain = WhisperForConditionalGeneration(checkpoint.model.config)
    plain.load_state_dict(checkpoint.model.state_dict())
    batch = one_step.Seq2SeqCollator(checkpoint)(clips.utterances[:4])
    ours = one_step.Seq2SeqCriterion().loss(checkpoint.model, batch).total.item()
    batch.pop("seconds")
    assert ours / int((batch["labels"] != -100).sum()) == pytest.approx(plain(**batch).loss.item(), rel=1e-4)
