"""Parts of the descriptions of synthesis and voice conversion."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path

from sft_speech.hub import markdown
from sft_speech.options.spec import Card, Metric

METRICS = (
    Metric("loss", "loss"),
    Metric("mel_loss", "mel L1 (log10)", curve=True),
    Metric("attention_loss", "guided attention loss", curve=True),
    Metric("speech_mcd", "mel cepstral distortion, dB"),
    Metric("copy_mcd", "copy synthesis, dB"),
    Metric("speech_speaker_similarity", "cosine to the speaker", best="max"),
    Metric("speech_cer", "CER %, by a recognizer", scale=100),
)
SHOWN_VOICES = 20


def voices(folder: Path) -> list[str]:
    """Return the line of the model card that names the voices, which are published with the model."""
    from safetensors import safe_open

    file = folder / "speakers.safetensors"
    if not file.is_file():
        return []
    with safe_open(file, "np") as saved:
        names = sorted(saved.keys())
    shown = ", ".join(map(markdown.text, names[:SHOWN_VOICES])) + (", ..." if len(names) > SHOWN_VOICES else "")
    return [f"Named voices (speakers.safetensors): {shown}.\n"]


def sections(folder: Path) -> list[str]:
    """Return the lines of the model card on voices, and on how the samples of the last evaluation end."""
    file = folder / "samples" / "samples.jsonl"
    if not file.is_file():
        return voices(folder)
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    endings = Counter(line["ending"] for line in lines if line["evaluation"] == lines[-1]["evaluation"])
    shown = "; ".join(f"{count} {ending}" for ending, count in endings.items())
    return [*voices(folder), f"Samples after the last evaluation: {markdown.text(shown)}.\n"]


speech_card = partial(Card, about=("speecht5",), loss_unit="per mel frame", sections=sections)
