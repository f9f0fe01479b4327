"""Rows in, exact tensors out: a Whisper's labels, with the token that ends a text as padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sft_speech.models.spec_augment import SpecAugment
from sft_speech.tasks.asr.seq2seq.checkpoint import load_checkpoint
from sft_speech.tasks.asr.seq2seq.collator import Seq2SeqCollator

SECOND = 16_000


@pytest.fixture(scope="module")
def checkpoint(tiny_seq2seq):
    return load_checkpoint(tiny_seq2seq("whisper"), language="de")


def utterance(checkpoint, text: str, seconds: float) -> dict:
    waveform = np.random.default_rng(0).normal(0, 0.1, round(seconds * SECOND)).astype(np.float32)
    transcripts = checkpoint.transcripts
    return {"waveform": waveform, "prefix": transcripts.prefix(), "labels": transcripts.encode(text)}


def names(checkpoint, ids) -> list[str]:
    return checkpoint.transcripts.tokenizer.convert_ids_to_tokens(ids)


def test_labels_end_where_the_transcript_ends(checkpoint):
    """The prefix is given and not learned; the first label is the first token of the text; no token is there twice."""
    batch = Seq2SeqCollator(checkpoint)([utterance(checkpoint, "the a", 1.0), utterance(checkpoint, "b", 0.5)])
    inputs, labels = batch["decoder_input_ids"].tolist(), batch["labels"].tolist()
    prefix = ["<|startoftranscript|>", "<|de|>", "<|transcribe|>", "<|notimestamps|>"]
    end = "<|endoftext|>"
    assert names(checkpoint, inputs[0]) == [*prefix, "Ġthe", "Ġ", "a"]
    assert labels[0][:3] == [-100] * 3
    assert names(checkpoint, labels[0][3:]) == ["Ġthe", "Ġ", "a", end]
    assert names(checkpoint, inputs[1]) == [*prefix, "Ġ", "b", end]
    assert labels[1][:3] == [-100] * 3
    assert names(checkpoint, labels[1][3:6]) == ["Ġ", "b", end], "its end is learned"
    assert labels[1][6:] == [-100], "the same token as padding is not"
    assert batch["seconds"].item() == pytest.approx(1.5)


def test_a_clip_has_its_own_positions_or_all_of_them(checkpoint):
    """50 positions a second, two log-mel frames each: the clip, a tenth of a second, and four frames of silence."""
    clips = [utterance(checkpoint, "a", 1.0), utterance(checkpoint, "a", 0.51), utterance(checkpoint, "a", 3.9)]
    checkpoint.train_on(own_length=True)
    batch = Seq2SeqCollator(checkpoint)(clips)
    assert batch["attention_mask"].sum(-1).tolist() == [110, 62, 400]
    assert batch["input_features"].shape == (3, 16, 400)
    assert Seq2SeqCollator(checkpoint)(clips[:2])["input_features"].shape == (2, 16, 114)
    checkpoint.train_on(own_length=False)
    batch = Seq2SeqCollator(checkpoint)(clips[:2])
    assert batch["input_features"].shape == (2, 16, 400)
    assert "attention_mask" not in batch


def test_a_batch_of_which_nothing_can_be_read_has_no_labels(checkpoint):
    batch = Seq2SeqCollator(checkpoint)([None])
    assert (batch["labels"] == -100).all()
    assert batch["input_features"].shape[0] == batch["labels"].shape[0] == 1


@pytest.mark.parametrize("own_length", [True, False])
def test_masks_of_the_log_mel_are_those_of_the_utterance(checkpoint, own_length):
    """They depend neither on the batch nor on the other clips, and lie within the clip's own frames."""
    checkpoint.train_on(own_length)
    config = checkpoint.model.config
    keys = {"mask_time_prob": 0.3, "mask_time_length": 5, "mask_feature_prob": 0.2, "mask_feature_length": 3}
    config.update(keys)
    draw = SpecAugment(config, checkpoint.front_end.masked_frames, seed=1)
    clips = [utterance(checkpoint, "a", seconds) for seconds in (1.0, 2.0)]
    for number, clip in enumerate(clips):
        clip["masks"] = draw(len(clip["waveform"]), 0, number)
    collate = Seq2SeqCollator(checkpoint)
    together, alone = collate(clips)["input_features"], [collate([clip])["input_features"][0] for clip in clips]
    for number, own in enumerate(alone):
        frames = min(own.shape[-1], together.shape[-1])
        assert torch.equal(together[number, :, :frames], own[:, :frames])
    time, channels = map(torch.from_numpy, clips[0]["masks"])
    assert len(time) == 100
    assert time.any()
    assert channels.any()
    first = together[0][:, :100]
    assert (first[:, time] == 0).all()
    assert (first[channels] == 0).all()
    assert (first[~channels][:, ~time] != 0).float().mean() > 0.9
