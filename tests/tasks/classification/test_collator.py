from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from sft_speech.tasks.classification.collator import ClassificationCollator, targets
from sft_speech.tasks.classification.labels import Labels


def features(waveforms):
    longest = max(map(len, waveforms))
    return {"input_values": torch.tensor(np.array([np.pad(one, (0, longest - len(one))) for one in waveforms]))}


def collated(*utterances, multi=False):
    front_end = SimpleNamespace(features=features, time_axis=None)
    checkpoint = SimpleNamespace(front_end=front_end, rate=4, labels=Labels(("a", "b", "c"), multi))
    batch = ClassificationCollator(checkpoint)(list(utterances))
    return {name: value.tolist() for name, value in batch.items()}


def utterance(samples, *labels):
    return {"id": "x", "waveform": np.ones(samples, np.float32), "labels": list(labels)}


def test_a_batch():
    assert collated(utterance(2, 2), None, utterance(4, 0)) == {
        "input_values": [[1, 1, 0, 0], [1, 1, 1, 1]],
        "labels": [2, 0],
        "seconds": 1.5,
    }


def test_several_labels_per_clip():
    assert collated(utterance(1, 0, 2), utterance(1, 1), multi=True)["labels"] == [[1, 0, 1], [0, 1, 0]]


def test_a_batch_of_which_nothing_can_be_read_teaches_nothing():
    assert collated(None, None) == {"input_values": [[0, 0, 0, 0]], "labels": [-100], "seconds": 1.0}
    assert targets([[]], 3, multi=True).tolist() == [[-100, -100, -100]]
