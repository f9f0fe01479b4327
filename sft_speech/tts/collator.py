"""Utterances to speak, padded to a batch of SpeechT5.

Legend: B batch, N text tokens, T mel frames, M mel bands, E = 512 of a speaker embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.models.speecht5.modeling_speecht5 import shift_spectrograms_right

from sft_speech.tts.loss import IGNORED


class SpeechCollator:
    """Pads utterances to a batch, and shifts their spectrograms for the decoder.

    A spectrogram is cut to a multiple of the reduction factor: of frames that the decoder predicts in one step, the
    last ones would lack their neighbors.

    Args:
        config: of the model.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        self.config = config

    def __call__(self, utterances: list[dict[str, Any] | None]) -> dict[str, Tensor]:
        """A batch of what could be read.

        Where nothing could, one step of silence with nothing to say stands in; its labels are padding, so that it adds
        nothing to the loss, and the other processes don't wait for this one.

        Args:
            utterances: of ``tokens`` (N ids), ``spectrogram`` (T, M) float32 log-mels of at least one step, ``speaker``
                (E,) float32 and ``seconds``.

        Returns:
            input_ids and attention_mask (B, N), labels (B, T, M) padded with -100, decoder_input_values and
            decoder_attention_mask of T / reduction_factor steps, speaker_embeddings (B, E), seconds () of real audio.
        """
        read = [utterance for utterance in utterances if utterance is not None]
        if not read:
            return self._nothing()
        step = self.config.reduction_factor
        frames = [len(utterance["spectrogram"]) // step * step for utterance in read]
        tokens = [len(utterance["tokens"]) for utterance in read]
        ids = torch.full((len(read), max(tokens)), self.config.pad_token_id)
        labels = torch.full((len(read), max(frames), self.config.num_mel_bins), IGNORED)
        for row, utterance in enumerate(read):
            ids[row, : tokens[row]] = torch.as_tensor(utterance["tokens"])
            labels[row, : frames[row]] = torch.as_tensor(utterance["spectrogram"][: frames[row]])
        own = torch.arange(labels.shape[1])[None] < torch.tensor(frames)[:, None]
        shifted, mask = shift_spectrograms_right(labels, step, own.long())
        return {
            "input_ids": ids,
            "attention_mask": (torch.arange(ids.shape[1])[None] < torch.tensor(tokens)[:, None]).long(),
            "labels": labels,
            "decoder_input_values": shifted,
            "decoder_attention_mask": mask,
            "speaker_embeddings": torch.stack([torch.as_tensor(utterance["speaker"]) for utterance in read]),
            "seconds": torch.tensor(float(sum(utterance["seconds"] for utterance in read))),
        }

    def _nothing(self) -> dict[str, Tensor]:
        silence = {
            "tokens": [self.config.pad_token_id],
            "spectrogram": torch.zeros(self.config.reduction_factor, self.config.num_mel_bins),
            "speaker": torch.ones(self.config.speaker_embedding_dim),
            "seconds": 0.0,
        }
        batch = self([silence])
        batch["labels"].fill_(IGNORED)
        return batch
