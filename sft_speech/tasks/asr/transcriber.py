"""Write down what is said in any number of recordings of any length."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from sft_speech.audio.codecs import AUDIO_SUFFIXES, VIDEO_SUFFIXES, is_audio
from sft_speech.errors import UserError
from sft_speech.inference.chunking import CONTEXT_SHARE, WINDOW_SECONDS

if TYPE_CHECKING:
    import torch

    from sft_speech.tasks.asr.ctc.checkpoint import Checkpoint
    from sft_speech.tasks.asr.ctc.decoding import Decoding
    from sft_speech.tasks.asr.ctc.recognize import Clip, Recognition

logger = logging.getLogger(__name__)

_HEADER_THREADS = 8  # they wait for the disk, or the network behind it
_RECORDINGS = AUDIO_SUFFIXES | VIDEO_SUFFIXES

# A path, bytes of a file, a row's {"path", "bytes"}, or (array, rate).
Audio = str | Path | bytes | dict[str, Any] | tuple[np.ndarray, int]


@dataclass(frozen=True)
class Span:
    """A word or a character, and when it is said, in seconds from the start of the recording."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Transcription:
    """What is said in one recording.

    Args:
        text: all of it.
        words: of the text, in order, each with its time: from the first to the last frame in which the model names it.
        characters: of the text, in order, spaces included.
        seconds: of audio that was heard.
        audio: path of the recording; "" when it was given as bytes or an array.
        error: why nothing, or not all, could be heard; "" else.
    """

    text: str
    words: tuple[Span, ...]
    characters: tuple[Span, ...]
    seconds: float
    audio: str = ""
    error: str = ""

    @property
    def failed(self) -> bool:
        """Whether nothing could be heard."""
        return bool(self.error) and not self.seconds


class Transcriber:
    """A model that transcribes.

    ``Transcriber("my_model")("talk.flac").text``

    Args:
        model: directory of a fine-tuned model, its id on the Hub, or a
            :class:`~sft_speech.tasks.asr.ctc.checkpoint.Checkpoint`.
        device: "cpu", "cuda", ...; a GPU if there is one. bfloat16 on a GPU, float32 on a CPU.
        max_batch_seconds: padded audio per batch: raise it until memory is full. Transcripts don't depend on it.
        window_seconds: longer recordings are heard in overlapping windows of this length; lower it when memory is
            short.
        decoding: beam search with a language model, or the YAML file that describes it; greedy when absent.
        allow_pickle: of a directory that holds no safetensors, read the pickle; see
            :func:`~sft_speech.models.load.how_to_read_weights` for what that risks.

    Raises:
        UserError: no such model, one that isn't CTC, or one without a trained head; no such device; a language model
            that the vocabulary can't spell.
    """

    def __init__(
        self,
        model: str | Path | Checkpoint,
        device: str | torch.device | None = None,
        max_batch_seconds: float | None = None,
        window_seconds: float = WINDOW_SECONDS,
        decoding: Decoding | str | Path | None = None,
        allow_pickle: bool = False,
    ) -> None:
        from sft_speech.models.load import chosen_device
        from sft_speech.tasks.asr.ctc.beam import beam_decoder
        from sft_speech.tasks.asr.ctc.decoding import read_decoding
        from sft_speech.tasks.asr.ctc.recognize import default_batch_seconds

        if max_batch_seconds is not None and max_batch_seconds <= 0:
            raise UserError(f"max_batch_seconds {max_batch_seconds}", "no audio fits", "give a number above 0")
        if window_seconds < 1:
            raise UserError(f"window_seconds {window_seconds}", "too short to understand a word in", "give 10 or more")
        self.decoding = read_decoding(decoding)
        self.device = chosen_device(device)
        self.max_batch_seconds = max_batch_seconds or default_batch_seconds(self.device)
        self.window_seconds = window_seconds
        self.checkpoint = _load(model, allow_pickle)
        self.decoder = beam_decoder(self.checkpoint, self.decoding)  # before the GPU is in use: it forks
        self.checkpoint.model.to(self.device).eval()  # type: ignore[arg-type]  # its decorator hides the signature

    @overload
    def __call__(self, audio: Audio) -> Transcription: ...

    @overload
    def __call__(self, audio: list[Audio]) -> list[Transcription]: ...

    def __call__(self, audio: Audio | list[Audio]) -> Transcription | list[Transcription]:
        """Transcribes one recording, or each of a list or a folder.

        Args:
            audio: path of a file, bytes of a file, ``(array, rate)``, or a list of those. An array is float in [-1, 1]
                or integer, (S,) or (S, channels), S samples. A folder stands for all audio files under it, sorted.

        Returns:
            One :class:`Transcription`, or a list in the order given. In a list what can't be read has an ``error``.

        Raises:
            UserError: the one recording can't be read; a path that doesn't exist; an array without its rate.
        """
        if isinstance(audio, list):
            return list(self.stream(audio))
        if isinstance(audio, str | Path) and Path(audio).is_dir():
            return list(self.stream(find_audio([audio])))
        (transcription,) = self.stream([audio])
        if transcription.failed:
            raise UserError(transcription.audio or "the audio", transcription.error, "give a file that can be played")
        return transcription

    def stream(
        self, audios: Iterable[Audio], progress: Callable[[float], None] | None = None
    ) -> Iterator[Transcription]:
        """Transcribes recordings one after another, in the order given, in constant memory.

        What can't be read is warned of and comes as a :class:`Transcription` with an ``error``.

        Args:
            audios: files, not folders.
            progress: called with the seconds of audio behind it after each batch.
        """
        for pool in self.pools([audios], progress):
            yield from pool

    def pools(
        self, blocks: Iterable[Iterable[Audio]], progress: Callable[[float], None] | None = None
    ) -> Iterator[list[Transcription]]:
        """As :meth:`stream`, of blocks of recordings, and as many transcriptions at a time as come at once.

        Those of a list shared their batches, with nobody else. Which recordings that are follows from where their block
        begins and how long they are: who goes on at the end of any list gets the same batches as who never stopped.
        """
        from sft_speech.tasks.asr.ctc.recognize import recognize

        planned: deque[list[str]] = deque()  # names, of pools that were begun

        def clips() -> Iterator[Clip]:
            for number, pool in enumerate(self._pools(blocks)):
                planned.append([name for name, _ in pool])
                yield from (replace(clip, pool=number) for _, clip in pool)

        heard = recognize(
            self.checkpoint,
            clips(),
            max_batch_seconds=self.max_batch_seconds,
            device=self.device,
            window_seconds=self.window_seconds,
            progress=progress,
            decoder=self.decoder,
        )
        together: list[Transcription] = []
        for recognition in heard:
            together.append(self._transcription(planned[0][len(together)], recognition))
            if len(together) == len(planned[0]):
                yield together
                planned.popleft()
                together = []

    def _pools(self, blocks: Iterable[Iterable[Audio]]) -> Iterator[list[tuple[str, Clip]]]:
        """Names and clips, as many whole recordings of a block as fill a pool of windows."""
        from sft_speech.tasks.asr.ctc.recognize import POOL

        for _, clips in groupby(self._clips(blocks), key=itemgetter(0)):
            pool: list[tuple[str, Clip]] = []
            windows = 0.0
            for _, name, clip in clips:
                pool.append((name, clip))
                windows += max(1.0, clip.seconds / (self.window_seconds * (1 - 2 * CONTEXT_SHARE)))
                if windows >= POOL:
                    yield pool
                    pool, windows = [], 0.0
            if pool:
                yield pool

    def _clips(self, blocks: Iterable[Iterable[Audio]]) -> Iterator[tuple[int, str, Clip]]:
        """Block, name and clip of each recording; headers of files are read in threads, a pool ahead of the model."""
        from sft_speech.tasks.asr.ctc.recognize import POOL

        ahead: deque[tuple[int, str, Future[Clip]]] = deque()
        threads = ThreadPoolExecutor(_HEADER_THREADS, thread_name_prefix="header")
        try:
            for number, audio in ((number, audio) for number, block in enumerate(blocks) for audio in block):
                path = isinstance(audio, str | Path)
                ahead.append((number, str(audio) if path else "", threads.submit(self._clip, audio)))
                while len(ahead) > (POOL if path else 0):  # what lies in memory isn't hoarded
                    yield *ahead[0][:2], ahead.popleft()[2].result()
            while ahead:
                yield *ahead[0][:2], ahead.popleft()[2].result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def _clip(self, audio: Audio) -> Clip:
        """Learns the length; decodes nothing but arrays of another rate."""
        from sft_speech.audio.read import AudioError, probe
        from sft_speech.tasks.asr.ctc.recognize import Clip

        try:
            if isinstance(audio, tuple):
                waveform = _mono(audio, self.checkpoint.rate)
                return Clip(waveform, len(waveform) / self.checkpoint.rate)
            if not isinstance(audio, str | Path | bytes | dict):
                do = "give (array, rate), a path or bytes"
                raise UserError(f"a {type(audio).__name__}", "its rate isn't known", do)
            return Clip(audio, probe(audio).seconds)
        except AudioError as error:
            return Clip(error, 0.0)

    def _transcription(self, name: str, heard: Recognition | Exception) -> Transcription:
        if isinstance(heard, Exception):
            logger.warning("%s can't be transcribed: %s", name or "an audio", heard)
            return Transcription("", (), (), 0.0, name, str(heard))
        if heard.problem:
            logger.warning("%s is transcribed in part: %s", name or "an audio", heard.problem)
        words, characters = spans(self.checkpoint, heard)
        return Transcription(heard.text, words, characters, heard.seconds, name, heard.problem)


def spans(checkpoint: Checkpoint, heard: Recognition) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
    """Words and characters of a recognition with their times.

    A token spans the frames in which it was the best one; times never decrease and stay within the clip.
    """
    separator = getattr(checkpoint.tokenizer, "word_delimiter_token_id", None)
    words: list[Span] = []
    characters: list[Span] = []
    letters: list[Span] = []

    def finish() -> None:
        if letters:
            if words:
                characters.append(Span(" ", words[-1].end, letters[0].start))
            words.append(Span("".join(letter.text for letter in letters), letters[0].start, letters[-1].end))
            characters.extend(letters)
            letters.clear()

    for token, start, end in zip(heard.tokens.tolist(), heard.starts.tolist(), heard.ends.tolist(), strict=True):
        if token == separator:
            finish()
            continue
        text = checkpoint.vocabulary.letter(token)
        if text:  # special tokens say nothing
            times = (min(frame * heard.frame_seconds, heard.seconds) for frame in (start, end))
            letters.append(Span(text, *times))
    finish()
    return tuple(words), tuple(characters)


def find_audio(given: Iterable[str | Path]) -> list[Path]:
    """The files to transcribe: those given, and all audio files under a folder, sorted; other files there are ignored.

    Raises:
        UserError: a path that doesn't exist, a folder without audio.
    """
    found: list[Path] = []
    for path in map(Path, given):
        if path.is_dir():
            files = list(map(Path, _audio_under(str(path))))
            if not files:
                raise UserError(f"{path}", "there is no audio file under it", "give a folder of recordings")
            found += files
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"{path}", "there is no such file or folder", "check the path")
    return found


def _audio_under(folder: str) -> Iterator[str]:
    """Audio files, as ``sorted(Path(folder).rglob("*"))`` has them, in a third of the time; no links to folders."""
    for entry in sorted(os.scandir(folder), key=attrgetter("name")):
        if entry.is_dir(follow_symlinks=False):
            yield from _audio_under(entry.path)
        elif is_audio(entry.name, _RECORDINGS) and entry.is_file():
            yield entry.path


def _mono(audio: tuple[np.ndarray, int], rate: int) -> np.ndarray:
    """An array with its rate as float32 (S,) at the model's rate."""
    import soxr

    from sft_speech.audio.read import AudioError

    array, own_rate = np.asarray(audio[0]), audio[1]
    if array.ndim not in (1, 2) or array.size == 0 or own_rate <= 0:
        raise AudioError("empty", f"an array of shape {array.shape} at {own_rate} Hz holds no audio")
    if np.issubdtype(array.dtype, np.integer):
        steps = np.iinfo(array.dtype)  # unsigned samples rest at the middle of their range
        middle, half = (float(steps.max) + steps.min + 1) / 2, (float(steps.max) - steps.min + 1) / 2
        array = (array - middle) / half
    waveform = array.astype(np.float32)
    if waveform.ndim == 2:
        waveform = waveform.mean(axis=1)
    if not np.isfinite(waveform).all():
        raise AudioError("not finite", "the array holds NaN or infinite samples")
    return waveform if own_rate == rate else soxr.resample(waveform, own_rate, rate)


def _load(model: str | Path | Checkpoint, allow_pickle: bool) -> Checkpoint:
    from sft_speech.tasks.asr.ctc.checkpoint import load_checkpoint

    checkpoint = model
    if isinstance(checkpoint, str | Path):
        checkpoint = load_checkpoint(checkpoint, allow_pickle=allow_pickle)
    if checkpoint.head_is_new:
        names = ", ".join(checkpoint.new_weights[:3])
        raise UserError(f"{model}", f"it has no trained weights for {names}", "fine-tune it: sft-speech finetune-asr")
    return checkpoint
