"""Utterances to speak, padded to a batch of SpeechT5.

Legend: B batch, N text tokens, S samples, T mel frames, M mel bands, E = 512 of a speaker embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.models.speecht5.modeling_speecht5 import shift_spectrograms_right

from sft_speech.audio.units import conv_frames
from sft_speech.tasks.speech.loss import IGNORED


class SpeechCollator:
    """Pads utterances to a batch, and shifts their spectrograms for the decoder.

    A spectrogram is cut to a multiple of the reduction factor: of frames that the decoder predicts in one step, the
    last ones would lack their neighbors.

    Args:
        config: of the model.
        hears: it is given recordings, rather than texts.
    """

    def __init__(self, config: PreTrainedConfig, hears: bool = False) -> None:
        self.config, self.hears = config, hears

    def __call__(self, utterances: list[dict[str, Any] | None]) -> dict[str, Tensor]:
        """A batch of what could be read.

        Where nothing could, one step of silence with nothing to say stands in; its labels are padding, so that it adds
        nothing to the loss, and the other processes don't wait for this one.

        Args:
            utterances: of ``tokens`` (N ids) or, where the model hears, ``samples`` (S,) float32; ``spectrogram``
                (T, M) float32 log-mels of at least one step, ``speaker`` (E,) float32 and ``seconds``.

        Returns:
            input_ids or input_values and their attention_mask (B, N or S), encoder_steps (B,) that become of them,
            labels (B, T, M) padded with -100, decoder_input_values and decoder_attention_mask of T / reduction_factor
            steps, speaker_embeddings (B, E), seconds () of real audio.
        """
        read = [utterance for utterance in utterances if utterance is not None]
        if not read:
            return self._nothing()
        step = self.config.reduction_factor
        frames = [len(utterance["spectrogram"]) // step * step for utterance in read]
        labels = torch.full((len(read), max(frames), self.config.num_mel_bins), IGNORED)
        for row, utterance in enumerate(read):
            labels[row, : frames[row]] = torch.as_tensor(utterance["spectrogram"][: frames[row]])
        own = torch.arange(labels.shape[1])[None] < torch.tensor(frames)[:, None]
        shifted, mask = shift_spectrograms_right(labels, step, own.long())
        return self._inputs(read) | {
            "labels": labels,
            "decoder_input_values": shifted,
            "decoder_attention_mask": mask,
            "speaker_embeddings": torch.stack([torch.as_tensor(utterance["speaker"]) for utterance in read]),
            "seconds": torch.tensor(float(sum(utterance["seconds"] for utterance in read))),
        }

    def _inputs(self, read: list[dict[str, Any]]) -> dict[str, Tensor]:
        """What the encoder is given, and how many steps it makes of it."""
        given = [torch.as_tensor(utterance["samples" if self.hears else "tokens"]) for utterance in read]
        lengths = torch.tensor([len(one) for one in given])
        fill = 0 if self.hears else self.config.pad_token_id
        padded = torch.nn.utils.rnn.pad_sequence(given, batch_first=True, padding_value=fill)
        steps = lengths
        if self.hears:
            steps = torch.as_tensor(conv_frames(lengths.numpy(), self.config.conv_kernel, self.config.conv_stride))
        mask = torch.arange(padded.shape[1])[None] < lengths[:, None]
        return {
            "input_values" if self.hears else "input_ids": padded,
            "attention_mask": mask.long(),
            "encoder_steps": steps,
        }

    def _nothing(self) -> dict[str, Tensor]:
        silence = {
            "tokens": [self.config.pad_token_id],
            "samples": torch.zeros(1000),
            "spectrogram": torch.zeros(self.config.reduction_factor, self.config.num_mel_bins),
            "speaker": torch.ones(self.config.speaker_embedding_dim),
            "seconds": 0.0,
        }
        batch = self([silence])
        batch["labels"].fill_(IGNORED)
        return batch
