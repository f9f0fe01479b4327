"""Models cut in pieces over the processes (FSDP2): what accelerate leaves to be done for speech models.

Each layer's weights are gathered when it runs and given up behind it, so that every forward and backward pass is a
conversation between the processes: one that runs the model once more than the others, or leaves out a layer, waits for
them forever.
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
    """Makes the model fit to be cut in pieces, which accelerate does when training starts; whole models stay whole.

    Raises:
        UserError: FSDP1 is asked for, or the model can't be cut.
    """
    if not trainer.is_fsdp_enabled:
        if parse_flag_from_env("ACCELERATE_USE_FSDP"):
            logger.warning("accelerate has FSDP for GPUs only: each of these processes holds the whole model")
        return
    model: Any = trainer.model
    plugin = trainer.accelerator.state.fsdp_plugin
    check(model, plugin)
    stacks = stacks_of(model)
    # The models' own lists of these are empty, or name classes that they don't have.
    plugin.transformer_cls_names_to_wrap = sorted({type(layer).__name__ for stack in stacks for layer in stack.layers})
    if plugin.mixed_precision_policy is not None:  # weights travel in bfloat16, gradients are summed in float32
        plugin.mixed_precision_policy = dataclasses.replace(
            plugin.mixed_precision_policy, reduce_dtype=torch.float32, output_dtype=None
        )
    model.get_input_embeddings = lambda: None  # accelerate asks for them, and models that hear raise an error
    for stack in stacks:
        drop_within_layers(stack)
        # Encoders write into their input. Those that accelerate takes for a last norm, by the name of their class
        # (Wav2Vec2EncoderStableLayerNorm), become a piece of their own, the input of which must not be written into.
        stack.register_forward_pre_hook(lambda _, inputs: (inputs[0].clone(), *inputs[1:]))
    # Said of logits; nobody writes into those.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")


def check(model: nn.Module, plugin: Any) -> None:
    """See that FSDP2 can cut this model."""
    if plugin.fsdp_version != 2:
        raise UserError("fsdp_version 1", "models are cut in pieces by FSDP2 only", "take configs/accelerate/fsdp.yaml")
    for name, weights in model.named_parameters():
        if weights.ndim == 0:  # SpeechT5's positions have such a factor
            why = f"FSDP can't cut a model with a weight of a single number ({name})"
            raise UserError("distributed_type FSDP", why, "launch with configs/accelerate/multi_gpu.yaml")


def check_resumable(trainer: Trainer, checkpoint: Path | None) -> None:
    """See that a checkpoint to go on from was written as this run would write it.

    Raises:
        UserError: one of the two cuts its model in pieces, the other one doesn't.
    """
    if checkpoint is not None and any(checkpoint.glob("pytorch_model_fsdp*")) != trainer.is_fsdp_enabled:
        one, other = ("without", "with") if trainer.is_fsdp_enabled else ("with", "without")
        why = f"it was written {one} FSDP, this run is {other} it"
        raise UserError(f"--resume_from_checkpoint {checkpoint}", why, "launch it as it was launched before")


def uploadable(trainer: Trainer, strategy: str) -> str:
    """The ``hub_strategy`` that this run can have; says so where it isn't the one that was asked for.

    A checkpoint of a model in pieces holds no weights that anybody could load: the end of the run puts them together.
    """
    if strategy == "end" or not trainer.is_fsdp_enabled:
        return strategy
    logger.warning("hub_strategy %s: the checkpoints of FSDP are not uploaded, the model is at the end", strategy)
    return "end"


def stacks_of(model: nn.Module) -> list[Any]:
    """The encoder: what has its layers in `layers`."""
    named = dict(model.named_modules())
    return [named[name.removesuffix(".layers")] for name in named if name.endswith("encoder.layers")]


def drop_within_layers(stack: Any) -> None:
    """Moves LayerDrop from an encoder into its layers.

    A layer that is left out runs nevertheless; its output counts for nothing, and its weights get a gradient of zero.
    So every process may draw for itself. In transformers it is the encoder that draws: a process would leave out what
    the others wait for, or, where the encoder knows of FSDP, all layers run and count.
    """
    share = stack.config.layerdrop
    stack.config = copy.copy(stack.config)  # the model's own is saved with it
    stack.config.layerdrop = 0.0
    if share > 0:
        for layer in stack.layers:
            drop_within(layer, share)


def drop_within(layer: nn.Module, share: float) -> None:
    """Has a layer pass on its input (B, T, H) in that share of training steps."""
    run = layer.forward

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        left_out = layer.training and bool(torch.rand([]) < share)
        output = run(hidden_states, *args, **kwargs)
        if not left_out:
            return output
        if isinstance(output, tuple):  # WavLM's layers give the bias of their attention as well
            return (hidden_states + 0.0 * output[0], *output[1:])
        return hidden_states + 0.0 * output

    layer.forward = forward


@contextmanager
def whole(trainer: Trainer) -> Iterator[None]:
    """Within, every process holds all weights and may run the model alone, forward."""
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
            if piece in layers:  # all else accelerate keeps together until the backward pass
                again = trainer.accelerator.state.fsdp_plugin.reshard_after_forward
                piece.set_reshard_after_forward(again, recurse=False)
            piece.reshard()


def complete_state(trainer: Trainer) -> None:
    """Gives weights that were not trained yet the state with which the optimizer will begin.

    torch would write a state without them and then refuse to resume from it.
    """
    if not trainer.is_fsdp_enabled or trainer.optimizer is None:
        return
    states = trainer.optimizer.state
    pattern: dict[str, Tensor] = next((state for state in states.values() if state), {})
    for group in trainer.optimizer.param_groups:
        for weights in group["params"]:
            if not states[weights]:  # moments of the weights' own shape, a count of steps
                beginning = {name: torch.zeros_like(weights if old.ndim else old) for name, old in pattern.items()}
                states[weights].update(beginning)


def gathered(trainer: Trainer) -> dict[str, Tensor] | None:
    """The weights of a model in pieces, put together on the main process; None of a whole one. All have to call it."""
    return trainer.accelerator.get_state_dict(trainer.model) if trainer.is_fsdp_enabled else None
