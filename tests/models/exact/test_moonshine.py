"""Parts of Moonshine that see each clip as if it were alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sft_speech.models.exact.encoders import make_padding_exact
from sft_speech.models.exact.lengths import ClipLengths
from sft_speech.models.exact.norms import ClipGroupNorm

LENGTHS = torch.tensor([9000, 4111, 2000])


@pytest.mark.parametrize("groups", [1, 2])
def test_a_group_norm_takes_its_statistics_over_a_clips_own_frames(groups: int) -> None:
    plain = torch.nn.GroupNorm(groups, 4)
    torch.nn.init.normal_(plain.weight)
    torch.nn.init.normal_(plain.bias)
    lengths = ClipLengths()
    norm = ClipGroupNorm(plain, lengths)
    norm.weight, norm.bias = plain.weight, plain.bias
    frames = torch.randn(2, 4, 10)
    torch.testing.assert_close(norm(frames), plain(frames))
    lengths.frames = torch.tensor([10, 6])
    normed = norm(frames)
    torch.testing.assert_close(normed[:1], plain(frames[:1]))
    torch.testing.assert_close(normed[1:, :, :6], plain(frames[1:, :, :6]))
    assert norm(frames.bfloat16()).dtype == torch.bfloat16


@pytest.fixture
def exact(tiny_seq2seq: Callable[..., Path]) -> Callable[..., Any]:
    def built(kind: str, **options: Any) -> Any:
        from transformers import AutoModelForSpeechSeq2Seq

        model = AutoModelForSpeechSeq2Seq.from_pretrained(tiny_seq2seq(kind), **options)
        return make_padding_exact(model)

    return built


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "input_values": torch.randn(3, 9040, generator=generator),
        "attention_mask": (torch.arange(9040) < LENGTHS[:, None]).long(),
        "decoder_input_ids": torch.randint(3, 50, (3, 6), generator=generator),
    }


@pytest.mark.parametrize(("kind", "frames"), [("moonshine", [22, 9, 3]), ("moonshine-streaming", [29, 13, 7])])
def test_frames_that_see_the_padding_are_hidden(
    exact: Callable[..., Any], batch: dict[str, torch.Tensor], kind: str, frames: list[int]
) -> None:
    encoded = exact(kind).get_encoder()(batch["input_values"], attention_mask=batch["attention_mask"])
    assert encoded.attention_mask.sum(-1).tolist() == frames
    assert encoded.last_hidden_state.shape[1] == frames[0]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["moonshine", "moonshine-streaming"])
def test_what_follows_a_clip_changes_nothing(
    exact: Callable[..., Any], batch: dict[str, torch.Tensor], kind: str, attention: str
) -> None:
    model = exact(kind, attn_implementation=attention)
    quiet = batch | {"input_values": batch["input_values"] * batch["attention_mask"]}
    loud = batch | {"input_values": torch.where(batch["attention_mask"] == 1, batch["input_values"], 9.0)}
    torch.testing.assert_close(model(**quiet).logits, model(**loud).logits, rtol=1e-4, atol=1e-4)


def test_decoding_leaves_the_encoders_states_as_they_are(
    exact: Callable[..., Any], batch: dict[str, torch.Tensor]
) -> None:
    model = exact("moonshine-streaming")
    encoded = model.get_encoder()(batch["input_values"], attention_mask=batch["attention_mask"])
    given = {"encoder_outputs": encoded, "decoder_input_ids": batch["decoder_input_ids"]}
    assert torch.equal(model(**given).logits, model(**given).logits)


@pytest.mark.parametrize("kind", ["moonshine", "moonshine-streaming"])
def test_weights_keep_their_names(
    exact: Callable[..., Any], tiny_seq2seq: Callable[..., Path], kind: str, tmp_path: Path
) -> None:
    from transformers import AutoModelForSpeechSeq2Seq

    model = exact(kind)
    model.save_pretrained(tmp_path)
    plain = AutoModelForSpeechSeq2Seq.from_pretrained(tiny_seq2seq(kind)).state_dict()
    saved = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path).state_dict()
    assert list(model.state_dict()) == list(plain)
    assert all(torch.equal(plain[name], weight) for name, weight in saved.items())


@pytest.mark.parametrize("kind", ["moonshine", "moonshine-streaming", "speech2text"])
def test_gradient_checkpointing_and_copies_change_nothing(exact: Callable[..., Any], kind: str) -> None:
    model = exact(kind).train()
    generator = torch.Generator().manual_seed(1)
    if kind == "speech2text":
        shape, name, own = (2, 60, 16), "input_features", torch.tensor([[60], [33]])
    else:
        shape, name, own = (2, 8000), "input_values", torch.tensor([[8000], [4111]])
    inputs = {
        name: torch.randn(shape, generator=generator),
        "attention_mask": (torch.arange(shape[1]) < own).long(),
        "decoder_input_ids": torch.tensor([[4, 5, 6], [7, 8, 9]]),
    }

    def gradients(model: Any) -> list[torch.Tensor]:
        model.zero_grad()
        model(**inputs, use_cache=False).logits.square().mean().backward()
        return [one.grad.clone() for one in model.parameters() if one.grad is not None]

    expected = gradients(model)
    assert torch.equal(
        torch.stack([a.sum() for a in gradients(copy.deepcopy(model))]), torch.stack([a.sum() for a in expected])
    )
    model.gradient_checkpointing_enable()
    for given, wanted in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(given, wanted)
