"""The models behind the page: what each kind takes, and what it answers. Nothing here needs gradio.

An answer never raises :class:`~sft_speech.errors.UserError`: the page shows its text.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sft_speech.errors import UserError
from sft_speech.tasks import task_of

if TYPE_CHECKING:
    from sft_speech.tasks.speech.generator import Speech, SpeechGenerator
    from sft_speech.tasks.tts.synthesizer import Synthesizer
    from sft_speech.tasks.vc.converter import VoiceConverter

MAX_CHARACTERS = 2000  # of a text to be spoken
SHOWN_LABELS = 10


@dataclass(frozen=True)
class Answer:
    """What the page shows for one model.

    Args:
        values: one per output of the model, in order; empty if it failed.
        note: the time that it took, and what is odd; if it failed, why.
        failed: whether the input could not be used.
    """

    values: tuple[Any, ...]
    note: str
    failed: bool = False


class Model:
    """A model of one task, loaded.

    Args:
        name: directory or id on the Hub.
        args: arguments of ``sft-speech demo``.
        folder: gets the files that are offered for download.
    """

    action: ClassVar[str]  # label of the button
    options: ClassVar[frozenset[str]] = frozenset()  # arguments that it has, besides those that all models have

    def __init__(self, name: str, args: argparse.Namespace, folder: Path) -> None:
        self.name, self.args, self.folder = name, args, folder
        self.load()

    def load(self) -> None:
        """Load the model.

        Raises:
            UserError: there is no such model, or an argument does not suit it.
        """
        raise NotImplementedError

    def compute(self, *given: Any) -> tuple[tuple[Any, ...], list[str]]:
        """Return the values of the outputs, and remarks.

        Raises:
            UserError: the input cannot be used.
        """
        raise NotImplementedError

    def answer(self, *given: Any) -> Answer:
        """Return the answer to what was entered on the page, or why there is none."""
        began = time.perf_counter()
        try:
            values, remarks = self.compute(*given)
        except UserError as error:
            # An upload is in a temporary folder, whose path means nothing to the visitor.
            shown = Path(error.given).name if error.given in given else error.given
            return Answer((), f"{shown}: {error.why}. {_sentence(error.do)}", failed=True)
        return Answer(values, "; ".join([f"{time.perf_counter() - began:.2f} s of computing", *filter(None, remarks)]))

    def seconds_of(self, recording: str | None) -> float:
        """Return the length of a recording that is worth computing.

        Raises:
            UserError: there is none; it cannot be read, is silent or too long.
        """
        from sft_speech.audio.read import AudioError, probe

        if not recording:
            raise UserError("no recording", "there is nothing to work on", "record something, or choose a file")
        try:
            header = probe(recording)
        except AudioError as error:
            raise UserError(recording, str(error), "choose a recording that can be played") from error
        if header.seconds > self.args.max_seconds:
            why = f"it is {header.seconds:.0f} s long, and this page takes at most {self.args.max_seconds:g} s"
            raise UserError(recording, why, "choose a shorter one, or start the page with a larger --max_seconds")
        if header.silent:
            raise UserError(recording, "it is silent", "check the microphone and its volume")
        return header.seconds

    def written(self, recording: str, suffix: str) -> Path:
        """Return the path of a new file for download, named after a recording."""
        return Path(tempfile.mkdtemp(dir=self.folder)) / f"{Path(recording).stem}{suffix}"


class RecognitionModel(Model):
    """A recognizer: from a recording to its text, a table of words, and subtitles."""

    action = "Transcribe"
    options = frozenset({"language", "target_lang"})

    def load(self) -> None:
        from sft_speech.tasks.asr.generation import Generation
        from sft_speech.tasks.asr.transcriber import Transcriber

        self.transcriber = Transcriber(
            self.name,
            device=self.args.device,
            allow_pickle=self.args.allow_pickle,
            generation=Generation(language=self.args.language),
            target_lang=self.args.target_lang,
        )

    def compute(self, recording: str | None) -> tuple[tuple[Any, ...], list[str]]:
        """Return the text, rows of (word, start, end, confidence), and the files of its subtitles."""
        from sft_speech.tasks.asr.subtitles import cues, srt, vtt

        self.seconds_of(recording)
        found = self.transcriber(str(recording))
        sure = found.word_confidences or (None,) * len(found.words)
        words = [
            [word.text, f"{word.start:.2f}", f"{word.end:.2f}", "" if share is None else f"{share:.0%}"]
            for word, share in zip(found.words, sure, strict=True)
        ]
        files = []
        for suffix, write in ((".srt", srt), (".vtt", vtt)) if found.words else ():
            files.append(self.written(str(recording), suffix))
            files[-1].write_text(write(cues(found.words, found.seconds)), encoding="utf-8")
        remarks = [
            f"{found.seconds:.1f} s of audio",
            f"language {found.language}" if found.language else "",
            f"confidence {found.confidence:.0%}" if found.confidence is not None else "",
            "" if found.text.strip() else "the model recognized no words",
            f"only a part could be read: {found.error}" if found.error else "",
        ]
        return (found.text, words, [str(file) for file in files] or None), remarks


class ClassificationModel(Model):
    """A classifier: from a recording to the probabilities of its labels."""

    action = "Classify"

    def load(self) -> None:
        from sft_speech.tasks.classification.classifier import Classifier

        self.classifier = Classifier(self.name, device=self.args.device, allow_pickle=self.args.allow_pickle)

    def compute(self, recording: str | None) -> tuple[tuple[Any, ...], list[str]]:
        """Return the most probable labels with their probabilities."""
        seconds = self.seconds_of(recording)
        labels = self.classifier(str(recording))
        more = f"{len(labels) - SHOWN_LABELS} labels are less probable" if len(labels) > SHOWN_LABELS else ""
        return (dict(labels[:SHOWN_LABELS]),), [f"{seconds:.1f} s of audio", more]


class SpeakingModel(Model):
    """A model that makes speech in one of its voices, or in that of a recording."""

    options = frozenset({"vocoder", "speaker", "speaker_encoder", "seed"})
    generator: SpeechGenerator

    def find_voices(self) -> None:
        """Find the voices that the page offers, and which comes first.

        Raises:
            UserError: there is none.
        """
        from sft_speech.tasks.speech.speakers import MEAN

        self.voices = sorted(self.generator.checkpoint.speakers)
        given = self.args.speaker
        if given is not None:
            self.generator.voice(given)  # raises if there is no such voice
            self.voices = [given, *(name for name in self.voices if name != given)]
        self.clones = bool(self.generator.encoder_name or self.generator.checkpoint.speakers.encoder)
        if not self.voices and not self.clones:
            do = "give --speaker EMBEDDING, or --speaker_encoder MODEL for voices from recordings"
            raise UserError(self.name, "the model has no voices", do)
        mean = given is None and MEAN in self.voices
        self.voice = MEAN if mean else next(iter(self.voices), None)

    def chosen(self, voice: str | None, reference: str | None) -> str | None:
        """Return the voice that was chosen: a recording comes before a name.

        Raises:
            UserError: it is none of those that the page offers, or the recording cannot be used.
        """
        if reference and self.clones:
            self.seconds_of(reference)
            return reference
        if voice not in self.voices:  # anything else would be a path on this machine
            raise UserError(f"voice {voice}", "the page does not offer it", "choose one from the list, or record one")
        return voice

    def made(self, speech: Speech, recording: str) -> tuple[tuple[Any, ...], list[str]]:
        """Return the sound file of some speech."""
        file = self.written(recording, ".wav")
        speech.save(file)
        return (str(file),), [f"{speech.seconds:.1f} s of speech", speech.problem]


class SynthesisModel(SpeakingModel):
    """A synthesizer: from a text and a voice to speech."""

    action = "Speak"
    generator: Synthesizer

    def load(self) -> None:
        from sft_speech.tasks.speech.arguments import generator_settings
        from sft_speech.tasks.tts.synthesizer import Synthesizer

        self.generator = Synthesizer(self.name, self.args.vocoder, **generator_settings(self.args))
        self.find_voices()

    def compute(self, text: str | None, voice: str | None, reference: str | None) -> tuple[tuple[Any, ...], list[str]]:
        """Return a sound file."""
        if not text or not text.strip():
            raise UserError("no text", "there is nothing to say", "write a sentence")
        if len(text) > MAX_CHARACTERS:
            why = f"{len(text):,} characters are more than the {MAX_CHARACTERS:,} that this page takes"
            raise UserError("the text", why, "speak it in parts, or with sft-speech synthesize")
        speech = self.generator(text, self.chosen(voice, reference))
        values, remarks = self.made(speech, "speech")
        read = " ".join(speech.normalized.split())
        return values, [*remarks, f"read as: {read}" if read != " ".join(text.split()) else ""]


class ConversionModel(SpeakingModel):
    """A voice converter: from a recording and a voice to speech."""

    action = "Convert"
    generator: VoiceConverter

    def load(self) -> None:
        from sft_speech.tasks.speech.arguments import generator_settings
        from sft_speech.tasks.vc.converter import VoiceConverter

        self.generator = VoiceConverter(self.name, self.args.vocoder, **generator_settings(self.args))
        self.find_voices()

    def compute(
        self, recording: str | None, voice: str | None, reference: str | None
    ) -> tuple[tuple[Any, ...], list[str]]:
        """Return a sound file."""
        self.seconds_of(recording)
        return self.made(self.generator(str(recording), self.chosen(voice, reference)), str(recording))


KINDS: dict[str, type[Model]] = {
    "asr": RecognitionModel,
    "classification": ClassificationModel,
    "tts": SynthesisModel,
    "vc": ConversionModel,
}


def load_models(names: Sequence[str], args: argparse.Namespace, folder: Path) -> list[Model]:
    """Load models of one task.

    Raises:
        UserError: there is no such model, their tasks differ or have no page, or an argument does not suit them.
    """
    tasks = [task_of(name) for name in names]
    for name, task in zip(names, tasks, strict=True):
        if task.name not in KINDS:
            raise UserError(name, f"a model for {task.summary} has no page", "give a model that is fine-tuned")
        if task is not tasks[0]:
            why = f"it is a model for {task.summary}, and {names[0]} is one for {tasks[0].summary}"
            raise UserError(name, why, "start a page for each")
    kind = KINDS[tasks[0].name]
    unused = frozenset().union(*(one.options for one in KINDS.values())) - kind.options
    for option in sorted(unused):
        if getattr(args, option):  # the default of each is None or 0
            raise UserError(f"--{option}", f"models for {tasks[0].summary} do not have it", "leave it out")
    return [kind(name, args, folder) for name in names]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")
