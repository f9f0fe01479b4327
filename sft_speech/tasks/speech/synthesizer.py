"""Speak texts of any length, in a voice that the model knows or is shown."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sft_speech.audio.units import samples_of
from sft_speech.errors import UserError
from sft_speech.tasks.speech.checkpoint import SpeechCheckpoint, load_speech_checkpoint
from sft_speech.tasks.speech.generator import Speech, SpeechGenerator
from sft_speech.tasks.speech.text import split_sentences

logger = logging.getLogger(__name__)

# A piece of text at a time: attention of SpeechT5 loses its way in long ones.
PIECE_CHARACTERS = 200
# Mel frames per token at most, as in transformers: 0.3 s for a letter. What goes on for longer has lost its end.
FRAMES_PER_TOKEN = 20
# Between pieces, in seconds: behind a sentence, and behind a comma or in the middle of words.
PAUSE_SECONDS, SHORT_PAUSE_SECONDS = 0.35, 0.12


@dataclass(frozen=True)
class _Piece:
    text: int  # index of the text that it is from
    said: str
    tokens: list[int]


class Synthesizer(SpeechGenerator):
    """A model that speaks.

    ``Synthesizer("my_model")("How do you do?", speaker="anna").save("hello.wav")``

    The same text in the same voice gives the same sound, alone or among others: SpeechT5's decoder draws while it
    speaks, and here it starts each time from ``seed``.

    Args:
        model: directory of a SpeechT5 that speaks texts, or its id on the Hub.
        vocoder: directory or id of a ``SpeechT5HifiGan``; without one, Griffin-Lim.
        speaker_encoder: x-vector model that turns reference recordings into embeddings; by default the one that made
            the model's own voices.
        device: "cpu", "cuda", ...; a GPU if there is one.
        seed: another one says the same a little differently.
        allow_pickle: read pickled weights of directories that are named here; see
            :func:`~sft_speech.models.load.how_to_read_weights`.
        batch_texts: pieces of text spoken at a time; lower it when memory is short.

    Raises:
        UserError: no such model or vocoder; no such device.
    """

    def __init__(
        self,
        model: str | Path | SpeechCheckpoint,
        vocoder: str | None = None,
        *,
        speaker_encoder: str | None = None,
        device: str | torch.device | None = None,
        seed: int = 0,
        allow_pickle: bool = False,
        batch_texts: int = 8,
    ) -> None:
        loaded = model
        if not isinstance(loaded, SpeechCheckpoint):
            loaded = load_speech_checkpoint(loaded, allow_pickle=allow_pickle)
        settings: dict[str, Any] = {"device": device, "seed": seed, "allow_pickle": allow_pickle}
        super().__init__(loaded, vocoder, speaker_encoder=speaker_encoder, **settings)
        self.batch_texts = batch_texts

    def __call__(self, text: str | Sequence[str], speaker: Any = None) -> Any:
        """Speaks a text, or each of several.

        Args:
            text: of any length; cut at sentence ends, and joined with pauses.
            speaker: see :meth:`~sft_speech.tasks.speech.generator.SpeechGenerator.voice`.

        Returns:
            A :class:`Speech`, or a list of them in the order given.

        Raises:
            UserError: nothing in the one text can be said; no such voice.
        """
        voice = self.voice(speaker)
        if isinstance(text, str):
            (speech,) = self._speak([text], voice)
            if not len(speech.waveform):
                raise UserError(f"the text {text[:40]!r}", speech.problem, "give letters that the model knows")
            return speech
        return self._speak(list(text), voice)

    def _speak(self, texts: list[str], voice: Tensor) -> list[Speech]:
        pieces: list[_Piece] = []
        said, problems = [], []
        for number, text in enumerate(texts):
            own, missing = self._pieces(number, text)
            pieces += own
            said.append(" ".join(piece.said for piece in own))
            lost = " ".join(f"{character} ({count})" for character, count in missing.items())
            problems.append(f"left out, the model lacks them: {lost}" if lost else "")
            if not own:
                problems[-1] = problems[-1] or "there is nothing to say in it"
        parts: dict[int, tuple[np.ndarray, bool]] = {}
        order = sorted(range(len(pieces)), key=lambda index: -len(pieces[index].tokens))
        for first in range(0, len(order), self.batch_texts):
            batch = order[first : first + self.batch_texts]
            parts |= dict(zip(batch, self._spoken([pieces[index] for index in batch], voice), strict=True))
        waves: list[list[np.ndarray]] = [[] for _ in texts]
        for index, piece in enumerate(pieces):
            waveform, ended = parts[index]
            if not ended:
                found = f"{piece.said[:30]!r} did not come to an end and was cut at {len(waveform) / self.rate:.1f} s"
                problems[piece.text] = "; ".join(filter(None, [problems[piece.text], found]))
            pause = PAUSE_SECONDS if piece.said[-1:] in ".!?" else SHORT_PAUSE_SECONDS
            waves[piece.text] += [waveform, np.zeros(samples_of(pause, self.rate), np.float32)]
        speeches = []
        for number, text in enumerate(texts):
            waveform = np.concatenate(waves[number][:-1]) if waves[number] else np.zeros(0, np.float32)
            if problems[number]:
                logger.warning("%r: %s", text[:40], problems[number])
            speeches.append(Speech(waveform.clip(-1, 1), self.rate, text, said[number], problems[number]))
        return speeches

    def _pieces(self, number: int, text: str) -> tuple[list[_Piece], dict[str, int]]:
        """A text in pieces short enough for the model, and what was left out of it."""
        missing: dict[str, int] = {}
        pieces: list[_Piece] = []
        longest = min(PIECE_CHARACTERS, self.checkpoint.max_tokens - 2)  # the tokenizer adds a space and the end
        for line in text.splitlines():
            written = self.checkpoint.text(line)
            for character, count in written.missing.items():
                missing[character] = missing.get(character, 0) + count
            for said in split_sentences(written.text, longest):
                if any(character.isalnum() for character in said):
                    pieces.append(_Piece(number, said, self.checkpoint.encode(said)))
        return pieces, missing

    def _spoken(self, pieces: list[_Piece], voice: Tensor) -> list[tuple[np.ndarray, bool]]:
        """The waveform of each piece, and whether it came to an end by itself."""
        tokens = torch.tensor([len(piece.tokens) for piece in pieces])
        ids = torch.full((len(pieces), int(tokens.max())), self.checkpoint.config.pad_token_id)
        for row, piece in enumerate(pieces):
            ids[row, : len(piece.tokens)] = torch.tensor(piece.tokens)
        mask = (torch.arange(ids.shape[1]) < tokens[:, None]).long()
        return self.generate(ids, mask, voice, [FRAMES_PER_TOKEN * int(count) for count in tokens])
