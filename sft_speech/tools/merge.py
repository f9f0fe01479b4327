"""Add a LoRA adapter to its base, and write a plain transformers directory.

The adapter may come from a run of sft_speech (its folder ``adapter``), or be any of peft's for a speech model: LoRA,
DoRA or rsLoRA. The result can be fine-tuned, evaluated and loaded like any checkpoint, or start a new adapter.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft_speech.errors import UserError
from sft_speech.files import honour_umask, new_folder
from sft_speech.options.parser import OUTPUT
from sft_speech.options.settings import add_pickle_argument

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from sft_speech.models.adapter_files import SavedAdapter

# What belongs to a model beside its weights and their configuration.
BESIDE = (
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer*.json",
    "vocab*.json",
    "vocab.txt",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "normalizer.json",
    "sentencepiece.bpe.model",
    "spm_char.model",
    "speakers.safetensors",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``sft-speech merge``."""
    parser.add_argument("adapter", metavar="ADAPTER", help="directory of an adapter, or its id on the Hub")
    parser.add_argument(*OUTPUT, dest="output", metavar="DIR", required=True, help="directory to make")
    parser.add_argument("--base", metavar="MODEL", help="model that it was trained on [the one that it names]")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of the base [the one that it names]")
    add_pickle_argument(parser)


def main(args: argparse.Namespace) -> None:
    """Merge the adapter; print what was written."""
    print(merge_adapter(args.adapter, Path(args.output), args.base, args.revision, args.allow_pickle))


def merge_adapter(
    adapter: str, output: Path, base: str | None = None, revision: str | None = None, allow_pickle: bool = False
) -> str:
    """Write the plain model of an adapter and its base; all of it, or nothing.

    Args:
        base: directory or id of the base; None: the one that the adapter names.
        revision: branch, tag or commit of the base.

    Returns:
        A line that describes the model.

    Raises:
        UserError: ``output`` exists; the adapter or the base cannot be read, or they do not belong together.
    """
    with new_folder(output) as part:
        from sft_speech.models.adapter_files import read_adapter
        from sft_speech.models.load import load_pretrained, quiet, read_config
        from sft_speech.models.lora import load_adapter, merge

        saved = read_adapter(adapter, allow_pickle=allow_pickle)
        base = base or saved.base
        if base is None:
            raise UserError(f"adapter {adapter}", "it does not name its base", "add --base MODEL")
        revision = revision or saved.config.get("revision")
        given = read_config(base, revision=revision)
        config = saved.model_config or given
        if given.model_type != config.model_type:
            raise saved.of_another_base(f"{base} is a {given.model_type} model, and it is of a {config.model_type} one")
        model, new = load_pretrained(
            model_class(saved, config),
            base,
            config=config,
            revision=revision,
            allow_pickle=allow_pickle,
            new_head=saved.model_config is not None,
        )
        missing = set(new) - saved.weights.keys() - own_weights(model)
        if missing:
            raise saved.of_another_base(f"{base} has no {min(missing)}, nor has the adapter")
        merge(load_adapter(model, saved))
        with quiet():
            model.save_pretrained(part)
        for file in files_beside(adapter, base, revision):
            shutil.copyfile(file, part / file.name)
        honour_umask(part)
    parameters = sum(one.numel() for one in model.parameters())
    return f"{output}: {type(model).__name__}, {parameters:,} parameters: {base} with {adapter} of rank {saved.rank}"


def model_class(saved: SavedAdapter, config: PreTrainedConfig) -> Any:
    """Return the class of the model that an adapter was trained on.

    Raises:
        UserError: neither the adapter nor its base names a model of transformers.
    """
    import transformers

    mapping = saved.config.get("auto_mapping")
    named = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    for name in (named, *(config.architectures or [])):
        found = getattr(transformers, str(name), None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    why = f"its base is of an unknown class, {named or config.architectures}"
    raise UserError(f"adapter {saved.name}", why, "give a base of transformers with --base MODEL")


def own_weights(model: Any) -> set[str]:
    """Return the names of weights that need no file: tied ones, and the sinusoids of a Whisper, of any length."""
    import torch

    with torch.device("meta"):
        made = type(model)(model.config)
    fixed = {name for name, one in made.named_parameters() if not one.requires_grad}
    return fixed | set(getattr(model, "all_tied_weights_keys", {}))


def files_beside(adapter: str, base: str, revision: str | None) -> list[Path]:
    """Return the files of the processor: the adapter's, if it has them, or those of its base."""
    from huggingface_hub import snapshot_download

    from sft_speech.models.adapter_files import find
    from sft_speech.models.load import unreadable

    own = find(adapter, "preprocessor_config.json")
    name, revision = (adapter, None) if own is not None else (base, revision)
    folder = Path(name)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(BESIDE)))
        except Exception as error:  # the Hub's library and httpx have their own errors
            raise unreadable(name, error, "check the connection to the Hub") from error
    return sorted({file for pattern in BESIDE for file in folder.glob(pattern) if file.is_file()})
