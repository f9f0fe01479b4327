from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sft_speech.tasks.asr.ctc.collator import CTCCollator
from sft_speech.tasks.asr.tdt.checkpoint import load_checkpoint
from sft_speech.tasks.asr.tdt.loss import TdtCriterion

TEXTS = ["the sing a", "he", "a thing"]


@pytest.fixture
def checkpoint(transducer):
    return load_checkpoint(transducer, log=False)


def batch_of(checkpoint, numbers):
    generator = np.random.default_rng(0)
    clips = [generator.normal(size=samples).astype(np.float32) for samples in (9000, 6400, 16001)]
    labels = [checkpoint.encode(text) for text in TEXTS]
    return CTCCollator(checkpoint)([{"waveform": clips[n], "labels": labels[n]} for n in numbers])


def all_paths(tokens, durations, labels, blank, steps, at=0, done=0):
    """The probability of the labels from a frame on, by going along every path."""
    frames = len(tokens)
    if at >= frames:
        return float(at == frames and done == len(labels))
    total = 0.0
    for index, step in enumerate(steps):
        move = durations[at, done, index].item()
        if step > 0 and (at + step < frames or done == len(labels)):
            here = tokens[at, done, blank].item() * move
            total += here * all_paths(tokens, durations, labels, blank, steps, at + step, done)
        if done < len(labels) and at + step < frames:  # the last step is a blank
            here = tokens[at, done, labels[done]].item() * move
            total += here * all_paths(tokens, durations, labels, blank, steps, at + step, done + 1)
    return total


def test_it_is_the_probability_of_all_alignments(checkpoint):
    config, criterion = checkpoint.model.config, TdtCriterion(checkpoint.model.config)
    clip = np.random.default_rng(0).normal(size=640 * 4).astype(np.float32)
    batch = CTCCollator(checkpoint)([{"waveform": clip, "labels": checkpoint.encode("he")}])
    labels = batch["labels"][0].tolist()
    assert (batch["frames"].item(), criterion.count(batch)) == (4, len(labels))
    previous = torch.tensor([[config.blank_token_id, *labels]])
    features = {name: batch[name] for name in ("input_features", "attention_mask")}
    with torch.no_grad():
        logits = checkpoint.model(**features, decoder_input_ids=previous).logits[0, :4]
        tokens, durations = logits[..., : config.vocab_size].softmax(-1), logits[..., config.vocab_size :].softmax(-1)
        expected = -math.log(all_paths(tokens, durations, labels, checkpoint.blank, config.durations))
        assert criterion.loss(checkpoint.model, batch).total.item() == pytest.approx(expected, rel=1e-5)


def gradients(checkpoint, parts):
    criterion = TdtCriterion(checkpoint.model.config)
    model = checkpoint.model.train()
    model.zero_grad()
    for part in parts:
        criterion.loss(model, batch_of(checkpoint, part)).total.backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def test_gradients_do_not_depend_on_the_split(checkpoint):
    alone = gradients(checkpoint, [[0], [1], [2]])
    scale = max(value.abs().max() for value in alone.values())
    for parts in ([[0, 1, 2]], [[2, 0], [1]]):
        together = gradients(checkpoint, parts)
        assert alone.keys() == together.keys()
        for name, value in alone.items():
            assert torch.allclose(value, together[name], rtol=1e-3, atol=1e-6 * scale), name


def test_utterances_without_labels_add_nothing(checkpoint):
    batch = CTCCollator(checkpoint)([None])
    out = TdtCriterion(checkpoint.model.config).loss(checkpoint.model, batch)
    out.total.backward()
    assert out.total.item() == 0
    assert all(not one.grad.any() for one in checkpoint.model.parameters() if one.grad is not None)
