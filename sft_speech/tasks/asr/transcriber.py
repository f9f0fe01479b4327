"""Transcription of any number of recordings of any length."""

from __future__ import annotations

import logging
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, cast, overload

from sft_speech.audio.channels import name_of
from sft_speech.audio.read import AudioError
from sft_speech.errors import UserError
from sft_speech.inference.chunking import CHUNK_SECONDS, CONTEXT_SHARE
from sft_speech.inference.clips import Audio, is_one, recording_of, undecoded
from sft_speech.inference.inputs import find_audio
from sft_speech.inference.pieces import POOL
from sft_speech.tasks.asr.recognizer import (
    Clip,
    Hypothesis,
    Recognizer,
    Span,
    check_trained,
)

if TYPE_CHECKING:
    import torch

    from sft_speech.inference.precision import Precision
    from sft_speech.tasks.asr.ctc.decoding import Decoding
    from sft_speech.tasks.asr.generation import Generation

logger = logging.getLogger(__name__)

_HEADER_THREADS = 8  # they wait for the disk, or the network behind it


@dataclass(frozen=True)
class Transcription:
    """The transcript of one recording.

    Args:
        text: the whole transcript.
        words: words of the text, in order, with their times: from the first to the last frame of their characters.
        characters: characters of the text, in order, spaces included.
        seconds: length of the transcribed audio.
        audio: path of the recording; "" if it was given in memory.
        error: why the recording, or the rest of it, could not be read; "" if all of it was.
        language: code of the language that the model wrote or detected; "" if it does not tell.
        channel: "left", "right" or the number of the channel that was transcribed; "" for all of them, mixed.
        confidence: how sure the model is of the text, 0 to 1; None if it wrote nothing.
        word_confidences: how sure it is of each word of the text, also if times are not asked for.
        silent: whether the model found no speech; None if it cannot tell.
    """

    text: str
    words: tuple[Span, ...]
    characters: tuple[Span, ...]
    seconds: float
    audio: str = ""
    error: str = ""
    language: str = ""
    channel: str = ""
    confidence: float | None = None
    word_confidences: tuple[float, ...] = ()
    silent: bool | None = None

    @property
    def failed(self) -> bool:
        """Whether nothing could be read."""
        return bool(self.error) and not self.seconds


class Transcriber:
    """A model that transcribes: ``Transcriber("my_model")("talk.flac").text``.

    Args:
        model: directory of a fine-tuned or an exported model, its id on the Hub, or the result of
            :func:`~sft_speech.tasks.asr.loading.load_checkpoint`.
        device: "cpu", "cuda", ...; a GPU if there is one.
        max_batch_seconds: padded audio per batch: raise it until memory is full. Transcripts do not depend on it.
        chunk_seconds: longer recordings are cut into overlapping chunks of this length; lower it if memory is short.
        decoding: beam search with a language model, or the YAML file that describes it; None is greedy.
        generation: the language; what a model that writes token by token writes, and how it searches: task, prompt, ...
        times: find the times of words and characters. For models that write token by token this takes a tenth longer.
        target_lang: language of a checkpoint with an adapter for each (MMS), by its own code ("fra"); None: that of
            ``generation``, or the one that it was fine-tuned for.
        allow_pickle: if a directory holds no safetensors, read the pickle; see
            :func:`~sft_speech.models.load.how_to_read_weights` for what that risks.
        dtype: what the model computes in. "auto": bfloat16 on a GPU, and on a CPU with AMX if the model is not tiny;
            float32 on any other CPU. See :mod:`sft_speech.inference.precision`.
        window_seconds: former name of ``chunk_seconds``.

    Raises:
        UserError: there is no such model or device, the model is no recognizer or has no trained head, the language
            model does not suit its vocabulary, or it has no such option of generation.
    """

    def __init__(
        self,
        model: str | Path | Recognizer,
        device: str | torch.device | None = None,
        max_batch_seconds: float | None = None,
        chunk_seconds: float = CHUNK_SECONDS,
        decoding: Decoding | str | Path | None = None,
        allow_pickle: bool = False,
        window_seconds: float | None = None,
        generation: Generation | None = None,
        times: bool = True,
        target_lang: str | None = None,
        dtype: Precision = "auto",
    ) -> None:
        from sft_speech.inference.precision import with_precision
        from sft_speech.models.exported import device_for
        from sft_speech.tasks.asr.ctc.decoding import read_decoding
        from sft_speech.tasks.asr.generation import Generation
        from sft_speech.tasks.asr.loading import load_checkpoint

        if window_seconds is not None:
            warnings.warn("window_seconds is now chunk_seconds", FutureWarning, stacklevel=2)
            chunk_seconds = window_seconds
        if max_batch_seconds is not None and max_batch_seconds <= 0:
            raise UserError(f"max_batch_seconds {max_batch_seconds}", "no audio fits", "give a number above 0")
        if chunk_seconds < 1:
            raise UserError(f"chunk_seconds {chunk_seconds}", "it is too short to recognize words", "give 10 or more")
        self.decoding = read_decoding(decoding)
        self.device = device_for(model, device)
        self.max_batch_seconds = max_batch_seconds
        self.chunk_seconds = chunk_seconds
        loaded = model
        if isinstance(loaded, str | Path):
            language = generation.language if generation else None
            loaded = load_checkpoint(loaded, allow_pickle=allow_pickle, language=language, target_lang=target_lang)
        check_trained(loaded, model if isinstance(model, str | Path) else "the model")
        self.checkpoint = loaded.with_generation(replace(generation or Generation(), times=times))
        self.decoder = self.checkpoint.decoder_for(self.decoding)  # forks, so this comes before the GPU is used
        self.checkpoint.model.to(self.device).eval()  # type: ignore[arg-type]  # its decorator hides the signature
        self.checkpoint = self.checkpoint.with_model(with_precision(self.checkpoint.model, self.device, dtype))

    @overload
    def __call__(self, audio: Audio) -> Transcription: ...  # type: ignore[overload-overlap]  # a str is iterable too

    @overload
    def __call__(self, audio: Iterable[Audio]) -> list[Transcription]: ...

    def __call__(self, audio: Audio | Iterable[Audio]) -> Transcription | list[Transcription]:
        """Transcribe one recording, or each of an iterable or a folder.

        Args:
            audio: a path, the bytes of a file, ``(array, rate)``, ``{"array": ..., "sampling_rate": ...}``, decoded
                audio, or a row of a dataset: see :data:`~sft_speech.inference.clips.Audio`; or an iterable of these, a
                dataset for example. A folder stands for all audio files under it, sorted. Arrays are float in [-1, 1]
                or integer, (S,) or (S, channels), S samples.

        Returns:
            One :class:`Transcription`; for an iterable or a folder, a list, in which those that cannot be read have an
            ``error``.

        Raises:
            UserError: the one recording cannot be read, a path does not exist, or it is not audio.
        """
        if not is_one(audio):
            return list(self.stream(cast(Iterable[Audio], audio)))
        if isinstance(audio, str | Path) and Path(audio).is_dir():
            return list(self.stream(find_audio([audio])))
        (transcription,) = self.stream([cast(Audio, audio)])
        if transcription.failed:
            raise UserError(transcription.audio or "the audio", transcription.error, "give a file that can be played")
        return transcription

    def stream(
        self, audios: Iterable[Audio], progress: Callable[[float], object] | None = None
    ) -> Iterator[Transcription]:
        """Transcribe recordings in the order given, in constant memory.

        Those that cannot be read give a warning and a :class:`Transcription` with an ``error``.

        Args:
            audios: recordings, but not folders.
            progress: called after each batch with its seconds of audio.
        """
        for pool in self.pools([audios], progress):
            yield from pool

    def pools(
        self,
        blocks: Iterable[Iterable[Audio]],
        progress: Callable[[float], object] | None = None,
        pool_size: int = POOL,
    ) -> Iterator[list[Transcription]]:
        """Transcribe blocks of recordings; yield lists of transcriptions that were computed together.

        The recordings of a list share batches with no others. Which ones they are depends only on their lengths and on
        the start of their block: a run that is resumed after any list gets the same batches as one that never stopped.

        Args:
            blocks: as :meth:`stream` takes them.
            pool_size: chunks that are sorted by length together.
        """
        planned: deque[list[Clip]] = deque()

        def clips() -> Iterator[Clip]:
            for pool in self._pools(blocks, pool_size):
                planned.append(pool)
                yield from pool

        results = self.checkpoint.recognize(
            clips(),
            max_batch_seconds=self.max_batch_seconds,
            device=self.device,
            chunk_seconds=self.chunk_seconds,
            progress=progress,
            decoder=self.decoder,
            pool_size=pool_size,
        )
        together: list[Transcription] = []
        for result in results:
            together.append(_transcription(planned[0][len(together)], result))
            if len(together) == len(planned[0]):
                yield together
                planned.popleft()
                together = []

    def _pools(self, blocks: Iterable[Iterable[Audio]], pool_size: int) -> Iterator[list[Clip]]:
        """Yield lists of clips of one block whose chunks fill a pool."""
        number = 0
        for _, clips in groupby(self._clips(blocks, pool_size), key=itemgetter(0)):
            pool: list[Clip] = []
            chunks = 0.0
            for _, clip in clips:
                pool.append(replace(clip, pool=number))
                chunks += max(1.0, clip.seconds / (self.chunk_seconds * (1 - 2 * CONTEXT_SHARE)))
                if chunks >= pool_size:
                    yield pool
                    number, pool, chunks = number + 1, [], 0.0
            if pool:
                yield pool
                number += 1

    def _clips(self, blocks: Iterable[Iterable[Audio]], pool_size: int) -> Iterator[tuple[int, Clip]]:
        """Yield the block and the clip of each recording; threads read the headers of files a pool ahead."""
        ahead: deque[tuple[int, Future[Clip]]] = deque()
        threads = ThreadPoolExecutor(_HEADER_THREADS, thread_name_prefix="header")
        try:
            for number, block in enumerate(blocks):
                for audio in undecoded(block):
                    ahead.append((number, threads.submit(self._clip, audio)))
                    while len(ahead) > (pool_size if _is_file(audio) else 0):  # other kinds fill the memory
                        yield ahead[0][0], ahead.popleft()[1].result()
            while ahead:
                yield ahead[0][0], ahead.popleft()[1].result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def _clip(self, audio: Audio) -> Clip:
        recording = recording_of(audio, self.checkpoint.rate)
        return Clip(recording.audio, recording.seconds, recording.start, recording.name, recording.channel)


def _is_file(audio: object) -> bool:
    return isinstance(audio.get("audio") if isinstance(audio, Mapping) else audio, str | Path)


def _transcription(clip: Clip, result: Hypothesis | AudioError) -> Transcription:
    name, channel = clip.name, "" if clip.channel is None else name_of(clip.channel)
    if isinstance(result, AudioError):
        logger.warning("%s cannot be transcribed: %s", name or "a recording", result)
        return Transcription("", (), (), 0.0, name, str(result), channel=channel)
    if result.problem:
        logger.warning("%s is transcribed in part: %s", name or "a recording", result.problem)
    return Transcription(
        result.text,
        *result.spans(),
        result.seconds,
        name,
        result.problem,
        result.language or "",
        channel,
        confidence=result.confidence,
        word_confidences=result.word_confidences(),
        silent=result.silent,
    )
