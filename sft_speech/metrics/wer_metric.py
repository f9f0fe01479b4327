"""Word and character error rate as a metric of the library ``evaluate`` that loads without the Hub.

    metric = evaluate.load(sft_speech.metrics.words.METRIC_PATH)
    metric.compute(predictions=["the cat"], references=["the cat sat"])

``evaluate`` copies this file and reads its import lines itself: one import per line, the package by its full name.
"""

# isort: skip_file

import datasets
import evaluate

from sft_speech.metrics.words import character_errors
from sft_speech.metrics.words import sum_errors
from sft_speech.metrics.words import word_errors

_DESCRIPTION = "Word and character error rate: sum of errors over sum of reference words (characters), by jiwer."
_CITATION = ""
_INPUTS = """
Args:
    predictions: hypotheses, one string per utterance.
    references: transcripts, one string per utterance, normalized the same way.
Returns:
    wer, cer: rates (1.0 is 100 %); substitutions, deletions, insertions, words: counts of words.
"""


class WordErrorRate(evaluate.Metric):
    """``compute(predictions, references)`` -> rates and counts; batches are summed, not averaged."""

    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions, references):
        words = sum_errors(word_errors(references, predictions))
        characters = sum_errors(character_errors(references, predictions))
        return {
            "wer": words.rate,
            "cer": characters.rate,
            "substitutions": words.substitutions,
            "deletions": words.deletions,
            "insertions": words.insertions,
            "words": words.reference,
        }
