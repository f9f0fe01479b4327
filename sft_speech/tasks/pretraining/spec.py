"""The description of pre-training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sft_speech.options.spec import Card, Metric, TaskSpec
from sft_speech.tasks.pretraining.config import PretrainConfig

if TYPE_CHECKING:
    from sft_speech.tasks.pretraining.task import PreTraining


def build(config: PretrainConfig) -> PreTraining:
    """Return the task of a run."""
    from sft_speech.tasks.pretraining.task import PreTraining

    return PreTraining(config)


SPEC = TaskSpec(
    name="pretraining",
    summary="later fine-tuning",
    config=PretrainConfig,
    build=build,
    metrics=(
        Metric("loss", "loss"),
        Metric("contrastive_loss", "contrastive loss"),
        Metric("accuracy", "accuracy %", best="max", scale=100, curve=True),
        Metric("code_perplexity", "code perplexity", best="max"),
        Metric("prob_perplexity", "perplexity of the mean", best="max"),
    ),
    architectures=("Wav2Vec2ForPreTraining", "Wav2Vec2ConformerForPreTraining"),
    card=Card(
        tag="feature-extraction",
        about=("pretraining",),
        usage="""from transformers import AutoModelForCTC, AutoModelForPreTraining

model = AutoModelForPreTraining.from_pretrained(NAME)
recognizer = AutoModelForCTC.from_pretrained(NAME, vocab_size=32)  # with a new head, to fine-tune""",
        loss_unit="nats per masked frame",
        pictures={
            "codebook.png": (
                "perplexity of the codebook",
                {"code_perplexity": "codes used", "prob_perplexity": "mean distribution"},
            )
        },
    ),
    evaluate="sft_speech.tasks.pretraining.evaluate",
    own_verb="pretrain",
    act=("pre-train", "pre-trained"),
)
