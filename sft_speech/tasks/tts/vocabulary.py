"""Adding letters to a tokenizer, for SpeechT5 in a new language."""

from __future__ import annotations

import logging
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from sentencepiece import sentencepiece_model_pb2
from transformers import SpeechT5Tokenizer

from sft_speech.tasks.speech.checkpoint import SpeechCheckpoint
from sft_speech.text.normalize import TranscriptNormalizer

logger = logging.getLogger(__name__)

MIN_COUNT = 5  # a rarer letter cannot be learned, and may be a misspelling


def add_characters(checkpoint: SpeechCheckpoint, transcripts: Iterable[str]) -> str:
    """Add the letters of transcripts that the tokenizer lacks to it and to the model, in place.

    Their embeddings are those of the letters without accents, or else the mean of all letters.

    Returns:
        The added letters, sorted.
    """
    found = missing_letters(checkpoint.tokenizer, transcripts, checkpoint.language)
    rare = " ".join(f"{letter} ({count})" for letter, count in sorted(found.items()) if count < MIN_COUNT)
    if rare:
        logger.warning("letters too rare in the transcripts to be added: %s", rare)
    added = "".join(sorted(letter for letter, count in found.items() if count >= MIN_COUNT))
    if added:
        before = checkpoint.tokenizer
        checkpoint.tokenizer = extended(before, added)
        _extend_embeddings(checkpoint, before, added)
        embeddings = checkpoint.model.get_input_embeddings()
        checkpoint.new_weights += [
            f"{name}.weight" for name, one in checkpoint.model.named_modules() if one is embeddings
        ]
        logger.info("letters added to the vocabulary: %s", " ".join(added))
    return added


def missing_letters(tokenizer: SpeechT5Tokenizer, transcripts: Iterable[str], language: str) -> Counter[str]:
    """Count letters and combining marks of transcripts that a tokenizer lacks."""
    vocabulary = tokenizer.get_vocab()
    case = TranscriptNormalizer.for_vocabulary(vocabulary, language).case
    normalize = TranscriptNormalizer(None, case, language)
    found: Counter[str] = Counter()
    for transcript in transcripts:
        text = transcript.lower() if transcript.isupper() and case == "keep" else transcript
        found.update(normalize(text).text)
    return Counter({c: n for c, n in found.items() if c not in vocabulary and unicodedata.category(c)[0] in "LM"})


def extended(tokenizer: SpeechT5Tokenizer, letters: str) -> SpeechT5Tokenizer:
    """Return a tokenizer with more letters, after its pieces and before the tokens that transformers has added.

    The letters become pieces: transformers' ``add_tokens`` would put a word boundary after each of them.
    """
    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    model.ParseFromString(_pieces(tokenizer).serialized_model_proto())
    lowest = min(piece.score for piece in model.pieces)
    for letter in letters:
        model.pieces.add(piece=letter, score=lowest, type=model.SentencePiece.NORMAL)
    model.trainer_spec.vocab_size = len(model.pieces)
    roles = {token: role for role, token in tokenizer.special_tokens_map.items()}  # <mask>: mask_token
    added = {roles[token.content] for _, token in _added(tokenizer) if token.content in roles}
    left_out = {"vocab_file", "added_tokens_decoder", "name_or_path", "tokenizer_file", "special_tokens_map_file"}
    settings = {name: value for name, value in tokenizer.init_kwargs.items() if name not in left_out | added}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "spm_char.model")
        path.write_bytes(model.SerializeToString())
        made = SpeechT5Tokenizer(str(path), **settings)
    for _, token in _added(tokenizer):
        if token.content in roles:
            made.add_special_tokens({roles[token.content]: token})
        else:
            made.add_tokens([token], special_tokens=token.special)
    return made


def _pieces(tokenizer: SpeechT5Tokenizer) -> Any:
    """Return the sentencepiece model."""
    return tokenizer.sp_model


def _added(tokenizer: SpeechT5Tokenizer) -> list[tuple[int, Any]]:
    """Return the ids and tokens after the pieces, such as ``<mask>``."""
    count = _pieces(tokenizer).get_piece_size()
    return [(id, token) for id, token in sorted(tokenizer.added_tokens_decoder.items()) if id >= count]


def _extend_embeddings(checkpoint: SpeechCheckpoint, before: SpeechT5Tokenizer, letters: str) -> None:
    """Add embeddings of letters; every old token keeps its own, under its new id."""
    model: Any = checkpoint.model
    old, vocabulary = model.get_input_embeddings(), before.get_vocab()
    first = _pieces(before).get_piece_size()
    letter_ids = [id for token, id in vocabulary.items() if len(token) == 1 and unicodedata.category(token)[0] == "L"]
    with torch.no_grad():
        weights = old.weight.detach()
        new = [weights[letter_ids].mean(0)] * len(letters)
        for place, letter in enumerate(letters):
            bare = unicodedata.normalize("NFD", letter)[0]
            if bare in vocabulary:
                new[place] = weights[vocabulary[bare]]
        table = torch.cat([weights[:first], torch.stack(new).to(weights), weights[first:]])
        embeddings = torch.nn.Embedding(len(table), table.shape[1], old.padding_idx, device=table.device)
        embeddings.weight.copy_(table)
    model.set_input_embeddings(embeddings)
    model.config.vocab_size = len(table)
