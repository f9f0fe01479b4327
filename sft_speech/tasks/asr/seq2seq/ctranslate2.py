"""Recognition by a Whisper in CTranslate2: windows, prompts, limits and fallback are those of the checkpoint.

Every clip is padded to the length of the encoder, as in plain use. Log-probabilities and times of tokens come from
CTranslate2's alignment.

Legend: N tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from sft_speech.models.exported import ExportedModel, open_session, pool
from sft_speech.models.front_end import make_front_end, read_extractor
from sft_speech.tasks.asr.seq2seq.checkpoint import Checkpoint, read_tokenizer, transcripts_of
from sft_speech.tasks.asr.seq2seq.recognize import Seq2SeqSteps, recognize
from sft_speech.tasks.asr.seq2seq.settings import check_settings, generation_settings, write_in
from sft_speech.tasks.asr.seq2seq.write import Writer, Written

if TYPE_CHECKING:
    from sft_speech.audio.read import AudioError
    from sft_speech.tasks.asr.seq2seq.recognition import Writing

SECONDS = 0.02  # of a position of the encoder
LEAST = 1e-10  # probability


class WhisperSession:
    """A Whisper in CTranslate2."""

    inputs = frozenset({"input_features"})

    def __init__(self, folder: Path) -> None:
        import ctranslate2

        self.model = ctranslate2.models.Whisper(str(folder), **pool())

    def encode(self, mels: Tensor) -> Any:
        """Return the states of a clip, in CTranslate2's memory, from its log-mel frames (1, mels, frames)."""
        import ctranslate2

        return self.model.encode(ctranslate2.StorageView.from_array(mels.cpu().contiguous().numpy()), to_cpu=True)


class CTranslate2Whisper(ExportedModel):
    """A Whisper in CTranslate2, with what the recognizer reads of a model."""

    generation_config: GenerationConfig

    def get_encoder(self) -> Any:
        """Return a function from log-mel frames to the output of the encoder."""

        def encoder(mels: Tensor) -> SimpleNamespace:
            states = [torch.from_numpy(np.array(self.session.one.encode(one[None]))) for one in mels]
            return SimpleNamespace(last_hidden_state=torch.cat(states))

        return encoder


@dataclass(frozen=True, eq=False)
class Aligned(Written):
    """What was written for a clip, with the times (N,) of its tokens."""

    times: tuple[np.ndarray, np.ndarray]


class States(list[Any]):
    """The states of clips, in CTranslate2's memory."""

    def __getitem__(self, rows: Any) -> Any:
        one = super().__getitem__
        return States(one(row) for row in rows) if isinstance(rows, list) else one(rows)


class CTranslate2Writer(Writer):
    """Writes the text of clips by CTranslate2's search, one by one."""

    def search(
        self, model: Any, encoded: Any, seconds: Sequence[float], languages: Sequence[str | None], temperature: float
    ) -> list[Written]:
        whisper = model.session.one.model
        rows = zip(encoded, seconds, languages, strict=True)
        return [self.one(whisper, states, length, language, temperature) for states, length, language in rows]

    def one(self, whisper: Any, states: Any, seconds: float, language: str | None, temperature: float) -> Aligned:
        """Return what is written for a clip."""
        language = language or self.transcripts.language or self.detected(whisper, states)
        prefix = self.transcripts.prefix(language, self.generation.task)
        given = [*self.before, *prefix]
        bound = self.bound(seconds, len(given))
        (found,) = whisper.generate(
            states,
            [given],
            beam_size=self.generation.num_beams if temperature == 0 else 1,
            # CTranslate2 gives the text half of this, and never more than is left after the prompt.
            max_length=max(2 * bound, bound + len(given)),
            return_scores=True,
            return_no_speech_prob=self.no_speech is not None,
            suppress_tokens=list(getattr(self.settings, "suppress_tokens", None) or []),
            sampling_temperature=temperature or 1.0,
            sampling_topk=0 if temperature else 1,
        )
        tokens = np.array([id for id in found.sequences_ids[0] if id != self.transcripts.end][:bound], np.int64)
        # The score is the mean over the tokens; the mean of transformers counts the end of the text too.
        mean = found.scores[0] * len(found.sequences_ids[0]) / (len(found.sequences_ids[0]) + 1)
        logprobs, times = self.aligned(whisper, states, prefix, tokens, seconds)
        return Aligned(
            prefix=given,
            tokens=tokens,
            logprobs=logprobs,
            avg_logprob=float(mean),
            no_speech_prob=found.no_speech_prob if self.no_speech is not None else None,
            language=language,
            temperature=temperature,
            cut=len(tokens) >= bound,
            times=times,
        )

    def detected(self, whisper: Any, states: Any) -> str | None:
        """Return the language of a clip; None for a model of one language."""
        if not self.transcripts.languages:
            return None
        ((best, _), *_) = whisper.detect_language(states)[0]
        return str(best).strip("<|>")

    def aligned(
        self, whisper: Any, states: Any, prefix: list[int], tokens: np.ndarray, seconds: float
    ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """Return the log-probabilities (N,) of tokens (N,), and their times (N,) each in seconds."""
        if not len(tokens):
            nothing = np.zeros(0, np.float32)
            return nothing, (nothing, nothing)
        # CTranslate2 itself adds the token that means no timestamps, the last of the prefix.
        frames = max(2, round(seconds / SECONDS) * 2)
        (found,) = whisper.align(states, prefix[:-1], [tokens.tolist()], [min(frames, 2 * states.shape[1])])
        probabilities = np.array(found.text_token_probs[: len(tokens)])
        places = np.array(found.alignments).reshape(-1, 2)
        # The position at which each token begins; after the last one comes the end of the text.
        starts = [places[places[:, 0] >= number, 1].min(initial=states.shape[1]) for number in range(len(tokens) + 1)]
        at = np.minimum(np.maximum.accumulate(starts) * SECONDS, seconds)
        return np.log(np.maximum(probabilities, LEAST)).astype(np.float32), (at[:-1], at[1:])


class CTranslate2Steps(Seq2SeqSteps):
    """The steps of recognition with a Whisper in CTranslate2."""

    writer = CTranslate2Writer

    def encoded(self, model: Any, features: dict[str, Tensor]) -> Any:
        return States(model.session.one.encode(one[None]) for one in features["input_features"])

    def losses(self, model: nn.Module, encoded: Any, pieces: Any, languages: Any) -> list[float | None]:
        return [None] * len(pieces)

    def times(self, model: nn.Module, encoded: Any, samples: list[int], written: Any) -> Any:
        return [one.times for one in written]


class CTranslate2Checkpoint(Checkpoint):
    """A Whisper in CTranslate2, its front end and its tokenizer."""

    def recognize(self, clips: Any, **options: Any) -> Iterator[Writing | AudioError]:
        return recognize(self, clips, steps=CTranslate2Steps, **options)


def load_whisper(name: str, config: Any, language: str | None) -> CTranslate2Checkpoint:
    """Load a Whisper that was exported to CTranslate2.

    Raises:
        UserError: the directory is damaged, or CTranslate2 is not installed.
    """
    where: dict[str, Any] = {"revision": "main", "trust_remote_code": False}
    tokenizer = read_tokenizer(name, where, config)
    front_end = make_front_end(config, read_extractor(name, where, config))
    model: Any = CTranslate2Whisper(config, open_session(name, WhisperSession))
    model.generation_config = GenerationConfig.from_pretrained(name)
    settings = generation_settings(model, tokenizer)
    check_settings(name, settings, tokenizer)
    transcripts = transcripts_of(name, None, settings, tokenizer, language, False)
    if transcripts.language is not None:
        write_in(transcripts.language, transcripts, settings)
    return CTranslate2Checkpoint(model.eval(), front_end, transcripts, [])
