"""Computes what each run computes once, for all forks of the process that imports it: see tests/forked.py."""

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from sft_speech.text.codes import known_code

get_checkpoint_conversion_mapping("wav2vec2")
known_code("en")
