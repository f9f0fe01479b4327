from __future__ import annotations

import pytest

from sft_speech.errors import UserError
from sft_speech.options.lora import uses_lora
from sft_speech.tasks.asr.config import FinetuneAsrConfig
from sft_speech.tasks.classification.config import FinetuneClassificationConfig

GIVEN = {"model": "me/base", "source": "corpus", "output_dir": "out"}


def test_it_is_off_by_default():
    assert not uses_lora(FinetuneAsrConfig(**GIVEN))
    assert uses_lora(FinetuneAsrConfig(**GIVEN, lora_rank=8, lora_targets="q_proj, v_proj"))
    assert uses_lora(FinetuneAsrConfig(**GIVEN, adapter="me/adapter"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"use_dora": True}, "use_dora without lora_rank: LoRA is off, so it has no effect"),
        ({"lora_dropout": 0.1}, "lora_dropout without lora_rank"),
        ({"adapter": "me/a", "lora_alpha": 4}, "lora_alpha and adapter: an adapter that is continued keeps its own"),
        ({"lora_rank": 8, "from_scratch": True}, "from_scratch and lora_rank: all weights but the updates would stay"),
        ({"lora_rank": 8, "lora_alpha": 0}, "lora_alpha 0: the updates would have no effect"),
        ({"lora_rank": 8, "lora_targets": ["q_(proj"]}, "lora_targets q_(proj: it is not a regular expression"),
        ({"lora_rank": -1}, "lora_rank: -1: it is out of range"),
    ],
)
def test_options_that_contradict_each_other(keys, message):
    with pytest.raises(UserError) as error:
        FinetuneAsrConfig(**GIVEN, **keys)
    assert message in str(error.value)


def test_a_frozen_encoder_has_no_updates():
    with pytest.raises(UserError, match="freeze_encoder and lora_rank"):
        FinetuneClassificationConfig(**GIVEN, lora_rank=8, freeze_encoder=True)
