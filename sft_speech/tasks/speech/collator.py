"""Batches of SpeechT5: padded inputs and target spectrograms.

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

    It cuts spectrograms to a multiple of the reduction factor, the number of frames that the decoder predicts in one
    step.

    Args:
        config: configuration of the model.
        from_audio: whether the input is a recording rather than a text.
    """

    def __init__(self, config: PreTrainedConfig, from_audio: bool = False) -> None:
        self.config, self.from_audio = config, from_audio

    def __call__(self, utterances: list[dict[str, Any] | None]) -> dict[str, Tensor]:
        """Return a batch of the utterances that could be read.

        If there are none, the batch is one decoder step of silence whose labels are padding, which adds nothing to the
        loss and keeps the processes in step.

        Args:
            utterances: with ``tokens`` (N ids) or, from audio, ``samples`` (S,) float32; ``spectrogram`` (T, M) float32
                log-mels of at least one step, ``speaker`` (E,) float32 and ``seconds``.

        Returns:
            input_ids (B, N) or input_values (B, S) and their attention_mask, encoder_steps (B,), labels (B, T, M)
            padded with -100, decoder_input_values and decoder_attention_mask of T / reduction_factor steps,
            speaker_embeddings (B, E), seconds () of audio without padding.
        """
        read = [utterance for utterance in utterances if utterance is not None]
        if not read:
            return self._empty()
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

    def _inputs(self, utterances: list[dict[str, Any]]) -> dict[str, Tensor]:
        inputs = [torch.as_tensor(utterance["samples" if self.from_audio else "tokens"]) for utterance in utterances]
        lengths = torch.tensor([len(one) for one in inputs])
        fill = 0 if self.from_audio else self.config.pad_token_id
        padded = torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True, padding_value=fill)
        steps = lengths
        if self.from_audio:
            steps = torch.as_tensor(conv_frames(lengths.numpy(), self.config.conv_kernel, self.config.conv_stride))
        mask = torch.arange(padded.shape[1])[None] < lengths[:, None]
        return {
            "input_values" if self.from_audio else "input_ids": padded,
            "attention_mask": mask.long(),
            "encoder_steps": steps,
        }

    def _empty(self) -> dict[str, Tensor]:
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
