"""Generation of spectrograms, frame by frame, until the input is spoken.

transformers generates until the model gives its stop signal, and at every step runs the prenet over all frames so far.
Here each utterance of a batch ends by itself, for one of the reasons in :data:`~sft_speech.tasks.speech.progress.WHY`,
and the prenet sees each frame once.

Legend: B batch, A utterances that have not ended, N encoder steps (text tokens, or frames of a recording), D decoder
steps, T = D x reduction_factor mel frames, M mel bands, H hidden size, U units of the prenet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, EncoderDecoderCache

from sft_speech.tasks.speech.checkpoint import SpeechCheckpoint
from sft_speech.tasks.speech.progress import Ending, Progress

GUIDED_LAYERS = 2  # the last ones: only their attention was guided when SpeechT5 was trained for synthesis
THRESHOLD = 0.5  # of the stop signal: sum of the probabilities of a step's frames, as in transformers


@dataclass(frozen=True)
class Decoded:
    """A generated spectrogram.

    Args:
        spectrogram: (T, M) log10 mels, after the postnet.
        attention: (D, N) what the decoder attended to; D of all steps, those after the cut too.
        ending: why it ends.
    """

    spectrogram: Tensor
    attention: np.ndarray
    ending: Ending


class Prenet:
    """The decoder's prenet for one step at a time.

    Its dropout is active in generation. The masks are drawn on the CPU, the same for every utterance, so that speech
    depends on the seed alone.

    Args:
        checkpoint: the model.
        voice: (E,) speaker embedding.
        seed: of the dropout.
    """

    def __init__(self, checkpoint: SpeechCheckpoint, voice: Tensor, seed: int) -> None:
        config = checkpoint.config
        self.module: Any = checkpoint.model.speecht5.decoder.prenet
        self.voice = functional.normalize(voice[None])
        keep = config.speech_decoder_prenet_dropout  # transformers takes the rate as the share to keep
        shape = (config.max_speech_positions, config.speech_decoder_prenet_layers, config.speech_decoder_prenet_units)
        drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < keep
        self.masks = drawn.to(voice.device, voice.dtype) / (1 - keep)

    def __call__(self, frame: Tensor, step: int) -> Tensor:
        """Return the decoder's input (A, 1, H) of a step from the last frame (A, M) before it."""
        hidden = frame
        for layer, mask in zip(self.module.layers, self.masks[step], strict=True):
            hidden = functional.relu(layer(hidden)) * mask
        positions = self.module.encode_positions
        hidden = self.module.final_layer(hidden) + positions.alpha * positions.pe[0, step]
        both = torch.cat([hidden, self.voice.expand(len(hidden), -1)], dim=-1)
        return functional.relu(self.module.speaker_embeds_layer(both))[:, None]


@torch.inference_mode()
def decode(
    checkpoint: SpeechCheckpoint, inputs: Tensor, mask: Tensor, voice: Tensor, progress: Sequence[Progress], seed: int
) -> list[Decoded]:
    """Generate a batch; an utterance has the same spectrogram (up to rounding) alone and in any batch.

    Args:
        inputs, mask: (B, N) tokens, or (B, S) samples.
        voice: (E,).
        progress: of each utterance; says when it ends.
        seed: of the dropout in the decoder's prenet.
    """
    model: Any = checkpoint.model
    config, postnet = checkpoint.config, model.speech_decoder_postnet
    prenet = Prenet(checkpoint, voice, seed)
    encoded = model.speecht5.encoder(input_values=inputs, attention_mask=mask, return_dict=True).last_hidden_state
    lengths = [checkpoint.encoder_steps(own) for own in mask.sum(-1).tolist()]
    mask = (torch.arange(encoded.shape[1]) < torch.tensor(lengths)[:, None]).long().to(inputs.device)
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    frame = encoded.new_zeros(len(inputs), config.num_mel_bins)
    running = list(range(len(inputs)))
    spectra: list[list[Tensor]] = [[] for _ in running]
    for step in range(config.max_speech_positions):
        made = model.speecht5.decoder.wrapped_decoder(
            hidden_states=prenet(frame, step),
            encoder_hidden_states=encoded,
            encoder_attention_mask=mask,
            cache=cache,
            use_cache=True,
            output_attentions=True,
            return_dict=True,
        )
        hidden = made.last_hidden_state[:, 0]
        spectrum = postnet.feat_out(hidden).view(len(running), config.reduction_factor, -1)
        stop = (postnet.prob_out(hidden).sigmoid().sum(-1) >= THRESHOLD).tolist()
        attended = guided(made.cross_attentions, config).float().cpu().numpy()
        for row, index in enumerate(running):
            spectra[index].append(spectrum[row])
            progress[index].add(attended[row, : lengths[index]], stop[row])
        frame = spectrum[:, -1]
        left = [row for row, index in enumerate(running) if progress[index].ending is None]
        if not left:
            break
        if len(left) < len(running):
            kept = torch.tensor(left, device=inputs.device)
            frame, encoded, mask = frame[kept], encoded[kept], mask[kept]
            cache.batch_select_indices(kept)
            running = [running[row] for row in left]
    return [_finished(postnet, own, one) for own, one in zip(spectra, progress, strict=True)]


def guided(layers: Sequence[Tensor], config: Any) -> Tensor:
    """Return what a step attends to, (A, N), from the cross-attention (A, heads, 1, N) of each layer.

    It is the mean over the heads that training keeps in the order of the input; the others may attend to anything.
    """
    heads = config.guided_attention_loss_num_heads if config.use_guided_attention_loss else None
    return torch.stack([layer[:, :heads, -1] for layer in layers[-GUIDED_LAYERS:]]).mean((0, 2))


def _finished(postnet: nn.Module, spectra: list[Tensor], progress: Progress) -> Decoded:
    """Return an utterance up to its end; the postnet sees nothing beyond it."""
    module: Any = postnet
    assert progress.ending is not None
    spectrogram = torch.cat(spectra[: progress.kept])
    return Decoded(module.postnet(spectrogram[None])[0], np.stack(progress.attention), progress.ending)
