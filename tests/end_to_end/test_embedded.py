"""The embedded checkpoints: they load, are small, and the recognizer understands the synthesizer."""

from __future__ import annotations

from importlib.resources import files

import pytest
from safetensors import safe_open

from sft_speech.metrics.words import character_errors, sum_errors
from sft_speech.tasks.asr.transcriber import Transcriber
from sft_speech.tasks.tts.synthesizer import Synthesizer

ASSETS = files("sft_speech").joinpath("assets")
SAYS = ["the ship was on its way to the coast.", "nobody had seen the man before.", "it is a question of time."]


@pytest.mark.parametrize("name", ["wav2vec2-small", "speecht5-small"])
def test_they_are_small_and_in_half_precision(name):
    folder = ASSETS / name
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10e6
    with safe_open(str(folder / "model.safetensors"), "np") as weights:
        kinds = {weights.get_slice(key).get_dtype() for key in weights.keys()}  # noqa: SIM118, not a dictionary
    assert "F16" in kinds
    assert kinds <= {"F16", "I64"}


def test_the_recognizer_understands_the_synthesizer():
    """The CER is 21 %."""
    synthesizer, transcriber = Synthesizer(str(ASSETS / "speecht5-small")), Transcriber(str(ASSETS / "wav2vec2-small"))
    hypotheses = []
    for speech in synthesizer(SAYS, "plain"):
        assert speech.problem == ""
        hypotheses.append(transcriber((speech.waveform, speech.rate)).text)
    references = [text.rstrip(".").upper() for text in SAYS]
    assert sum_errors(character_errors(references, hypotheses)).rate < 0.45
