"""Models sharded over processes (FSDP2): what speech models need beyond accelerate.

Each layer's weights are gathered when it runs and released after it, so every forward and backward pass communicates
between the processes: one that runs the model once more than the others, or skips a layer, waits for them forever.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import Trainer

from sft_speech.errors import UserError

logger = logging.getLogger(__name__)


def prepare(trainer: Trainer) -> None:
    """Prepare the model for sharding, which accelerate does when training starts; without FSDP it stays as it is.

    Raises:
        UserError: FSDP1 is requested, or the model cannot be sharded.
    """
    if not trainer.is_fsdp_enabled:
        if parse_flag_from_env("ACCELERATE_USE_FSDP"):
            logger.warning("accelerate has FSDP for GPUs only: each of these processes holds the whole model")
        return
    model: Any = trainer.model
    plugin = trainer.accelerator.state.fsdp_plugin
    check(model, plugin)
    stacks = stacks_of(model)
    # The models' own lists of layer classes are empty, or name classes that they don't have.
    plugin.transformer_cls_names_to_wrap = sorted({type(layer).__name__ for stack in stacks for layer in stack.layers})
    if plugin.mixed_precision_policy is not None:  # weights are sent in bfloat16, gradients are summed in float32
        plugin.mixed_precision_policy = dataclasses.replace(
            plugin.mixed_precision_policy, reduce_dtype=torch.float32, output_dtype=None
        )
    try:
        model.get_input_embeddings()
    except NotImplementedError:  # accelerate asks for them, and models without a decoder raise an error
        model.get_input_embeddings = lambda: None
    for stack in stacks:
        drop_within_layers(stack)
        # Encoders write into their input. accelerate takes some for a final norm because of their class name
        # (Wav2Vec2EncoderStableLayerNorm) and makes them separate shards, whose input must not be written into.
        stack.register_forward_pre_hook(lambda _, inputs: inputs and (inputs[0].clone(), *inputs[1:]))
    # The warning is about logits, which nothing writes into.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")


def check(model: nn.Module, plugin: Any) -> None:
    """Raise UserError if FSDP2 cannot shard this model."""
    if plugin.fsdp_version != 2:
        raise UserError("fsdp_version 1", "models are sharded by FSDP2 only", "use configs/accelerate/fsdp.yaml")
    for name, weights in model.named_parameters():
        if weights.ndim == 0:  # SpeechT5's positions have such a factor
            why = f"FSDP cannot shard a model with a weight of a single number ({name})"
            raise UserError("distributed_type FSDP", why, "launch with configs/accelerate/multi_gpu.yaml")


def check_resumable(trainer: Trainer, checkpoint: Path | None) -> None:
    """Check that a checkpoint to resume from is sharded if and only if this run shards its model.

    Raises:
        UserError: only one of them is sharded.
    """
    if checkpoint is not None and any(checkpoint.glob("pytorch_model_fsdp*")) != trainer.is_fsdp_enabled:
        one, other = ("without", "with") if trainer.is_fsdp_enabled else ("with", "without")
        why = f"it was written {one} FSDP, and this run is {other} it"
        raise UserError(f"--resume_from_checkpoint {checkpoint}", why, "launch the run as before")


def uploadable(trainer: Trainer, strategy: str) -> str:
    """Return the ``hub_strategy`` that this run can use; warn if it differs from the requested one.

    A checkpoint of a sharded model holds no weights that a user could load; they are gathered at the end of the run.
    """
    if strategy == "end" or not trainer.is_fsdp_enabled:
        return strategy
    logger.warning("hub_strategy %s: checkpoints of FSDP are not uploaded; the model is, at the end", strategy)
    return "end"


def stacks_of(model: nn.Module) -> list[Any]:
    """Return the encoders and decoders: modules whose layers are in `layers`."""
    named, ends = dict(model.named_modules()), ("encoder.layers", "decoder.layers")
    return [named[name.removesuffix(".layers")] for name in named if name.endswith(ends)]


def drop_within_layers(stack: Any) -> None:
    """Move LayerDrop from an encoder or a decoder into its layers.

    A dropped layer still runs, but its output is not used and its weights get a gradient of zero. So every process may
    draw independently. In transformers the stack draws: a process would skip a layer that the others wait for, or, if
    the stack checks for FSDP, no layer would be dropped.
    """
    if hasattr(stack, "layerdrop"):  # encoders with decoders: each has its own
        share, stack.layerdrop = stack.layerdrop, 0.0
    else:
        share = getattr(stack.config, "layerdrop", 0.0)
        stack.config = copy.copy(stack.config)  # the original is saved with the model
        stack.config.layerdrop = 0.0
    if share > 0:
        for layer in stack.layers:
            drop_within(layer, share)


def drop_within(layer: nn.Module, share: float) -> None:
    """Make a layer return its input (batch B, frames T, hidden H) in that share of training steps."""
    run = layer.forward

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        dropped = layer.training and bool(torch.rand([]) < share)
        output = run(hidden_states, *args, **kwargs)
        if not dropped:
            return output
        if isinstance(output, tuple):  # WavLM's layers return the bias of their attention as well
            return (hidden_states + 0.0 * output[0], *output[1:])
        return hidden_states + 0.0 * output

    layer.forward = forward


@contextmanager
def whole(trainer: Trainer) -> Iterator[None]:
    """Let every process hold all weights within the block, so that it can run the model forward on its own."""
    model: Any = trainer.model
    pieces = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for piece in pieces:
        piece.set_reshard_after_forward(False, recurse=False)
        piece.unshard()
    try:
        yield
    finally:
        layers = {layer for stack in stacks_of(model) for layer in stack.layers}
        for piece in pieces:
            if piece in layers:  # accelerate keeps the others gathered until the backward pass
                again = trainer.accelerator.state.fsdp_plugin.reshard_after_forward
                piece.set_reshard_after_forward(again, recurse=False)
            piece.reshard()


def complete_state(trainer: Trainer) -> None:
    """Give weights that were not trained yet their initial optimizer state.

    Otherwise torch writes a state without them and refuses to resume from it.
    """
    if not trainer.is_fsdp_enabled or trainer.optimizer is None:
        return
    states = trainer.optimizer.state
    pattern: dict[str, Tensor] = next((state for state in states.values() if state), {})
    for group in trainer.optimizer.param_groups:
        for weights in group["params"]:
            if not states[weights]:  # moments in the shape of the weights, and a scalar step count
                beginning = {name: torch.zeros_like(weights if old.ndim else old) for name, old in pattern.items()}
                states[weights].update(beginning)


def gathered(trainer: Trainer) -> dict[str, Tensor] | None:
    """Return the weights of a sharded model, on the main process; None without FSDP. All processes must call it.

    Tied weights appear once, as in the file of an unsharded model.
    """
    if not trainer.is_fsdp_enabled:
        return None
    model: Any = trainer.model
    weights: dict[str, Tensor] = trainer.accelerator.get_state_dict(model)
    tied = getattr(model, "all_tied_weights_keys", {})
    return {name: tensor for name, tensor in weights.items() if name not in tied}
