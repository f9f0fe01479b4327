"""Parts of a model by name: what a run trains and what it freezes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from sft_speech.errors import UserError
from sft_speech.models.adapt import head_names
from sft_speech.models.exact.norms import use_running_statistics
from sft_speech.models.families import Family, family_of

ADAPTER = ".adapter."  # convolutions between the encoder and the head, usually new
ATTENTION = re.compile(r"^(\w+_)?(attn|attention)$")
FEED_FORWARD = re.compile(r"^(feed_forward\d?|ffn\d?|mlp|fc\d|intermediate|output)$")
KINDS = ("norms", "biases", "attention", "feed_forward")
LAYERS = re.compile(r"(encoder|decoder)\.layers(?:\.(?:(\d+)(-)?(\d+)?|top(\d+)))?")
EXCLUDED = "not "
MOST_NAMED = 4  # modules in an error


class Parts:
    """The parts of a model, as sets of the names of their weights.

    A weight that two modules share, such as the embeddings and the head of a Whisper, has one name, as in
    ``named_parameters()``.

    Args:
        model: a model of transformers, without LoRA.

    Attributes:
        weights: by name.
        named: weights by the name of the part.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.family, self.kind = family_of(model.config), str(model.config.model_type)
        body = self.family.body_name(model)
        self.prefix = f"{body}." if body else ""
        self.weights = dict(model.named_parameters())
        own = {id(one): name for name, one in self.weights.items()}
        # every name that a shared weight has
        self.aliases = [(name, own[id(one)]) for name, one in model.named_parameters(remove_duplicate=False)]
        self.head = head_names(model)
        named = {"all": {*self.weights}, "head": self.head, "body": self.weights.keys() - self.head}
        inner = {name for name in self.weights if name.startswith(self.prefix)}  # with a head that is the embeddings
        named["decoder"] = {name for name in inner if self.family.stack_of(name) == "decoder"}
        named["encoder"] = named["body"] - named["decoder"]
        for stack in ("encoder", "decoder"):
            layers = {name for name in named["body"] if (one := self.family.layer_of(name)) and one.stack == stack}
            named[f"{stack}.layers"] = layers
        inside = named["encoder.layers"] | named["decoder.layers"]
        named["feature_encoder"] = self.below(self.family.feature_encoder or "/")
        named["projection"] = self.below("*feature_projection")
        named["embeddings"] = ({*owned(model, nn.Embedding)} | self.below("*embeddings")) - inside
        named["norms"] = {*owned(model, "Norm")}
        named["biases"] = {name for name in self.weights if name.rsplit(".", 1)[-1].startswith("bias")}
        for kind, pattern in (("attention", ATTENTION), ("feed_forward", FEED_FORWARD)):
            named[kind] = {name for name in inside if any(map(pattern.match, name.split(".")))} - named["norms"]
        named["feed_forward"] -= named["attention"]  # SEW-D: attention.output
        self.named = {name: found for name, found in named.items() if found}

    def below(self, pattern: str) -> set[str]:
        """Return the weights by a module's or their own name, with or without that of the body; ``*`` is any text."""
        patterns = [prefix + pattern + end for prefix in {"", self.prefix} for end in ("", ".*")]
        return {own for name, own in self.aliases if any(fnmatchcase(name, one) for one in patterns)}

    def layers(self, stack: str) -> list[int]:
        """Return the numbers of the layers of the encoder or the decoder."""
        found = {self.family.layer_of(name) for name in self.named.get(f"{stack}.layers", ())}
        return sorted({layer.number for layer in found if layer is not None})

    def find(self, part: str) -> set[str]:
        """Return the weights of a part.

        Raises:
            UserError: this model has no such part.
        """
        if part in self.named:
            return self.named[part]
        if match := LAYERS.fullmatch(part):
            return self.in_layers(part, match[1], *match.groups()[1:])
        if found := self.below(part):
            return found
        front, _, kind = part.rpartition(".")
        if front and kind in KINDS and (found := self.find(front) & self.named.get(kind, set())):
            return found
        modules = {name.removeprefix(self.prefix).rsplit(".", 1)[0] for name in self.weights}
        near = difflib.get_close_matches(part, [*self.named, *modules], 1, 0.5)
        has = ", ".join(f"{name} {self.size(found):,}" for name, found in self.named.items())
        do = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"train {part}", f"this {self.kind} model has no such part", f"{do}it has {has} weights")

    def in_layers(
        self, part: str, stack: str, first: str | None, dash: str | None, last: str | None, top: str | None
    ) -> set[str]:
        """Return the weights of a range of layers: ``8``, ``8-`` (to the top), ``0-3`` or ``top4``."""
        numbers = self.layers(stack)
        if not numbers:
            raise UserError(f"train {part}", f"this {self.kind} model has no {stack} layers", "choose another part")
        if top is not None:
            wanted = set(numbers[-int(top) :] if 0 < int(top) <= len(numbers) else ())
        else:
            low = int(first or 0)
            high = int(last) if last else numbers[-1] if dash else low
            wanted = set(range(low, high + 1)) if low <= high <= numbers[-1] else set()
        if not wanted:
            why = f"this {self.kind} model has {len(numbers)} {stack} layers, 0 to {numbers[-1]}"
            raise UserError(f"train {part}", why, f"write {stack}.layers.{numbers[-1]}- for the last one")
        found = {name: self.family.layer_of(name) for name in self.named[f"{stack}.layers"]}
        return {name for name, layer in found.items() if layer and layer.number in wanted}

    def chosen(self, parts: Iterable[str]) -> set[str]:
        """Return the weights of a list of parts; those after ``not`` are left out, and it alone means all others.

        Raises:
            UserError: this model has no such part.
        """
        taken = [self.find(part) for part in parts if not part.startswith(EXCLUDED)] or [self.named["all"]]
        left = [self.find(part.removeprefix(EXCLUDED).strip()) for part in parts if part.startswith(EXCLUDED)]
        return set().union(*taken).difference(*left)

    def trainable(self, parts: Collection[str]) -> set[str]:
        """Return :meth:`chosen` weights without those that are frozen already.

        Raises:
            UserError: this model has no such part, or nothing of it can be trained.
        """
        for part in parts:
            if part.startswith(EXCLUDED) or any(self.weights[name].requires_grad for name in self.find(part)):
                continue
            convolutions = self.find(part) <= self.named.get("feature_encoder", set())
            why = "freeze_feature_encoder freezes it" if convolutions else "it is fixed in this model, or frozen"
            do = "set freeze_feature_encoder: false" if convolutions else f"remove {part} from train"
            raise UserError(f"train {part}", why, do)
        found = {name for name in self.chosen(parts) if self.weights[name].requires_grad}
        if not found:
            raise UserError(listed(parts), "nothing is left to train", "remove some of the parts after `not`")
        return found

    def check_new(self, parts: Collection[str], chosen: Collection[str], new_weights: Collection[str]) -> None:
        """Check that all weights that are random at the start are trained; those of one dimension may stay frozen.

        Args:
            parts: the list of parts.
            chosen: the weights that it means.

        Raises:
            UserError: new weights would stay random.
        """
        own = dict(self.aliases)
        new = {own[name] for name in new_weights if name in own}
        left = {name for name in new - {*chosen} if self.weights[name].ndim > 1}
        if not left:
            return
        head = {name for name in self.head if self.weights[name].ndim > 1}
        whole = bool(head) and head <= left
        rest = sorted(left - head if whole else left)
        modules = dict.fromkeys(name.removeprefix(self.prefix).rpartition(".")[0] or name for name in rest)
        names = [*(["head"] if whole else []), *modules]
        what = "the head" if names == ["head"] else names[0]
        what += f" and {len(names) - 1} more are" if len(names) > 1 else " is"
        do = f"add {', '.join(names)}" if len(names) <= MOST_NAMED else "leave train out"
        raise UserError(listed(parts), f"{what} new, and would stay random", do)

    def size(self, names: Collection[str]) -> int:
        """Return the number of values of weights."""
        return sum(self.weights[name].numel() for name in names)


def listed(parts: Iterable[str]) -> str:
    """Return the option with its value, for errors."""
    return f"train [{', '.join(parts)}]"


def owned(model: nn.Module, kind: type[nn.Module] | str) -> Iterator[str]:
    """Return the names of the weights that modules of a class hold themselves; or of one with this in its name."""
    own = {id(one): name for name, one in model.named_parameters()}
    for module in model.modules():
        if kind in type(module).__name__ if isinstance(kind, str) else isinstance(module, kind):
            yield from (own[id(one)] for one in module.parameters(recurse=False))


def train_only(model: PreTrainedModel, names: Collection[str], new_weights: Collection[str] = ()) -> PreTrainedModel:
    """Train only these parts of a model and freeze the others; what is frozen already stays so.

    Args:
        names: see :meth:`Parts.chosen`; empty: nothing changes.
        new_weights: names of the weights that are random at the start.

    Raises:
        UserError: the model has no such part, nothing of it can be trained, or new weights would stay random.
    """
    if not names:
        return model
    parts = Parts(model)
    chosen = parts.trainable(names)
    parts.check_new(names, chosen, new_weights)
    for name, parameter in parts.weights.items():
        parameter.requires_grad = name in chosen
    encoder: Any = parts.family.feature_encoder_of(model)
    if hasattr(encoder, "_requires_grad") and not any(one.requires_grad for one in encoder.parameters()):
        encoder._requires_grad = False  # it would require a gradient of its input, for gradient checkpointing
    use_running_statistics(model, only_frozen=True)
    return model


def depths_of(names: Iterable[str], head: Collection[str], family: Family) -> dict[str, int]:
    """Return how far each weight is below the output: 0 for the head, 1 for the top layer, and so on.

    The layers of an encoder and of a decoder are each counted from their own top. What is outside the layers of a stack
    (projection, convolutions, embeddings) counts as one more layer below it (Clark et al. 2020, ELECTRA), and an
    adapter between the encoder and the head counts as the head.
    """
    names = list(names)
    found = {name: family.layer_of(name) for name in names}
    count = dict.fromkeys(("encoder", "decoder"), 0)
    for layer in filter(None, found.values()):
        count[layer.stack] = max(count[layer.stack], layer.number + 1)

    def depth(name: str) -> int:
        if name in head or ADAPTER in name:
            return 0
        layer = found[name]
        return count[layer.stack] - layer.number if layer else count[family.stack_of(name)] + 1

    return {name: depth(name) for name in names}
