"""Synthesis of texts of any length."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor
from transformers import SpeechT5ForTextToSpeech

from sft_speech.audio.units import samples_of
from sft_speech.errors import UserError
from sft_speech.metrics.loops import letters
from sft_speech.tasks.speech.checkpoint import SpeechCheckpoint
from sft_speech.tasks.speech.generator import Part, Speech, SpeechGenerator, Voice
from sft_speech.tasks.tts.text import SpeakableText, split_sentences

logger = logging.getLogger(__name__)

PIECE_CHARACTERS = 200  # longer texts are cut, if the checkpoint does not name its longest: attention fails on them
# Longest speech of a text: slow readers need 0.12 s per letter, with pauses.
SECONDS_PER_LETTER, GRACE_SECONDS = 0.15, 1.5
# Pauses in seconds between pieces: after a sentence, and after a comma or a word.
PAUSE_SECONDS, SHORT_PAUSE_SECONDS = 0.35, 0.12


@dataclass(frozen=True)
class _Piece:
    number: int  # of its text
    text: str
    tokens: list[int]


class Synthesizer(SpeechGenerator):
    """A model that synthesizes speech: ``Synthesizer("my_model")("How do you do?", "anna").save("hello.wav")``.

    The speech of a text does not depend on the other texts: each piece is generated from the same ``seed``.

    Args:
        model: directory of a SpeechT5 for speech synthesis, or its id on the Hub.
        vocoder, speaker_encoder, device, seed, allow_pickle: see
            :class:`~sft_speech.tasks.speech.generator.SpeechGenerator`.
        batch_texts: number of pieces of text per batch; lower it if memory is short.

    Raises:
        UserError: there is no such model, vocoder or device.
    """

    kind = SpeechT5ForTextToSpeech
    source = "text"

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
        super().__init__(
            model, vocoder, speaker_encoder=speaker_encoder, device=device, seed=seed, allow_pickle=allow_pickle
        )
        self.normalize = SpeakableText(self.checkpoint.tokenizer.get_vocab(), self.checkpoint.language)
        self.batch_texts = batch_texts

    @overload
    def __call__(self, text: str, speaker: Voice | None = None) -> Speech: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(self, text: Sequence[str], speaker: Voice | None = None) -> list[Speech]: ...

    def __call__(self, text: str | Sequence[str], speaker: Voice | None = None) -> Speech | list[Speech]:
        """Synthesize a text, or each of several.

        Args:
            text: of any length; it is cut at ends of sentences, and the pieces are joined with pauses.
            speaker: see :meth:`~sft_speech.tasks.speech.generator.SpeechGenerator.voice`.

        Returns:
            A :class:`Speech`; for several texts, a list in their order.

        Raises:
            UserError: the one text has nothing that can be spoken, or there is no such voice.
        """
        voice = self.voice(speaker)
        if not isinstance(text, str):
            return self._synthesize(list(text), voice)
        (speech,) = self._synthesize([text], voice)
        if not len(speech.waveform):
            raise UserError(f"the text {text[:40]!r}", speech.problem, "give letters that the model knows")
        return speech

    def _synthesize(self, texts: list[str], voice: Tensor) -> list[Speech]:
        pieces: list[_Piece] = []
        normalized, problems = [], []
        for number, text in enumerate(texts):
            own, missing = self._pieces(number, text)
            pieces += own
            normalized.append(" ".join(piece.text for piece in own))
            lost = " ".join(f"{character} ({count})" for character, count in missing.items())
            nothing = "" if own else "it contains nothing to speak"
            problems.append(f"characters that the model lacks were removed: {lost}" if lost else nothing)
        waves: list[list[np.ndarray]] = [[] for _ in texts]
        parts: list[list[Part]] = [[] for _ in texts]
        for piece, part in zip(pieces, self._generate(pieces, voice), strict=True):
            if part.was_cut:
                found = f"{piece.text[:30]!r} was {part.why}"
                problems[piece.number] = "; ".join(filter(None, [problems[piece.number], found]))
            pause = PAUSE_SECONDS if piece.text[-1:] in ".!?" else SHORT_PAUSE_SECONDS
            waves[piece.number] += [part.waveform, np.zeros(samples_of(pause, self.rate), np.float32)]
            parts[piece.number].append(part)
        speeches = []
        for number, text in enumerate(texts):
            waveform = np.concatenate(waves[number][:-1]) if waves[number] else np.zeros(0, np.float32)
            if problems[number]:
                logger.warning("%r: %s", text[:40], problems[number])
            said = (text, normalized[number], problems[number], tuple(parts[number]))
            speeches.append(Speech(waveform.clip(-1, 1), self.rate, *said))
        return speeches

    def _pieces(self, number: int, text: str) -> tuple[list[_Piece], Counter[str]]:
        """Return pieces of a text that are short enough for the model, and counts of the characters that it lacks."""
        missing: Counter[str] = Counter()
        pieces: list[_Piece] = []
        longest = self.checkpoint.longest_text or PIECE_CHARACTERS
        longest = min(longest, self.checkpoint.max_tokens - 2)  # the tokenizer adds a space and the end
        for line in text.splitlines():
            written = self.normalize(line)
            missing.update(written.missing)
            for part in split_sentences(written.text, longest):
                if any(character.isalnum() for character in part):
                    pieces.append(_Piece(number, part, self.checkpoint.encode(part)))
        return pieces, missing

    def _generate(self, pieces: list[_Piece], voice: Tensor) -> list[Part]:
        """Return the speech of each piece."""
        found: dict[int, Part] = {}
        order = sorted(range(len(pieces)), key=lambda index: -len(pieces[index].tokens))
        for first in range(0, len(order), self.batch_texts):
            batch = order[first : first + self.batch_texts]
            tokens = [torch.tensor(pieces[index].tokens) for index in batch]
            lengths = [len(one) for one in tokens]
            fill = self.checkpoint.config.pad_token_id or 0
            ids = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=fill)
            mask = (torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]).long()
            lasts = [self._after_sounds(pieces[index].tokens) for index in batch]
            limits = [SECONDS_PER_LETTER * letters(pieces[index].text) + GRACE_SECONDS for index in batch]
            found |= dict(zip(batch, self.generate(ids, mask, voice, lasts, limits), strict=True))
        return [found[index] for index in range(len(pieces))]

    def _after_sounds(self, tokens: list[int]) -> int:
        """Return the index of the first token after the last letter."""
        written = self.checkpoint.tokenizer.convert_ids_to_tokens(tokens)
        special = set(self.checkpoint.tokenizer.all_special_tokens)
        sounds = [token not in special and any(map(str.isalnum, token)) for token in written]
        return max((index + 1 for index, sound in enumerate(sounds) if sound), default=len(tokens) - 1)
