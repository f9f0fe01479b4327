"""What became of the labels of a teacher: counts by reason, confidences, and errors if the truth is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sft_speech.metrics.words import Errors, sum_errors, word_errors
from sft_speech.tasks.asr.pseudo.filters import Judged, scoring_in
from sft_speech.text.counted import counted

KEPT = "kept"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BINS = 5  # of equally many labels


@dataclass(frozen=True)
class Outcome:
    """The labels of N recordings.

    Args:
        judged: N labels, each with the reason why it is rejected.
        seconds: N lengths of the recordings.
        texts: N transcripts that the rows had, and that were not used; "" for none.
        labelled: number of rows that were left out because they have a transcript.
        dropped: number of rows that could not be read, by reason.
    """

    judged: Sequence[Judged]
    seconds: Sequence[float]
    texts: Sequence[str]
    labelled: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)

    def groups(self) -> dict[str, list[int]]:
        """Return the places of the labels by what became of them: "kept" first, then by reason, most frequent first."""
        found: dict[str, list[int]] = {KEPT: []}
        for place, one in enumerate(self.judged):
            found.setdefault(one.why[0] if one.why else KEPT, []).append(place)
        return dict(sorted(found.items(), key=lambda item: (item[0] != KEPT, -len(item[1]))))

    def hours(self, places: Iterable[int]) -> float:
        return sum(self.seconds[place] for place in places) / 3600

    def errors(self, places: Iterable[int]) -> Errors | None:
        """Return the errors in words of some labels against the transcripts that the rows had; None without them."""
        found = []
        for place in places:
            if not self.texts[place].strip():
                continue
            label = self.judged[place].label
            scoring = scoring_in(label.language)
            reference, hypothesis = (scoring.words(scoring.reference(text)) for text in (self.texts[place], label.text))
            found += word_errors([reference], [hypothesis])
        return sum_errors(found) if found else None

    def by_confidence(self) -> list[list[int]]:
        """Return the places of the labels with text in :data:`BINS` groups, by rising confidence."""
        sure = [(one.label.confidence, place) for place, one in enumerate(self.judged)]
        places = [place for confidence, place in sorted(pair for pair in sure if pair[0] is not None)]
        return [part.tolist() for part in np.array_split(places, BINS) if len(part)]

    def to_dict(self) -> dict[str, Any]:
        """Return rows, hours, and WER against the transcripts that the rows had, by what became of the labels."""
        groups = self.groups()
        every = range(len(self.judged))
        confidences = [one.label.confidence for one in self.judged if one.label.confidence is not None]
        return {
            "rows": len(self.judged),
            "hours": self.hours(every),
            "labelled_before": self.labelled,
            "dropped": dict(self.dropped),
            **self._wer(every),
            KEPT: self._group(groups[KEPT]),
            "rejected": {reason: self._group(places) for reason, places in groups.items() if reason != KEPT},
            "confidence": {
                "quantiles": {f"{share:g}": float(np.quantile(confidences, share)) for share in QUANTILES}
                if confidences
                else {},
                "groups": [
                    {"low": self._confidence(places[0]), "high": self._confidence(places[-1]), **self._group(places)}
                    for places in self.by_confidence()
                ],
            },
        }

    def _confidence(self, place: int) -> float | None:
        return self.judged[place].label.confidence

    def _wer(self, places: Iterable[int]) -> dict[str, float]:
        errors = self.errors(places)
        return {} if errors is None else {"wer": errors.rate}

    def _group(self, places: Sequence[int]) -> dict[str, Any]:
        return {"rows": len(places), "hours": self.hours(places), **self._wer(places)}

    def table(self) -> str:
        """Return the counts as text."""
        known = any(text.strip() for text in self.texts)
        heading = f"{'label':<30} {'rows':>9} {'hours':>8} {'share':>7}" + (f" {'WER %':>7}" if known else "")
        lines = [heading]
        for reason, places in self.groups().items():
            name = reason if reason == KEPT else f"rejected: {reason}"
            lines.append(self._line(name, places, known))
        lines += [f"{f'not read: {reason}':<30} {count:>9,}" for reason, count in self.dropped.items()]
        lines += ["", "by confidence"]
        for places in self.by_confidence():
            low, high = (self._confidence(place) or 0.0 for place in (places[0], places[-1]))
            lines.append(self._line(f"{low:.3f} to {high:.3f}", places, known))
        if known:
            lines.append("WER: against the transcripts that the rows had, which were not used")
        if self.labelled:
            lines.append(f"{counted(self.labelled, 'row has', 'rows have')} a transcript and got no label")
        return "\n".join(lines)

    def picture(self) -> bytes | None:
        """Return a PNG of the WER of the labels over their confidence; None if no row had a transcript."""
        from sft_speech.hub.plots import draw

        points = []
        for places in self.by_confidence():
            errors = self.errors(places)
            if errors is not None:
                points.append((float(np.mean([self._confidence(place) or 0.0 for place in places])), 100 * errors.rate))
        if not points:
            return None
        confidences, rates = zip(*points, strict=True)
        return draw("WER of the labels, %", [("WER", confidences, list(rates))], "mean confidence of the group")

    def _line(self, name: str, places: Sequence[int], known: bool) -> str:
        share = len(places) / max(1, len(self.judged))
        line = f"{name:<30} {len(places):>9,} {self.hours(places):>8.2f} {share:>7.1%}"
        errors = self.errors(places) if known else None
        return line if errors is None else f"{line} {100 * errors.rate:>7.2f}"
