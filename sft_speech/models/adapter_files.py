"""Adapters in the format of peft: read from a directory or the Hub, and written."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils.hub import cached_file

from sft_speech.errors import UserError, first_line
from sft_speech.files import write_whole
from sft_speech.models.load import unreadable

logger = logging.getLogger(__name__)

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."  # peft's, of all names in the file
LORA = ".lora_"  # in the names of the weights of updates, and of nothing else
# Settings that determine the updates, and those that say nothing about them once they are trained.
KEPT = ("r", "lora_alpha", "lora_dropout", "use_dora", "use_rslora", "lora_bias", "rank_pattern", "alpha_pattern")
WITHOUT_EFFECT = frozenset(
    "peft_type task_type auto_mapping base_model_name_or_path revision inference_mode peft_version target_modules "
    "exclude_modules modules_to_save layers_to_transform layers_pattern init_lora_weights fan_in_fan_out bias "
    "megatron_core runtime_config ensure_weight_tying qalora_group_size".split()
)
# The others begin with another base: they move a part of its weights into the updates.
PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")


def plain_name(name: str) -> str:
    """Return the name that a weight has without LoRA."""
    return name.replace(".base_layer.", ".")


@dataclass
class SavedAdapter:
    """An adapter that was read.

    Attributes:
        name: its directory, or its id on the Hub.
        config: the content of ``adapter_config.json``.
        weights: its tensors by the names of the model that it was trained on, ``NAME.lora_A.weight``.
        model_config: configuration of the model that it was trained on, if it comes with it.
    """

    name: str
    config: dict[str, Any]
    weights: dict[str, Tensor]
    model_config: PreTrainedConfig | None = None

    @property
    def rank(self) -> int:
        return int(self.config["r"])

    @property
    def base(self) -> str | None:
        """Directory or id of the model that it was trained on."""
        base = self.config.get("base_model_name_or_path")
        return str(base) if base else None

    @cached_property
    def layers(self) -> list[str]:
        """Names of the layers with updates."""
        return sorted({name.partition(LORA)[0] for name in self.weights if LORA in name})

    def lora_config(self, dropout: float = 0.0) -> Any:
        """Return the configuration that makes peft build its layers, untrained."""
        from peft import LoraConfig

        kept = {name: self.config[name] for name in KEPT if self.config.get(name) is not None}
        kept |= {"lora_dropout": dropout} if dropout else {}
        return LoraConfig(**kept, target_modules=self.layers)

    def fits(self, model: nn.Module, name: str) -> bool:
        """Return whether a model has a layer of this name and, if it is linear, of the size of its update."""
        try:
            layer: Any = model.get_submodule(name)
        except AttributeError:
            return False
        inner, outer = (self.weights.get(f"{name}.lora_{part}.weight") for part in "AB")
        if not isinstance(layer, nn.Linear) or inner is None or outer is None:
            return True
        return (layer.in_features, layer.out_features) == (inner.shape[-1], outer.shape[0])

    def check_base(self, model: PreTrainedModel) -> None:
        """Raise UserError if the names or sizes of its weights are not those of a model."""
        missing = next((name for name in self.layers if not self.fits(model, name)), None)
        if missing is not None:
            raise self.of_another_base(f"the model has no layer {missing} of that size")
        own = model.state_dict()
        for name, tensor in self.weights.items():
            if LORA not in name and name in own and own[name].shape != tensor.shape:
                sizes = ["x".join(map(str, one.shape)) for one in (tensor, own[name])]
                raise self.of_another_base(f"its {name} is {sizes[0]}, that of the model {sizes[1]}")

    def of_another_base(self, why: str) -> UserError:
        do = f"use it with its base, {self.base}" if self.base else "use it with the model that it was trained on"
        return UserError(f"adapter {self.name}", f"it belongs to another base ({why})", do)


def read_adapter(name: str, *, allow_pickle: bool = False) -> SavedAdapter:
    """Read an adapter of LoRA.

    Args:
        name: a directory, or an id on the Hub.
        allow_pickle: see :func:`~sft_speech.models.load.how_to_read_weights`.

    Raises:
        UserError: there is none, it is of another kind, its weights are missing or pickled, or a file is damaged.
    """
    given, file = f"adapter {name}", find(name, CONFIG)
    if file is None:
        inside = Path(name, "adapter")
        do = f"give {inside}" if (inside / CONFIG).is_file() else "give the directory that peft's save_pretrained wrote"
        raise UserError(given, f"it holds no {CONFIG}", do)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it is no table")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(given, f"its {CONFIG} cannot be read ({first_line(error)})", "download it again") from error
    check_kind(given, config)
    try:
        weights = {key.removeprefix(PREFIX): one for key, one in read_weights(name, allow_pickle).items()}
    except UserError:
        raise
    except Exception as error:  # safetensors and torch raise errors of their own
        raise unreadable(given, error, "download it again") from error
    if not any(LORA in key for key in weights):
        raise UserError(given, "it holds no LoRA weights", "give the directory that peft's save_pretrained wrote")
    saved = SavedAdapter(name, config, weights, model_config_of(name))
    try:
        saved.lora_config()
        if not saved.rank > 0:
            raise ValueError(f"rank {saved.rank}")
    except Exception as error:  # peft checks some values, and others fail where they are used
        why = f"its {CONFIG} has values that cannot be used ({first_line(error)})"
        raise UserError(given, why, "download it again") from error
    return saved


def check_kind(given: str, config: dict[str, Any]) -> None:
    """Raise UserError if an adapter is not LoRA, DoRA or rsLoRA."""
    kind = config.get("peft_type")
    if kind != "LORA":
        raise UserError(given, f"it is {kind}, not LoRA", "give an adapter of LoRA, DoRA or rsLoRA")
    start = config.get("init_lora_weights")
    if isinstance(start, list | dict) or start not in PLAIN_STARTS:
        do = "convert it with peft: save_pretrained(DIR, path_initial_model_for_weight_conversion=...)"
        raise UserError(given, f"its start ({start}) changed the weights of its base", do)
    others = [key for key, value in config.items() if value and key not in {*WITHOUT_EFFECT, *KEPT}]
    if others:
        why = f"it uses {others[0]}, which is not supported"
        raise UserError(given, why, "merge it with peft, and start from the merged model")


def read_weights(name: str, allow_pickle: bool) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    file = find(name, WEIGHTS)
    if file is not None:
        return load_file(file)
    given, pickled = f"adapter {name}", find(name, PICKLE)
    if pickled is None:
        raise UserError(given, f"it holds no {WEIGHTS}", "give the directory that peft's save_pretrained wrote")
    if not (allow_pickle and Path(name).is_dir()):
        why = f"its weights are pickled ({PICKLE}), and a pickle is a program"
        do = "ask its author for safetensors; if you trust it, download it and add --allow_pickle"
        raise UserError(given, why, do)
    weights: dict[str, Tensor] = torch.load(pickled, map_location="cpu", weights_only=True)
    return weights


def find(name: str, file: str) -> Path | None:
    """Return a file of a directory or of a repository on the Hub; None if it has no such file.

    Raises:
        UserError: there is no such directory or repository.
    """
    path = Path(name)
    if not path.is_dir() and (name.startswith(("/", ".", "~")) or name.count("/") > 1 or path.exists()):
        raise UserError(f"adapter {name}", "there is no such directory", "give a directory, or an id on the Hub")
    try:
        found = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
    except OSError as error:
        raise unreadable(f"adapter {name}", error, "check the name, or the connection to the Hub") from error
    return Path(found) if found else None


def model_config_of(name: str) -> PreTrainedConfig | None:
    """Return the configuration of a model that an adapter comes with."""
    from transformers import AutoConfig

    file = find(name, "config.json")
    if file is None:
        return None
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(file)
        return config
    except (OSError, ValueError, KeyError) as error:
        raise unreadable(f"adapter {name}", error, "download it again") from error


@dataclass
class Adapter:
    """The adapter of a model, as it is saved.

    Attributes:
        lora: its configuration of peft.
        weights: its tensors by peft's names.
        whole: names of the modules that were trained fully.
        model_class: name of the class of the model.
        model_config: configuration of the model.
    """

    lora: Any
    weights: dict[str, Tensor]
    whole: list[str]
    model_class: str
    model_config: PreTrainedConfig

    @classmethod
    def of(cls, model: PreTrainedModel, trained: Collection[str]) -> Adapter:
        """Take the adapter of a model.

        Args:
            trained: names of the trained weights, shared ones under each of their names.
        """
        from peft import get_peft_model_state_dict

        state, config = model.state_dict(), model.peft_config
        weights = get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False)
        whole = set()
        for name in trained:
            if LORA in name:
                continue
            parent = model.get_submodule(name.rpartition(".")[0])
            names = [name]
            if not any(True for _ in parent.children()):
                whole.add(name.rpartition(".")[0])
                names = [f"{name.rpartition('.')[0]}.{one}" for one, _ in parent.named_parameters(recurse=False)]
            weights |= {plain_name(one): state[one] for one in names}
        kept = {f"{PREFIX}{name}": one.detach().to("cpu", copy=True).contiguous() for name, one in weights.items()}
        return cls(config["default"], kept, sorted(whole), type(model).__name__, model.config)

    def scaled(self, share: float) -> Adapter | None:
        """Return the adapter with a share of its updates, as interpolation leaves them; None for a share of DoRA, whose
        updates are not linear in its weights.
        """
        if share == 1:
            return self
        if self.lora.use_dora:
            logger.info("no adapter is written: DoRA has none for an interpolated model")
            return None
        weights = {name: share * one if ".lora_B." in name else one for name, one in self.weights.items()}
        return replace(self, weights=weights)

    def save(self, folder: Path, base: str, revision: str | None = None) -> None:
        """Write it as peft loads it.

        Args:
            base: directory or id of the model that it was trained on.
        """
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        lora = self.lora
        lora.base_model_name_or_path, lora.revision, lora.inference_mode = base, revision, True
        lora.modules_to_save = self.whole or None
        mapping = {"base_model_class": self.model_class, "parent_library": "transformers"}
        lora.save_pretrained(str(folder), auto_mapping_dict=mapping)
        save_file(self.weights, folder / WEIGHTS, metadata={"format": "pt"})
        self.model_config.architectures = [self.model_class]
        self.model_config.save_pretrained(folder)
        write_whole(folder / "README.md", self.readme(base))

    def readme(self, base: str) -> str:
        """Return a card that says how to load it."""
        sizes = ""
        if self.whole:  # the base may have a head or embeddings of another size
            sizes = ", config=AutoConfig.from_pretrained(ADAPTER), ignore_mismatched_sizes=True"
        return f"""---
base_model: {json.dumps(base)}
base_model_relation: adapter
library_name: peft
tags: [speech, lora, sft_speech]
---

# LoRA adapter

Low-rank updates (rank {self.lora.r}, alpha {self.lora.lora_alpha:g}{", DoRA" if self.lora.use_dora else ""}) of {base}\
{f", and its {', '.join(self.whole)}, trained fully" if self.whole else ""}.

```python
from peft import PeftModel
from transformers import AutoConfig, {self.model_class}

ADAPTER = "."  # this directory, or its id on the Hub
model = {self.model_class}.from_pretrained({json.dumps(base)}{sizes})
model = PeftModel.from_pretrained(model, ADAPTER)
```

`sft-speech merge ADAPTER -o DIR` makes a plain model of it and its base.
"""
