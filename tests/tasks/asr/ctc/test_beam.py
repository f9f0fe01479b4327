from __future__ import annotations

import base64
import itertools
import random
import sys
import time
from multiprocessing import connection
from pathlib import Path

import numpy as np
import pytest
from tiny_ngram import CHARACTERS, UNIGRAMS, arpa
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sft_speech.audio.read import AudioError
from sft_speech.errors import UserError
from sft_speech.tasks.asr.ctc import beam
from sft_speech.tasks.asr.ctc.beam import BeamDecoder, Search, cut_pauses
from sft_speech.tasks.asr.ctc.decoding import Decoding
from sft_speech.tasks.asr.ctc.recognition import Recognition, runs
from sft_speech.tasks.asr.ctc.vocabulary import Characters, Subwords, tokenizer_of

pytest.importorskip("torchaudio.models.decoder")
pytest.importorskip("flashlight.lib.text")


@pytest.fixture
def lm(tmp_path):
    return arpa(tmp_path / "words.arpa")


# Labels 0 blank, 1 unknown, 2 delimiter, 3 ... CHARACTERS; 8 outputs.
VOCABULARY = Characters(tokenizer_of(["<pad>", "<unk>", "|", *CHARACTERS]))


@pytest.fixture
def vocabulary():
    return VOCABULARY


def scores(frames: str, probability: float = 0.9, outputs: int = 8) -> np.ndarray:
    """(T, V) log-probabilities: a letter for each frame, "-" blank, "|" delimiter; all else shares the rest."""
    labels = [{"-": 0, "|": 2}.get(c, 3 + CHARACTERS.find(c)) for c in frames]
    found = np.full((len(labels), outputs), (1 - probability) / (outputs - 1))
    found[np.arange(len(labels)), labels] = probability
    return np.log(found).astype(np.float32)


def mixed(first: str, second: str, share: float) -> np.ndarray:
    """(T, V) between two hypotheses."""
    return np.logaddexp(scores(first) + np.log(share), scores(second) + np.log(1 - share)).astype(np.float32)


def text(search: Search, frames: np.ndarray) -> str:
    path = search(frames)
    assert len(path) == len(frames)
    return search.vocabulary.decode(runs(path, 0)[0])


def greedy(frames: np.ndarray, frame_seconds: float = 0.02) -> Recognition:
    """A greedy recognition with its log-probabilities."""
    tokens, starts, ends = runs(frames.argmax(axis=1) if len(frames) else np.zeros(0, np.int64), 0)
    return Recognition(
        text="",
        seconds=len(frames) * frame_seconds,
        tokens=tokens,
        starts=starts,
        ends=ends,
        probabilities=np.zeros(len(tokens)),
        frame_seconds=frame_seconds,
        vocabulary=VOCABULARY,
        scores=frames,
    )


def test_a_damaged_kenlm_binary_is_an_error_and_no_crash(tmp_path, vocabulary):
    path = tmp_path / "lm"
    whole = base64.b64decode((Path(__file__).parents[3] / "two_words.kenlm.base64").read_text())
    path.write_bytes(whole)
    assert text(Search(vocabulary, Decoding(str(path), lm_weight=0.0)), scores("-o-ne-|t-wo-")) == "one two"
    path.write_bytes(whole[:0x80] + random.Random(0).randbytes(0x138 - 0x80) + whole[0x138:])  # tables: KenLM crashes
    with pytest.raises(UserError, match="KenLM crashes or hangs on it"):
        Search(vocabulary, Decoding(str(path)))
    path.write_bytes(whole[:0x100] + whole[0x138:])  # cut in the middle: KenLM sees it
    with pytest.raises(UserError, match="it cannot be read"):
        Search(vocabulary, Decoding(str(path)))


def test_a_kenlm_binary_that_is_never_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(beam, "_look_up", lambda *_: time.sleep(600))
    (tmp_path / "lm").write_bytes(b"")
    with pytest.raises(UserError, match="crashes or hangs"):
        beam._check_binary(str(tmp_path / "lm"), tmp_path, look_up_seconds=0.1)


def test_only_words_of_the_lexicon_are_recognized(lm, vocabulary):
    frames = scores("-onne-|-tv-oo-")  # "v" is any character: "t o" isn't a word
    assert text(Search(vocabulary, Decoding(lm, lm_weight=0.0)), frames) == "one two"


def test_the_language_model_decides_by_its_weight(lm, vocabulary):
    frames = mixed("-one-|-ten--", "-one-|-two--", 0.6)  # in each doubtful frame "ten" is a little likelier
    assert text(Search(vocabulary, Decoding(lm, lm_weight=0.0)), frames) == "one ten"
    assert text(Search(vocabulary, Decoding(lm, lm_weight=1.0)), frames) == "one two"


def test_the_word_score_decides_how_many_words_there_are(tmp_path, vocabulary):
    unigrams = {**UNIGRAMS, "to": (-0.7, 0), "net": (-0.7, 0), "tonet": (-1.4, 0)}
    lm = arpa(tmp_path / "lm", unigrams, {})
    frames = mixed("-to|net--", "-to-net--", 0.5)
    found = {
        beta: text(Search(vocabulary, Decoding(lm, lm_weight=0.0, word_score=beta)), frames) for beta in (-3.0, 3.0)
    }
    assert found == {-3.0: "tonet", 3.0: "to net"}


def test_the_last_word_needs_no_delimiter(lm, vocabulary):
    search = Search(vocabulary, Decoding(lm, lm_weight=0.0))
    for frames in ("one", "one-", "one|", "one|-", "one-|", "|one"):
        assert text(search, scores(frames, 0.999)).strip() == "one"
    assert text(search, scores("one-|-two", 0.999)) == "one two"


@pytest.mark.parametrize("case", [str.upper, str.title])
def test_transcripts_are_in_the_case_of_the_vocabulary(tmp_path, vocabulary, case):
    lm = arpa(tmp_path / "lm", case=case)
    assert text(Search(vocabulary, Decoding(lm)), mixed("one|ten-", "one|two-", 0.6)) == "one two"


def score_of(tokens: list[str], unigrams: dict, bigrams: dict) -> float:
    """The base 10 logarithm of a text's probability, by back-off."""
    total, history = 0.0, "<s>"
    for token in [*tokens, "</s>"]:
        pair = (history, token)
        backoff = unigrams.get(history, (0, 0))[1]
        total += bigrams[pair] if pair in bigrams else backoff + unigrams.get(token, unigrams["<unk>"])[0]
        history = token
    return total


@pytest.mark.parametrize("weight", [0.0, 0.7, 2.0])
def test_without_a_lexicon_it_is_the_best_of_all_paths(tmp_path, vocabulary, weight):
    unigrams = {"<s>": (-99, -0.3), "</s>": (-1.0, 0), "<unk>": (-2.0, 0)}
    unigrams |= {character: (-0.3 - 0.2 * n, -0.1) for n, character in enumerate("|onet")}  # "w" is unknown
    bigrams = {("o", "n"): -0.2, ("t", "w"): -0.3, ("e", "</s>"): -0.2}
    unigrams["w"] = (-1.7, 0)
    lm = arpa(tmp_path / "lm", unigrams, bigrams)
    search = Search(vocabulary, Decoding(lm, lm_weight=weight, beam_size=100_000))
    names = {2: "|", **{3 + n: character for n, character in enumerate(CHARACTERS)}}
    rng = np.random.default_rng(0)
    for _ in range(8):
        logits = rng.normal(0, 1.5, (4, 8))
        frames = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
        found = {}
        for path in itertools.product([0, *names], repeat=4):
            tokens = [names[label] for label in runs(np.array(path), 0)[0].tolist()]
            # The search begins after a delimiter: one at the start is no token more.
            scored = tokens[1:] if path[0] == 2 else tokens
            found[path] = sum(frames[range(4), path]) + weight * score_of(scored, unigrams, bigrams)
        best = max(found, key=found.__getitem__)
        assert runs(search(frames), 0)[0].tolist() == runs(np.array(best), 0)[0].tolist()


def test_only_characters_are_recognized(lm, tmp_path, vocabulary):
    """The unknown token, and outputs beyond the vocabulary."""
    frames = scores("-one-", outputs=12)
    frames[:, [1, 9]] += 5
    assert text(Search(vocabulary, Decoding(lm)), frames) == "one"
    unigrams = {"<s>": (-99, 0), "</s>": (-1, 0), "<unk>": (-2, 0), **dict.fromkeys("|enotw", (-0.8, 0))}
    characters = Decoding(arpa(tmp_path / "lm", unigrams, {}), lm_weight=0.1)
    assert text(Search(vocabulary, characters), frames) == "one"


def test_a_vocabulary_without_a_delimiter(tmp_path):
    words = Characters(tokenizer_of(["<pad>", "<unk>", "|", *CHARACTERS]))
    del words.ids[" "]
    assert text(Search(words, Decoding(arpa(tmp_path / "lm"), lm_weight=0.0)), scores("-o-ne-t-w-o")) == "onetwo"


def test_a_vocabulary_of_subwords(tmp_path, lm):
    """Words have no delimiter; a word begins where its first subword does."""
    tokens = ["<pad>", "<unk>", "▁", "▁on", "e", "▁t", "w", "o", "n"]
    backend = Tokenizer(models.Unigram([(token, -1.0 / len(token)) for token in tokens], unk_id=1))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>")
    vocabulary = Subwords(tokenizer, blank=0)
    frames = np.full((6, 9), np.log(0.02), np.float32)
    frames[np.arange(6), [3, 4, 0, 5, 6, 7]] = np.log(0.84)
    assert text(Search(vocabulary, Decoding(lm, lm_weight=0.0)), frames) == "one two"
    frames[1] = np.log(0.02)  # "on" alone is no word
    frames[1, [0, 4]] = np.log([0.5, 0.4])
    assert vocabulary.decode(runs(frames.argmax(-1), 0)[0]) == "on two"
    assert text(Search(vocabulary, Decoding(lm, lm_weight=0.0)), frames) == "one two"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"lexicon": "none"}, "of words, which cannot be looked up character by character"),
        ({"lm": "characters", "lexicon": "lexicon"}, "is a language model of characters"),
        ({"lm": "characters", "word_score": 1.0}, "no words are counted"),
        ({"lm": "broken.arpa"}, "it cannot be read"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, vocabulary, lm, monkeypatch, changes, why):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lexicon").write_text("one\n")
    unigrams = {"<s>": (-99, 0), "</s>": (-1, 0), "<unk>": (-2, 0), **dict.fromkeys("|enotw", (-0.8, 0))}
    arpa(tmp_path / "characters", unigrams, {("o", "n"): -0.1})
    (tmp_path / "broken.arpa").write_text((tmp_path / "words.arpa").read_text().replace("-3.0", "x"))
    with pytest.raises(UserError, match=why):
        Search(vocabulary, Decoding(**{"lm": lm, **changes}))


def test_a_missing_torchaudio_is_named(vocabulary, lm, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchaudio.models.decoder", None)
    with pytest.raises(UserError, match=r"pip install 'sft_speech\[lm\]'"):
        Search(vocabulary, Decoding(lm))


def test_nothing_is_printed(lm, vocabulary, capfd):
    Search(vocabulary, Decoding(lm))
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def search(vocabulary, lm):
    return Search(vocabulary, Decoding(lm))


def random_words(count: int) -> tuple[list[Recognition], list[str]]:
    """Recognitions of random words, and their texts."""
    draw = random.Random(0)
    texts = [" ".join(draw.choices(["one", "two", "ten"], k=draw.randint(1, 30))) for _ in range(count)]
    return [greedy(scores("-" + one.replace(" ", "-|") + "-", 0.99)) for one in texts], texts


@pytest.mark.parametrize("workers", [1, 3])
def test_results_are_in_order_in_any_number_of_processes(search, vocabulary, workers):
    recognitions, texts = random_words(30)
    broken, nothing = AudioError("broken", "it cannot be read"), greedy(np.zeros((0, 8), np.float32))
    with BeamDecoder(search, workers) as decoder:
        found = list(decoder.follow([*recognitions, broken, nothing]))
    assert [one.text for one in found[:-2]] == texts
    assert found[-2] is broken
    assert (found[-1].text, found[-1].seconds) == ("", 0.0)
    assert all(one.scores is None for one in found if one is not broken)


def test_few_wait(search):
    recognitions, texts = random_words(30)
    drawn: list[Recognition] = []
    with BeamDecoder(search, 1, pending=4) as decoder:
        for number, found in enumerate(decoder.follow(drawn.append(one) or one for one in recognitions)):
            assert found.text == texts[number]
            assert len(drawn) - number <= 6


def test_frames_of_tokens(search, vocabulary):
    with BeamDecoder(search, 1) as decoder:
        (found,) = decoder.follow([greedy(scores("--onnee-|--two---", 0.99))])
    assert found.text == "one two"
    assert found.tokens.tolist() == vocabulary.encode("one two")
    assert found.starts.tolist() == [2, 3, 5, 8, 11, 12, 13]
    assert found.ends.tolist() == [3, 5, 7, 9, 12, 13, 14]
    assert found.probabilities == pytest.approx([0.99] * 7, abs=1e-5)
    assert found.word_confidences() == pytest.approx((0.99, 0.99), abs=1e-5)


def test_confidence_is_that_of_the_path_that_was_found(lm, vocabulary):
    """The language model prefers a word whose letters are less probable: 0.4 in two of its three frames."""
    frames = mixed("-one-|-ten--", "-one-|-two--", 0.6)
    with BeamDecoder(Search(vocabulary, Decoding(lm, lm_weight=1.0)), 1) as decoder:
        (found,) = decoder.follow([greedy(frames)])
    assert found.text == "one two"
    sure, unsure = found.word_confidences()
    letters = np.exp(frames)[[7, 8, 9], vocabulary.encode("two")]
    assert unsure == pytest.approx(letters.mean(), abs=1e-5)
    assert unsure < 0.7 < sure


def test_a_long_recording_is_searched_in_pieces(search, vocabulary):
    words = ["one", "two", "two", "one"] * 20
    frames = scores("--".join(words).replace("-", "-|-"), 0.99)
    recognition = greedy(frames, frame_seconds=beam.CHUNK_SECONDS / 50)  # 50 frames to a piece
    with BeamDecoder(search, 2) as decoder:
        (found,) = decoder.follow([recognition])
    assert found.text == " ".join(words)
    assert (np.diff(found.starts) >= 0).all()
    assert found.confidence == pytest.approx(0.99, abs=1e-4)  # delimiters between pieces have no frame
    assert len(found.word_confidences()) == len(words)
    letters = found.tokens != 2
    assert np.array_equal(frames[found.starts[letters]].argmax(axis=1), found.tokens[letters])


def test_two_pieces_are_two_words(search, vocabulary):
    recognition = greedy(scores("-one----two-", 0.99), frame_seconds=beam.CHUNK_SECONDS / 8)  # without a delimiter
    with BeamDecoder(search, 1) as decoder:
        (found,) = decoder.follow([recognition])
    assert found.text == "one two"
    assert found.starts.tolist() == [1, 2, 3, 6, 8, 9, 10]


def test_a_killed_process_is_an_error(search, vocabulary):
    decoder = BeamDecoder(search, 1)
    (process,) = decoder._pool._processes.values()
    process.kill()
    connection.wait([process.sentinel])
    with pytest.raises(UserError, match="perhaps for lack of memory"):
        list(decoder.follow(random_words(3)[0]))


def test_the_cut_is_in_the_longest_pause_between_words():
    best = scores("one-|-two--|---ten------one-|-ten").argmax(axis=1)
    pieces = cut_pauses(best, 0, 2, 24)
    assert pieces == [slice(0, 12), slice(12, 33)]
    assert cut_pauses(best, 0, 2, 33) == [slice(0, 33)]
    # Without words, the longest silence; without silence, where the piece is full.
    assert cut_pauses(scores("o-neeeet----oo").argmax(axis=1), 0, None, 12) == [slice(0, 10), slice(10, 14)]
    assert cut_pauses(scores("onetwoten").argmax(axis=1), 0, 2, 4) == [slice(0, 4), slice(4, 8), slice(8, 9)]


@pytest.mark.parametrize("longest", [2, 7, 40])
def test_pieces_are_the_whole(longest):
    best = np.random.default_rng(longest).choice([0, 0, 0, 2, 3, 4], 300)
    pieces = cut_pauses(best, 0, 2, longest)
    assert [piece.start for piece in pieces] == [0, *(piece.stop for piece in pieces[:-1])]
    assert pieces[-1].stop == 300
    assert all(0 < piece.stop - piece.start <= longest for piece in pieces)
