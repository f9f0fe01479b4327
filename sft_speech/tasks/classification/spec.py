"""The description of speech classification."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft_speech.options.spec import Card, Metric, TaskSpec, Verb
from sft_speech.tasks.classification.config import FinetuneClassificationConfig
from sft_speech.text.counted import counted

if TYPE_CHECKING:
    from sft_speech.tasks.classification.task import Classification

CARD_CLASSES = 60


def build(config: FinetuneClassificationConfig) -> Classification:
    """Return the task of a run."""
    from sft_speech.tasks.classification.task import Classification

    return Classification(config)


def card_sections(folder: Path) -> list[str]:
    """Return the classes of a run, and the confusion of every split, as Markdown."""
    from sft_speech.hub import markdown

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    lines = []
    if config.get("model_type") == "sft-speech-convnet":
        lines.append("Before `pipeline`, `import sft_speech.tasks.classification.convnet` registers this model.\n")
    names = [markdown.text(str(name)) for name in config.get("id2label", {}).values()]
    more = f", and {len(names) - CARD_CLASSES} more" if len(names) > CARD_CLASSES else ""
    lines.append(f"{counted(len(names), 'label')}: {', '.join(names[:CARD_CLASSES])}{more}.\n")
    for file in sorted((folder / "evaluation").glob("*.json")):
        figures = json.loads(file.read_text(encoding="utf-8"))
        rows = figures.get("classes", [])[:CARD_CLASSES]
        if not rows or "source" in figures:  # evaluated after the run, perhaps on data that must not be disclosed
            continue
        lines.append(f"### {markdown.text(file.stem)}\n")
        if file.with_suffix(".png").is_file():
            lines.append(f"![confusion of classes](evaluation/{file.stem}.png)\n")
        table = [[row["label"], f"{row['utterances']}", *(rate(row, name) for name in RATES)] for row in rows]
        lines.append(markdown.table(["label", "utterances", "precision %", "recall %", "F1 %"], table) + "\n")
    return lines


RATES = ("precision", "recall", "f1")


def rate(row: dict[str, Any], name: str) -> str:
    """Return a rate in percent with its interval."""
    interval = row.get(f"{name}_interval")
    shown = f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else ""
    return f"{100 * row[name]:.1f}{shown}"


SPEC = TaskSpec(
    name="classification",
    summary="speech classification",
    config=FinetuneClassificationConfig,
    build=build,
    metrics=(
        Metric("accuracy", "accuracy %", best="max", scale=100, indexed=True, curve=True),
        Metric("macro_f1", "macro F1 %", best="max", scale=100, curve=True),
        Metric("loss", "loss"),
    ),
    architectures=("ForSequenceClassification", "ForAudioClassification"),
    card=Card(
        tag="audio-classification",
        about=(),
        usage="""from transformers import pipeline

print(pipeline("audio-classification", NAME)("speech.wav"))""",
        loss_unit="nats per clip",
        sections=card_sections,
    ),
    verbs={"classify": Verb("sft_speech.tasks.classification.classify", "classify recordings")},
    evaluate="sft_speech.tasks.classification.evaluate",
    own_models=frozenset({"convnet"}),
)
