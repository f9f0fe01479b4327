"""The model card of a run, and its upload."""

from __future__ import annotations

import importlib.metadata
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sft_speech.errors import UserError

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from sft_speech.corpora.report import CorpusReport

logger = logging.getLogger(__name__)

STACK = ("sft_speech", "transformers", "torch", "datasets", "accelerate")
# What a repository on the Hub is for; checkpoints and trackers' files stay at home.
UPLOADED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.md", "*.yaml", "evaluation/*"]


@dataclass(frozen=True)
class Kind:
    """What a card says of a kind of model.

    Args:
        task: in words.
        tag: the Hub's name of the task.
        about: further tags.
        script: that trains it.
        usage: lines of Python; ``{name}`` is the model.
        metrics: name in the figures of each split, its heading, and what it is multiplied by.
        indexed: the metrics that the Hub shows.
        loss: what the training loss is counted in.
    """

    task: str
    tag: str
    about: str
    script: str
    usage: str
    metrics: tuple[tuple[str, str, float], ...]
    indexed: tuple[str, ...]
    loss: str


RECOGNITION = Kind(
    task="speech recognition (CTC)",
    tag="automatic-speech-recognition",
    about="ctc",
    script="finetune_asr.py",
    usage="""from transformers import pipeline

print(pipeline("automatic-speech-recognition", "{name}")("speech.flac")["text"])""",
    metrics=(("wer", "WER %", 100.0), ("cer", "CER %", 100.0)),
    indexed=("wer", "cer"),
    loss="nats per label",
)
SYNTHESIS = Kind(
    task="speech synthesis",
    tag="text-to-speech",
    about="speecht5",
    script="finetune_tts.py",
    usage="""from sft_speech import Synthesizer

Synthesizer("{name}", vocoder="microsoft/speecht5_hifigan")("How do you do?").save("hello.wav")""",
    metrics=(("loss", "loss", 1.0), ("mel_loss", "mel L1 (log10)", 1.0)),
    indexed=(),
    loss="per mel frame",
)

CONVERSION = Kind(
    task="voice conversion",
    tag="audio-to-audio",
    about="speecht5",
    script="finetune_vc.py",
    usage="""from sft_speech import Converter

Converter("{name}", vocoder="microsoft/speecht5_hifigan")("speech.flac").save("converted.wav")""",
    metrics=SYNTHESIS.metrics,
    indexed=(),
    loss="per mel frame",
)


def write_model_card(
    output: Path, config: Any, figures: Mapping[str, Any], report: CorpusReport, kind: Kind = RECOGNITION
) -> None:
    """Writes README.md: data, figures (as a model-index too), settings, versions.

    Args:
        config: of the run.
        figures: what goes into all_results.json; those of ``kind.indexed`` become the model-index.
    """
    from huggingface_hub import ModelCard, ModelCardData

    splits = {split or role: role for role, (_, split) in config.corpora.items() if role != "train"}
    name = output.resolve().name
    data = ModelCardData(
        model_name=name,
        base_model=config.model if not Path(config.model).exists() else None,
        library_name="transformers",
        pipeline_tag=kind.tag,
        tags=["speech", kind.about, "sft_speech"],
        eval_results=model_index(config.eval_source or config.source, splits, figures, kind) or None,
    )
    found = {
        split: [scale * figures.get(f"{role}_{metric}", math.nan) for metric, _, scale in kind.metrics]
        for split, role in splits.items()
    }
    rows = "\n".join(f"| {split} | " + " | ".join(f"{x:.2f}" for x in row) + " |" for split, row in found.items())
    heads = " | ".join(heading for _, heading, _ in kind.metrics)
    changed = {key: value for key, value in vars(config).items() if value != getattr(type(config), key, None)}
    versions = ", ".join(f"{package} {version(package)}" for package in STACK)
    body = f"""# {name}

{config.model} fine-tuned for {kind.task} on {config.source} ({config.train_split or "all"}), which heard
{figures.get("audio_hours", 0):.1f} h of audio in training.

| split | {heads} |
| --- |{" --- |" * len(kind.metrics)}
{rows or "| none |" + " |" * len(kind.metrics)}

```python
{kind.usage.format(name=name)}
```

## Data

```
{report.table()}
```

## Training

`accelerate launch scripts/{kind.script} --config run.yaml` with the settings that differ from the defaults:

```yaml
{yaml.safe_dump(changed, sort_keys=False, allow_unicode=True).strip()}
```

Train loss {figures.get("train_loss", float("nan")):.4f} {kind.loss}. {versions}.
"""
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}").save(output / "README.md")


def model_index(source: str, splits: Mapping[str, str], figures: Mapping[str, Any], kind: Kind) -> list[EvalResult]:
    """The figures of each split, as the Hub reads them."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type=kind.tag,
            dataset_type=source,
            dataset_name=Path(source).name,
            dataset_split=split,
            metric_type=metric,
            metric_value=round(100 * figures[f"{role}_{metric}"], 2),
        )
        for split, role in splits.items()
        for metric in kind.indexed
    ]


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return "(source)"


def push(output: Path, repository: str | None, *, private: bool = False) -> str:
    """Uploads a finished run.

    Returns:
        The address of the repository.

    Raises:
        UserError: not logged in, no right, no connection.
    """
    from httpx2 import HTTPError  # the Hub's library lets through what its own says where there is no connection
    from huggingface_hub import HfApi

    name = repository or output.resolve().name
    try:
        api = HfApi()
        url = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=url.repo_id, folder_path=output, allow_patterns=UPLOADED, ignore_patterns=["checkpoint-*/*"]
        )
    except (HTTPError, OSError) as error:
        do = (
            f"check `hf auth login` and the connection, then `hf upload {name} {output}`; the model is safe in {output}"
        )
        raise UserError(f"push to {name}", f"the Hub did not take it ({str(error).splitlines()[0]})", do) from error
    logger.info("pushed to %s", url)
    return str(url)
