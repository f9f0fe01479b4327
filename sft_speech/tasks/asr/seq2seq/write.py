"""The search for the text of clips, by ``generate`` of transformers, independent of the batch.

Legend: B clips, T positions of the encoder, H hidden size, P tokens of the prefix, N tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig, GenerationMixin, LogitsProcessorList
from transformers.models.moonshine.modeling_moonshine import MoonshineEncoderModelOutput

from sft_speech.models.exact.whisper import AnyLengthEncoder
from sft_speech.tasks.asr.generation import Generation
from sft_speech.tasks.asr.seq2seq.processors import LengthBound, Recorder, Sampling, Suppressed
from sft_speech.tasks.asr.seq2seq.recognition import compression_ratio
from sft_speech.tasks.asr.seq2seq.transcripts import PREVIOUS, Transcripts

# The most tokens of a text of some seconds: more than anyone speaks in any language, so that only loops are cut. The
# fastest speech has 8 words a second; Whisper's tokenizer needs 4 tokens for a word of a language that it rarely saw.
TOKENS, TOKENS_PER_SECOND = 24, 24.0
SEEN_FRAMES = 4  # that a Whisper's encoder sees after a clip's own
# Thresholds and temperatures of Radford et al. 2022, section 4.5.
TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)
HIGHEST_COMPRESSION_RATIO, LOWEST_LOGPROB, NO_SPEECH = 2.4, -1.0, 0.6


@dataclass(frozen=True)
class Encoded:
    """Clips after the encoder.

    Args:
        states: (B, T, H).
        mask: (B, F) attention mask of the input; None: a Whisper, whose clips see what ``bias`` says.
        bias: (B, T) added to the attention scores of a Whisper; None: every clip sees all positions.
        positions: (B, T) mask of the positions of a Moonshine, whose encoder returns it.
    """

    states: Tensor
    mask: Tensor | None = None
    bias: Tensor | None = None
    positions: Tensor | None = None

    def __getitem__(self, rows: list[int]) -> Encoded:
        others = (self.mask, self.bias, self.positions)
        return Encoded(self.states[rows], *(None if one is None else one[rows] for one in others))

    def inputs(self, model: Any) -> dict[str, Any]:
        """Return the arguments for ``model``, and tell it what the clips see."""
        encoder = model.get_encoder()
        if isinstance(encoder, AnyLengthEncoder):
            encoder.silence.bias = self.bias
        # `generate` warns if there is no mask.
        mask = self.states.new_ones(self.states.shape[:2], dtype=torch.long) if self.mask is None else self.mask
        # Other families leave the mask of the positions alone.
        output = MoonshineEncoderModelOutput(last_hidden_state=self.states, attention_mask=self.positions)
        return {"encoder_outputs": output, "attention_mask": mask}


@dataclass(frozen=True, eq=False)
class Written:
    """What was written for a clip: see :class:`~sft_speech.tasks.asr.seq2seq.recognition.Segment`."""

    prefix: list[int]
    tokens: np.ndarray  # (N,)
    logprobs: np.ndarray  # (N,)
    avg_logprob: float
    no_speech_prob: float | None
    language: str | None
    temperature: float
    cut: bool

    @property
    def silent(self) -> bool:
        """Whether the model finds no speech, and is not sure of what it wrote."""
        return (self.no_speech_prob or 0.0) > NO_SPEECH and self.avg_logprob < LOWEST_LOGPROB


def encode(model: Any, features: dict[str, Tensor]) -> Encoded:
    """Return clips after the encoder.

    On a CPU a Whisper takes them one by one: that is a tenth faster, and needs no padding.
    """
    encoder, mask = model.get_encoder(), features.get("attention_mask")
    if not isinstance(encoder, AnyLengthEncoder):
        output = encoder(**features)
        return Encoded(output.last_hidden_state, mask, positions=getattr(output, "attention_mask", None))
    inputs = features["input_features"]
    size = 1 if inputs.device.type == "cpu" else len(inputs)
    states: list[Tensor] = []
    biases: list[Tensor] = []
    for rows in torch.arange(len(inputs)).split(size):
        own = None if mask is None else mask[rows]
        frames = inputs.shape[-1] if own is None else min(int(own.sum(-1).max()) + SEEN_FRAMES, inputs.shape[-1])
        states += encoder(inputs[rows, :, :frames], None if own is None else own[:, :frames]).last_hidden_state
        biases += [] if encoder.silence.bias is None else encoder.silence.bias
    bias = pad_sequence(biases, batch_first=True, padding_value=-torch.inf) if biases else None
    return Encoded(pad_sequence(states, batch_first=True), bias=bias)


class Writer:
    """Writes the text of clips.

    Args:
        transcripts: the tokenizer and what the decoder begins with.
        settings: the checkpoint's settings for generation: tokens that are never written.
        max_tokens: most tokens that the decoder takes, its prefix included.
        generation: options.
    """

    def __init__(self, transcripts: Transcripts, settings: Any, max_tokens: int, generation: Generation) -> None:
        self.transcripts, self.settings, self.max_tokens, self.generation = (
            transcripts,
            settings,
            max_tokens,
            generation,
        )
        special = transcripts.special
        self.no_speech = transcripts.first_timestamp - 2 if transcripts.first_timestamp is not None else None
        prompt = generation.prompt.strip()
        ids = transcripts.tokenizer(f" {prompt}", add_special_tokens=False).input_ids if prompt else []
        # As OpenAI's Whisper: the end of a long prompt, in half of the decoder's positions.
        self.before = [special[PREVIOUS], *ids[-(max_tokens // 2 - 1) :]] if ids else []

    def __call__(
        self, model: Any, encoded: Encoded, seconds: Sequence[float], languages: Sequence[str | None]
    ) -> list[Written]:
        """Return what is written for B clips.

        Args:
            model: in evaluation mode.
            seconds: (B,) their lengths.
            languages: (B,) their languages by code; None: the checkpoint's, or it is detected.
        """
        found = self.search(model, encoded, seconds, languages, 0.0)
        for temperature in TEMPERATURES if self.generation.temperature_fallback else ():
            rows = [row for row, one in enumerate(found) if self.is_doubtful(one)]
            if not rows:
                break
            own = [found[row].language for row in rows]
            again = self.search(model, encoded[rows], [seconds[row] for row in rows], own, temperature)
            for row, one in zip(rows, again, strict=True):
                found[row] = one
        return found

    def is_doubtful(self, one: Written) -> bool:
        """Return whether a text repeats itself or is improbable, unless there is no speech."""
        repeats = compression_ratio(self.transcripts.decode(one.tokens.tolist())) > HIGHEST_COMPRESSION_RATIO
        return (repeats or one.avg_logprob < LOWEST_LOGPROB) and not one.silent

    def search(
        self,
        model: Any,
        encoded: Encoded,
        seconds: Sequence[float],
        languages: Sequence[str | None],
        temperature: float,
    ) -> list[Written]:
        """Return what is written at a temperature; at 0 it is the best that the search finds."""
        device, inputs = encoded.states.device, encoded.inputs(model)
        cache, no_speech, languages = self.begin(model, inputs, len(encoded.states), languages)
        prefixes = [self.before + self.transcripts.prefix(language, self.generation.task) for language in languages]
        prefix = torch.tensor(prefixes, device=device)
        bounds = torch.tensor([self.bound(one, prefix.shape[1]) for one in seconds], device=device)
        beams = self.generation.num_beams if temperature == 0 else 1
        recorder = Recorder()
        suppressed = Suppressed(prefix.shape[1], self.settings, device)
        processors: list[Any] = [suppressed, *([recorder] if beams == 1 else [])]
        processors.append(LengthBound(prefix.shape[1], bounds, self.transcripts.end, beams))
        if temperature > 0:
            processors.append(Sampling(temperature, device))
        if cache is not None and beams > 1:
            cache.batch_repeat_interleave(beams)
        made: Any = GenerationMixin.generate(
            model,
            **inputs,
            **({} if cache is None else {"cache": cache}),
            decoder_input_ids=prefix,
            generation_config=self.config(prefix.shape[1] + int(bounds.max()) + 1, beams),
            logits_processor=LogitsProcessorList(processors),
        )
        tokens = made.sequences[:, prefix.shape[1] :]
        logprobs = recorder.logprobs(made.sequences) if beams == 1 else self.forced(model, encoded, prefix, tokens)
        rows = zip(tokens.cpu().numpy(), logprobs.cpu().numpy(), bounds.tolist(), strict=True)
        return [
            self.written(prefixes[row], *found, no_speech[row], languages[row], temperature)
            for row, found in enumerate(rows)
        ]

    def bound(self, seconds: float, given: int) -> int:
        """Return the most tokens of the text of a clip after ``given`` tokens."""
        return min(int(TOKENS + TOKENS_PER_SECOND * seconds), self.max_tokens - given)

    def begin(
        self, model: Any, inputs: dict[str, Any], clips: int, languages: Sequence[str | None]
    ) -> tuple[EncoderDecoderCache | None, list[float | None], list[str | None]]:
        """Return what the decoder's first step tells.

        Returns:
            A cache of what the decoder sees of the encoder, the probabilities (B,) that there is no speech, and the
            languages (B,).
        """
        known = [language or self.transcripts.language for language in languages]
        if self.no_speech is None:
            return None, [None] * clips, known
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        ids = torch.tensor([[*self.before, self.transcripts.start]], device=inputs["encoder_outputs"][0].device)
        logits = model(**inputs, decoder_input_ids=ids.expand(clips, -1), cache=cache, use_cache=True).logits[:, -1]
        no_speech = logits.float().softmax(-1)[:, self.no_speech].tolist()
        codes = list(self.transcripts.languages)
        if codes and None in known:
            best = logits[:, [self.transcripts.languages[code] for code in codes]].argmax(-1).tolist()
            known = [language or codes[place] for language, place in zip(known, best, strict=True)]
        # `generate` takes the prefix from its start.
        return EncoderDecoderCache(DynamicCache(), cache.cross_attention_cache), no_speech, known

    def config(self, max_length: int, beams: int) -> GenerationConfig:
        end = self.transcripts.end
        return GenerationConfig(
            max_length=max_length,
            num_beams=beams,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=end,
            decoder_start_token_id=self.transcripts.start,
            # `Suppressed` does it; None would be the checkpoint's.
            suppress_tokens=[],
            begin_suppress_tokens=[],
            return_dict_in_generate=True,
        )

    def forced(self, model: Any, encoded: Encoded, prefix: Tensor, tokens: Tensor) -> Tensor:
        """Return the log-probabilities (B, N) of given tokens (B, N) after a prefix (B, P)."""
        ids = torch.cat([prefix, tokens], 1)[:, :-1]
        logits = model(**encoded.inputs(model), decoder_input_ids=ids, use_cache=False).logits[:, prefix.shape[1] - 1 :]
        return logits.float().log_softmax(-1).gather(-1, tokens[..., None])[..., 0]

    def written(
        self,
        prefix: list[int],
        tokens: np.ndarray,
        logprobs: np.ndarray,
        bound: int,
        no_speech: float | None,
        language: str | None,
        temperature: float,
    ) -> Written:
        """Return what was written for a clip from its padded row."""
        ends = np.flatnonzero(tokens == self.transcripts.end)
        length = int(ends[0]) if len(ends) else len(tokens)
        return Written(
            prefix=prefix,
            tokens=tokens[:length].copy(),
            logprobs=logprobs[:length].copy(),
            avg_logprob=float(logprobs[: length + 1].mean()),
            no_speech_prob=no_speech,
            language=language,
            temperature=temperature,
            cut=length >= bound,
        )


def attentions(model: nn.Module, encoded: Encoded, written: Sequence[Written]) -> list[Tensor]:
    """Return the decoder's attention to the encoder, (B, heads, P + N, T) for each layer, for what was written."""
    config: Any = model.config
    rows = [torch.tensor([*one.prefix, *one.tokens.tolist()]) for one in written]
    ids = pad_sequence(rows, batch_first=True).to(encoded.states.device)
    before = config._attn_implementation
    config._attn_implementation = "eager"  # the others give no weights
    try:
        made = model(**encoded.inputs(model), decoder_input_ids=ids, use_cache=False, output_attentions=True)
    finally:
        config._attn_implementation = before
    return list(made.cross_attentions)
