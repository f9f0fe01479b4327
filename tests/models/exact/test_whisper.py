"""A Whisper that takes clips of any length: as plain transformers, and as a clip alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sft_speech.models.exact.whisper import take_any_length


def whisper(**changes: Any) -> Any:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    settings = {
        "vocab_size": 50,
        "num_mel_bins": 8,
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 24,
        "max_source_positions": 30,
        "max_target_positions": 20,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "decoder_start_token_id": 1,
    }
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(WhisperConfig(**{**settings, **changes})).eval()
    for name, parameter in model.named_parameters():  # fresh norms and biases would hide errors
        if name != "model.encoder.embed_positions.weight":  # sinusoids
            torch.nn.init.normal_(parameter, std=0.3)
    return model


STEADY = 0.7  # the value of silence


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    own = torch.tensor([20, 36, 8])
    after, silent = (torch.arange(40) >= end[:, None] for end in (own, own - 4))
    return {
        # Clips end with a little silence of their own, as front ends make them.
        "input_features": torch.randn(3, 8, 40, generator=generator).masked_fill(silent[:, None], STEADY),
        "attention_mask": (~after).long(),
        "decoder_input_ids": torch.randint(1, 50, (3, 6), generator=generator),
    }


def test_without_a_mask_it_is_a_plain_whisper() -> None:
    plain, model = whisper(), take_any_length(whisper())
    inputs = {"input_features": torch.randn(2, 8, 60), "decoder_input_ids": torch.randint(1, 50, (2, 6))}
    torch.testing.assert_close(model(**inputs).logits, plain(**inputs).logits)
    assert list(model.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_clip_does_not_depend_on_its_neighbors(batch: dict[str, torch.Tensor], attention: str) -> None:
    model = take_any_length(whisper(attn_implementation=attention))
    together = model(**batch).logits
    for row, frames in enumerate(batch["attention_mask"].sum(-1).tolist()):
        alone = {name: tensor[row : row + 1] for name, tensor in batch.items()}
        alone["input_features"] = alone["input_features"][..., : frames + 4]
        alone["attention_mask"] = alone["attention_mask"][:, : frames + 4]
        torch.testing.assert_close(model(**alone).logits[0], together[row], rtol=1e-4, atol=1e-5)


def test_a_position_for_each_of_silence_gives_plain_use(batch: dict[str, torch.Tensor]) -> None:
    plain = whisper(max_source_positions=200)
    padded = torch.nn.functional.pad(batch["input_features"], (0, 360), value=STEADY)
    expected = plain(input_features=padded, decoder_input_ids=batch["decoder_input_ids"]).logits

    def error(silent_positions: int) -> float:
        model = take_any_length(whisper(max_source_positions=200), silent_positions)
        return float((model(**batch).logits - expected).norm() / expected.norm())

    assert error(0) > 0.1
    assert error(5000) < 0.01  # the last position of plain use sees the end of the input, not silence


def test_beams_of_a_clip_see_its_positions(batch: dict[str, torch.Tensor]) -> None:
    model = take_any_length(whisper())
    encoded = model.get_encoder()(batch["input_features"], attention_mask=batch["attention_mask"])
    once = model(encoder_outputs=encoded, decoder_input_ids=batch["decoder_input_ids"]).logits
    encoded.last_hidden_state = encoded.last_hidden_state.repeat_interleave(2, 0)
    ids = batch["decoder_input_ids"].repeat_interleave(2, 0)
    beams = model(encoder_outputs=encoded, decoder_input_ids=ids).logits
    torch.testing.assert_close(beams[::2], once)
    torch.testing.assert_close(beams[1::2], once)


def test_a_plain_whisper_is_saved(tmp_path: Path) -> None:
    from transformers import WhisperForConditionalGeneration

    model = take_any_length(whisper())
    model.save_pretrained(tmp_path)
    loaded = WhisperForConditionalGeneration.from_pretrained(tmp_path)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], weight)
