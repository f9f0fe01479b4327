"""Beam search with an n-gram language model, on all cores while the next batches are computed.

Recognition {scores (T, V)}     log-probabilities of a clip's own frames, windows joined
  -> pieces (T', V)             one, unless it is long: cut in pauses
  -> best path (T',)            a label for each frame, in a process of the pool
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
from sft_speech.inference.chunking import WINDOW_SECONDS
from sft_speech.tasks.asr.ctc.decoding import WITHOUT, Decoding
from sft_speech.tasks.asr.ctc.ngram import is_binary, lexicon_of, units, words_of

if TYPE_CHECKING:
    from sft_speech.tasks.asr.ctc.checkpoint import Checkpoint
    from sft_speech.tasks.asr.ctc.recognize import Recognition
    from sft_speech.tasks.asr.ctc.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

BLANK = "<blank>"  # no language model knows it
NEVER = -1e4  # log-probability of what isn't said
# Pieces that wait for their turn, with their log-probabilities: the cores have work while the next pool is computed.
PENDING = 512
PATIENCE = 60.0  # seconds to read a KenLM binary, and
SLOWEST_DISK = 10e6  # bytes per second of it


class Search:
    """Finds the best path through the log-probabilities of one clip.

    Args:
        vocabulary: of the checkpoint.
        decoding: what to search with; checked against the vocabulary first.

    Raises:
        UserError: no torchaudio, or a language model or lexicon that can't work with the vocabulary.
    """

    def __init__(self, vocabulary: Vocabulary, decoding: Decoding) -> None:
        _check_torchaudio()
        self.vocabulary = vocabulary
        words = words_of(decoding.lm)
        names = units(decoding.lm, words, vocabulary)
        _check_mode(decoding, of_characters=names is not None)
        # What can be said: start and end tokens aren't, nor outputs beyond the vocabulary.
        self.labels = np.array([vocabulary.blank, *vocabulary.ids.values()])
        self.names = [BLANK, *((names or {}).get(label, f"<{label}>") for label in vocabulary.ids.values())]
        self.lexicon = None if names else lexicon_of(decoding.lm, words, vocabulary, decoding.lexicon)
        self._lm: Any = decoding.lm
        self.reweigh(decoding)

    def reweigh(self, decoding: Decoding) -> None:
        """Other weights or another beam; the language model stays as it was read."""
        from torchaudio.models.decoder import ctc_decoder

        self.decoding = decoding
        name = dict(zip(self.labels.tolist(), self.names, strict=True))
        delimiter = name.get(self.vocabulary.ids.get(" ", -1), BLANK)
        spelt = [
            f"{word}\t{' '.join(name[label] for label in labels)}\n"
            for word, spellings in (self.lexicon or {}).items()
            for labels in spellings
        ]
        with tempfile.TemporaryDirectory() as folder, _silence():
            lexicon, dictionary = Path(folder, "lexicon"), Path(folder, "dictionary")
            lexicon.write_text("".join(spelt), encoding="utf-8")
            # torchaudio's own would number the units of the language model in another order than the search asks for.
            dictionary.write_text("\n".join([*(self.lexicon or self.names), "<unk>"]) + "\n", encoding="utf-8")
            if isinstance(self._lm, str) and is_binary(self._lm):
                _check_binary(self._lm, dictionary)
            try:
                self._decoder = ctc_decoder(
                    str(lexicon) if spelt else None,
                    self.names,
                    self._lm,
                    str(dictionary),
                    beam_size=decoding.beam_size,
                    lm_weight=decoding.lm_weight,
                    word_score=decoding.word_score,
                    blank_token=BLANK,
                    sil_token=delimiter,
                )
            except RuntimeError as error:  # KenLM, on a file that goes wrong further on
                why = f"it can't be read ({str(error).splitlines()[-1]})"
                raise UserError(decoding.lm, why, "make it anew with KenLM's lmplz") from error
        self._lm = self._decoder.lm

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """The best path, a label for each frame (T,).

        Args:
            scores: (T, V) log-probabilities.
        """
        frames = np.ascontiguousarray(scores[:, self.labels], np.float32)
        if len(frames) == 0:
            return np.zeros(0, np.int64)
        if self.lexicon is not None:
            # A word ends with a delimiter, and transcripts mostly end without one: here the last word can end for free.
            closing = np.full((1, len(self.labels)), NEVER, np.float32)
            closing[0, self.labels == self.vocabulary.ids.get(" ", self.vocabulary.blank)] = 0
            frames = np.concatenate([frames, closing])
        # torchaudio's own result has lost where tokens end.
        best = self._decoder.decoder.decode(frames.ctypes.data, *frames.shape)[0]
        return self.labels[np.array(best.tokens[1 : len(scores) + 1])]


def _check_torchaudio() -> None:
    try:
        from torchaudio.models.decoder import ctc_decoder  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:  # not there, or built for another torch
        first = (str(error).splitlines() or [""])[0]
        do = "pip install 'sft_speech[lm]': torchaudio 2.11 wants torch 2.11 to 2.14"
        raise UserError("a language model", f"torchaudio's beam search can't be loaded ({first})", do) from error


def _check_binary(lm: str, dictionary: Path) -> None:
    """Has a process of its own read a KenLM binary first: KenLM maps it into memory and trusts every offset in it.
    Where one is wrong the process crashes, or never comes back.

    Raises:
        UserError: that happened; what KenLM itself refuses passes.
    """
    process = multiprocessing.get_context("fork").Process(target=_look_up, args=(lm, str(dictionary)), daemon=True)
    process.start()
    process.join(PATIENCE + os.path.getsize(lm) / SLOWEST_DISK)
    if process.exitcode is None:
        process.kill()
        process.join()
    if process.exitcode not in (0, 1):  # 1: KenLM raised an error, and will again
        raise UserError(
            lm, "it is damaged: KenLM crashes on it, or never ends", "make it anew with KenLM's build_binary"
        )


def _look_up(lm: str, dictionary: str) -> None:
    """Scores every word at the beginning of a transcript, and after the word before it."""
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary

    faulthandler.disable()  # a crash is told by the exit code, whatever handlers there are
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
        raise UserError(f"--lexicon {decoding.lexicon}", f"{decoding.lm} is of characters", "leave it out")
    if not of_characters and decoding.lexicon == WITHOUT:
        why = f"{decoding.lm} is of words, which can't be looked up character by character"
        raise UserError(f"--lexicon {WITHOUT}", why, "leave it out, or give a language model of characters")
    if of_characters and decoding.word_score:
        raise UserError(
            f"--word_score {decoding.word_score:g}",
            f"{decoding.lm} is of characters, no words are counted",
            "leave it out",
        )


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """KenLM draws its progress on stderr, from below Python; its errors are exceptions."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def beam_decoder(checkpoint: Checkpoint, decoding: Decoding | None) -> BeamDecoder | None:
    """The decoder of a checkpoint; None for greedy recognition."""
    return None if decoding is None else BeamDecoder(Search(checkpoint.vocabulary, decoding))


class BeamDecoder:
    """A search in a pool of processes (flashlight holds Python's lock while it searches).

    The processes are forked at once, before there are threads or a GPU where that can be, and touch neither torch nor a
    GPU: all share the language model and the lexicon in memory, read once.

    Args:
        search: of the checkpoint whose recognitions are to be searched.
        workers: processes; one per core that this process may use.
    """

    def __init__(self, search: Search, workers: int | None = None) -> None:
        self.search = search
        cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        context = multiprocessing.get_context("fork")
        self._pool = ProcessPoolExecutor(workers or max(1, cores), context, _adopt, (search,))
        self._pool.submit(int).result()  # all are forked with the first task

    def __enter__(self) -> BeamDecoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def follow(
        self,
        heard: Iterable[Recognition | AudioError],
        decode: Callable[[list[int]], str],
        progress: Callable[[float], None] | None = None,
    ) -> Iterator[Recognition | AudioError]:
        """Recognitions with their transcripts found by the search, in order; about PENDING pieces of clips wait.

        Args:
            heard: greedy ones, with ``scores``.
            decode: labels to text.
            progress: called with the seconds of audio of each clip.

        Raises:
            UserError: a process was ended.
        """
        waiting: deque[_Waiting] = deque()

        def ready() -> bool:
            pending = sum(len(one.paths) for one in waiting)
            return pending > PENDING or all(path.done() for path in waiting[0].paths)

        def first() -> Recognition | AudioError:
            found = self._found(waiting.popleft(), decode)
            if progress is not None and not isinstance(found, AudioError):
                progress(found.seconds)
            return found

        try:
            for recognition in heard:
                waiting.append(self._submitted(recognition))
                while waiting and ready():
                    yield first()
            while waiting:
                yield first()
        finally:
            for one in waiting:
                for path in one.paths:
                    path.cancel()

    def _submitted(self, heard: Recognition | AudioError) -> _Waiting:
        if isinstance(heard, AudioError) or heard.scores is None:
            return _Waiting(heard, [], [])
        vocabulary = self.search.vocabulary
        longest = round(WINDOW_SECONDS / heard.frame_seconds)
        best = heard.scores.argmax(axis=1)
        pieces = cut_pauses(best, vocabulary.blank, vocabulary.ids.get(" "), longest)
        with _ended_processes_told():
            paths = [self._pool.submit(_path, heard.scores[piece]) for piece in pieces]
        return _Waiting(replace(heard, scores=None), pieces, paths)

    def _found(self, one: _Waiting, decode: Callable[[list[int]], str]) -> Recognition | AudioError:
        """A recognition with the tokens of its pieces' paths, and a delimiter between two pieces."""
        from sft_speech.tasks.asr.ctc.recognize import runs

        if isinstance(one.heard, AudioError) or not one.pieces:  # unreadable, or too short for a frame
            return one.heard
        vocabulary = self.search.vocabulary
        delimiter = vocabulary.ids.get(" ")
        columns: list[tuple[Any, Any, Any]] = []
        for piece, path in zip(one.pieces, one.paths, strict=True):
            if columns and delimiter is not None:
                columns.append(([delimiter], [piece.start], [piece.start]))
            with _ended_processes_told():
                tokens, starts, ends = runs(path.result(), vocabulary.blank)
            columns.append((tokens, starts + piece.start, ends + piece.start))
        tokens, starts, ends = (np.concatenate(column).astype(np.int64) for column in zip(*columns, strict=True))
        text = " ".join(decode(tokens.tolist()).split())
        return replace(one.heard, text=text, tokens=tokens, starts=starts, ends=ends)


@dataclass(frozen=True)
class _Waiting:
    """A clip whose pieces are being searched."""

    heard: Recognition | AudioError
    pieces: list[slice]
    paths: list[Future[np.ndarray]]


@contextlib.contextmanager
def _ended_processes_told() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        why = "one of its processes was ended, for want of memory perhaps, or by a damaged KenLM binary"
        raise UserError("the beam search", why, "lower --beam_size") from error


def cut_pauses(best: np.ndarray, blank: int, delimiter: int | None, longest: int) -> list[slice]:
    """Pieces of a long recording of at most ``longest`` frames each: a search through all of it would need memory for
    every hypothesis of every frame, and one core. The cut is amid the longest pause, between two words if there is one.

    Args:
        best: (T,) the best label of each frame.
    """
    pieces, start = [], 0
    while len(best) - start > longest:
        stop = start + longest
        window = best[start:stop]
        quiet = (window == blank) | (window == delimiter)
        edges = np.flatnonzero(np.diff(quiet, prepend=False, append=False)).reshape(-1, 2)
        pauses = [((window[low:high] == delimiter).any(), high - low, (low + high + 1) // 2) for low, high in edges]
        late = [pause for pause in pauses if pause[-1] >= longest / 2]
        if late:
            stop = start + int(max(late)[-1])
        pieces.append(slice(start, stop))
        start = stop
    return [*pieces, slice(start, len(best))]


_SEARCH: Search | None = None  # of this process, where it is one of the pool


def _adopt(search: Search) -> None:
    """What a process of the pool does first: the search is there already, by the fork."""
    global _SEARCH
    _SEARCH = search
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends them
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed can't end its pool, which would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _path(scores: np.ndarray) -> np.ndarray:
    assert _SEARCH is not None
    return _SEARCH(scores)
