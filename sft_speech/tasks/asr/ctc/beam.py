"""Beam search with an n-gram language model, on all cores while the next batches are computed.

Recognition {scores (T, V)}     log-probabilities of a clip's frames, without padding, chunks joined
  -> pieces (T', V)             one, unless it is long: cut in pauses
  -> best path (T',)            a label for each frame and its probability, in a process of the pool
  -> Recognition {text, ...}    as from greedy recognition, in the order of the clips

Legend: T frames, V labels of the head.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import multiprocessing
import os
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sft_speech.audio.read import AudioError
from sft_speech.errors import UserError
from sft_speech.inference.chunking import CHUNK_SECONDS
from sft_speech.machine import installer
from sft_speech.tasks.asr.ctc.decoding import WITHOUT, Decoding
from sft_speech.tasks.asr.ctc.ngram import is_binary, lexicon_of, units, with_bigrams, words_of
from sft_speech.tasks.asr.ctc.recognition import Recognition, means, runs

if TYPE_CHECKING:
    from sft_speech.tasks.asr.ctc.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

BLANK = "<blank>"  # not in any language model
NEVER = -1e4  # log-probability of an impossible label
PENDING = 512  # pieces that wait with their log-probabilities, so that the cores have work during the next pool
LOOK_UP_SECONDS = 60.0  # to read a KenLM binary, in addition to its time on the disk
SLOWEST_DISK = 10e6  # bytes per second


class Search:
    """Finds the best path through the log-probabilities of one clip.

    Args:
        vocabulary: of the checkpoint.
        decoding: its language model and lexicon are checked against the vocabulary.

    Raises:
        UserError: torchaudio is missing, or the language model or lexicon does not suit the vocabulary.
    """

    def __init__(self, vocabulary: Vocabulary, decoding: Decoding) -> None:
        _check_torchaudio()
        self.vocabulary = vocabulary
        words = words_of(decoding.lm)
        names = units(decoding.lm, words, vocabulary)
        _check_mode(decoding, of_characters=names is not None)
        # The possible labels: without start and end tokens and outputs beyond the vocabulary.
        self.labels = np.array([vocabulary.blank, *vocabulary.ids.values()])
        self.names = [BLANK, *((names or {}).get(label, f"<{label}>") for label in vocabulary.ids.values())]
        self.lexicon = None if names else lexicon_of(decoding.lm, words, vocabulary, decoding.lexicon)
        self._lm: Any = decoding.lm
        self.reweigh(decoding)

    def reweigh(self, decoding: Decoding) -> None:
        """Use other weights or another beam; the language model is not read again."""
        from torchaudio.models.decoder import ctc_decoder

        self.decoding = decoding
        name = dict(zip(self.labels.tolist(), self.names, strict=True))
        delimiter = name.get(self.vocabulary.ids.get(" ", -1), BLANK)
        spelled = [
            f"{word}\t{' '.join(name[label] for label in labels)}\n"
            for word, spellings in (self.lexicon or {}).items()
            for labels in spellings
        ]
        with tempfile.TemporaryDirectory() as folder, _silence():
            lexicon, dictionary = Path(folder, "lexicon"), Path(folder, "dictionary")
            lexicon.write_text("".join(spelled), encoding="utf-8")
            # torchaudio's own dictionary numbers the language model's units in another order than the search expects.
            dictionary.write_text("\n".join([*(self.lexicon or self.names), "<unk>"]) + "\n", encoding="utf-8")
            if isinstance(self._lm, str):
                self._lm = with_bigrams(self._lm, Path(folder))
                if is_binary(self._lm):
                    _check_binary(self._lm, dictionary)
            try:
                self._decoder = ctc_decoder(
                    str(lexicon) if spelled else None,
                    self.names,
                    self._lm,
                    str(dictionary),
                    beam_size=decoding.beam_size,
                    lm_weight=decoding.lm_weight,
                    word_score=decoding.word_score,
                    blank_token=BLANK,
                    sil_token=delimiter,
                )
            except RuntimeError as error:  # KenLM found an error later in the file
                why = f"it cannot be read ({str(error).splitlines()[-1]})"
                raise UserError(decoding.lm, why, "build it again with KenLM's lmplz") from error
        self._lm = self._decoder.lm

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Return the best path (T,), a label for each frame, through log-probabilities (T, V)."""
        frames = np.ascontiguousarray(scores[:, self.labels], np.float32)
        if len(frames) == 0:
            return np.zeros(0, np.int64)
        if self.lexicon is not None:
            # Words end with a delimiter, but most transcripts do not: this extra frame ends the last word at no cost.
            closing = np.full((1, len(self.labels)), NEVER, np.float32)
            closing[0, self.labels == self.vocabulary.ids.get(" ", self.vocabulary.blank)] = 0
            frames = np.concatenate([frames, closing])
        # torchaudio's own result lacks the frames where tokens end.
        best = self._decoder.decoder.decode(frames.ctypes.data, *frames.shape)[0]
        return self.labels[np.array(best.tokens[1 : len(scores) + 1])]


def _check_torchaudio() -> None:
    try:
        from torchaudio.models.decoder import ctc_decoder  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:  # missing, or built for another torch
        first = (str(error).splitlines() or [""])[0]
        do = f"{installer()} 'sft_speech[lm]': torchaudio 2.11 needs torch 2.11 to 2.14"
        raise UserError("a language model", f"torchaudio's beam search cannot be loaded ({first})", do) from error


def _check_binary(lm: str, dictionary: Path, look_up_seconds: float = LOOK_UP_SECONDS) -> None:
    """Read a KenLM binary in a separate process first.

    KenLM maps it into memory and trusts every offset in it, so a damaged one crashes the process or makes it hang.

    Raises:
        UserError: the process crashed or hung. Files that KenLM itself rejects pass.
    """
    process = multiprocessing.get_context("fork").Process(target=_look_up, args=(lm, str(dictionary)), daemon=True)
    process.start()
    process.join(look_up_seconds + os.path.getsize(lm) / SLOWEST_DISK)
    if process.exitcode is None:
        process.kill()
        process.join()
    if process.exitcode not in (0, 1):  # 1: KenLM raised an error, and will raise it again
        why = "it is damaged: KenLM crashes or hangs on it"
        raise UserError(lm, why, "build it again with KenLM's build_binary")


def _look_up(lm: str, dictionary: str) -> None:
    """Score every word at the beginning of a transcript, and after the previous word."""
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary

    faulthandler.disable()  # the exit code reports a crash, whatever handlers were set
    for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT):
        signal.signal(number, signal.SIG_DFL)
    words = Dictionary(dictionary)
    model = KenLM(lm, words)
    start = before = model.start(False)
    for word in range(words.index_size()):
        model.score(start, word)
        before, _ = model.score(before, word)


def _check_mode(decoding: Decoding, of_characters: bool) -> None:
    if of_characters and decoding.lexicon not in (None, WITHOUT):
        raise UserError(
            f"--lexicon {decoding.lexicon}", f"{decoding.lm} is a language model of characters", "leave it out"
        )
    if decoding.word_score and of_characters:
        why = f"{decoding.lm} is a language model of characters, so no words are counted"
        raise UserError(f"--word_score {decoding.word_score:g}", why, "leave it out")
    if not of_characters and decoding.lexicon == WITHOUT:
        why = f"{decoding.lm} is a language model of words, which cannot be looked up character by character"
        raise UserError(f"--lexicon {WITHOUT}", why, "leave it out, or give a language model of characters")


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Hide KenLM's progress bar, which C++ writes to stderr; its errors are exceptions."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


class BeamDecoder:
    """A search in a pool of processes, because flashlight holds Python's lock while it searches.

    The processes are forked immediately, if possible before there are threads or a GPU is used. They use neither torch
    nor a GPU, and share the language model and the lexicon in memory.

    Args:
        search: for the checkpoint whose recognitions are searched.
        workers: number of processes; None is one per core that this process may use.
        pending: number of pieces that may be pending before the first result is waited for.
    """

    def __init__(self, search: Search, workers: int | None = None, pending: int = PENDING) -> None:
        self.search, self.pending = search, pending
        cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        context = multiprocessing.get_context("fork")
        self._pool = ProcessPoolExecutor(workers or max(1, cores), context, _initialize, (search,))
        self._pool.submit(int).result()  # the first task forks all of them

    def __enter__(self) -> BeamDecoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def follow(
        self, recognitions: Iterable[Recognition | AudioError], progress: Callable[[float], object] | None = None
    ) -> Iterator[Recognition | AudioError]:
        """Yield recognitions, in order, with the text and tokens that the search found.

        About ``pending`` pieces wait at a time.

        Args:
            recognitions: greedy ones, with ``scores``.
            progress: called with the seconds of audio of each clip.

        Raises:
            UserError: a process was killed.
        """
        waiting: deque[_Waiting] = deque()

        def ready() -> bool:
            pending = sum(len(one.paths) for one in waiting)
            return pending > self.pending or all(path.done() for path in waiting[0].paths)

        def first() -> Recognition | AudioError:
            found = self._found(waiting.popleft())
            if progress is not None and not isinstance(found, AudioError):
                progress(found.seconds)
            return found

        try:
            for recognition in recognitions:
                waiting.append(self._submitted(recognition))
                while waiting and ready():
                    yield first()
            while waiting:
                yield first()
        finally:
            for one in waiting:
                for path in one.paths:
                    path.cancel()

    def _submitted(self, greedy: Recognition | AudioError) -> _Waiting:
        if isinstance(greedy, AudioError) or greedy.scores is None:
            return _Waiting(greedy, [], [])
        vocabulary = self.search.vocabulary
        longest = round(CHUNK_SECONDS / greedy.frame_seconds)
        best = greedy.scores.argmax(axis=1)
        pieces = cut_pauses(best, vocabulary.blank, vocabulary.ids.get(" "), longest)
        with _explain_killed_process():
            paths = [self._pool.submit(_path, greedy.scores[piece]) for piece in pieces]
        return _Waiting(replace(greedy, scores=None), pieces, paths)

    def _found(self, one: _Waiting) -> Recognition | AudioError:
        """Return a recognition with the tokens of its pieces' paths, and a delimiter between two pieces."""
        if isinstance(one.greedy, AudioError) or not one.pieces:  # unreadable, or too short for a frame
            return one.greedy
        vocabulary = self.search.vocabulary
        delimiter = vocabulary.ids.get(" ")
        columns: list[tuple[np.ndarray, ...]] = []
        for piece, path in zip(one.pieces, one.paths, strict=True):
            if columns and delimiter is not None:
                columns.append(tuple(np.array([value]) for value in (delimiter, piece.start, piece.start, 1.0)))
            with _explain_killed_process():
                labels, probabilities = path.result()
            tokens, starts, ends = runs(labels, vocabulary.blank)
            columns.append((tokens, starts + piece.start, ends + piece.start, means(probabilities, starts, ends)))
        *whole, probabilities = (np.concatenate(column) for column in zip(*columns, strict=True))
        tokens, starts, ends = (column.astype(np.int64) for column in whole)
        text = " ".join(vocabulary.decode(tokens.tolist()).split())
        return replace(one.greedy, text=text, tokens=tokens, starts=starts, ends=ends, probabilities=probabilities)


@dataclass(frozen=True)
class _Waiting:
    """A clip whose pieces are being searched."""

    greedy: Recognition | AudioError
    pieces: list[slice]
    paths: list[Future[tuple[np.ndarray, np.ndarray]]]


@contextlib.contextmanager
def _explain_killed_process() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        why = "one of its processes was killed, perhaps for lack of memory, or by a damaged KenLM binary"
        raise UserError("the beam search", why, "lower --beam_size") from error


def cut_pauses(best: np.ndarray, blank: int, delimiter: int | None, longest: int) -> list[slice]:
    """Cut a long recording into pieces of at most ``longest`` frames, each in the middle of the longest pause.

    A search through the whole recording would need memory for every hypothesis of every frame, and would run on one
    core. Pauses between two words are preferred.

    Args:
        best: (T,) the best label of each frame.
    """
    pieces, start = [], 0
    while len(best) - start > longest:
        stop = start + longest
        piece = best[start:stop]
        quiet = (piece == blank) | (piece == delimiter)
        edges = np.flatnonzero(np.diff(quiet, prepend=False, append=False)).reshape(-1, 2)
        pauses = [((piece[low:high] == delimiter).any(), high - low, (low + high + 1) // 2) for low, high in edges]
        late = [pause for pause in pauses if pause[-1] >= longest / 2]
        if late:
            stop = start + int(max(late)[-1])
        pieces.append(slice(start, stop))
        start = stop
    return [*pieces, slice(start, len(best))]


_SEARCH: Search | None = None  # in a process of the pool


def _initialize(search: Search) -> None:
    """Initialize a process of the pool. The fork already has the search in memory."""
    global _SEARCH
    _SEARCH = search
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops them
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End when the parent is killed; otherwise the pool would wait forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _path(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the best path (T,) through log-probabilities (T, V), and its probabilities (T,)."""
    assert _SEARCH is not None
    path = _SEARCH(scores)
    return path, np.exp(scores[np.arange(len(path)), path])
