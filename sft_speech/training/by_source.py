"""The training loss of each source of a mix, for the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sft_speech.training.loss import WEIGHTS, Criterion, LossOutput

KEY = "sources"  # in a batch: (B,) numbers of the sources of its B utterances


class BySource:
    """Sums the losses and counts of each source. Nothing waits for the device.

    Args:
        names: of the sources; ids of utterances begin with ``NAME/``. Without names it does nothing.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)

    def begin(
        self, batch: dict[str, Any], ids: Sequence[str], criterion: Criterion, device: torch.device
    ) -> dict[str, torch.Tensor]:
        """Note the sources of a batch in it, still on the CPU; return the counts of the sources, scalars on the device.

        Args:
            ids: of its utterances.
        """
        if not self.names or "labels" not in batch:
            return {}
        numbers = torch.tensor([self.names.index(id.partition("/")[0]) for id in ids], dtype=torch.long)
        counts = dict.fromkeys(self.names, 0.0)
        if len(numbers):  # otherwise it is only silence, because nothing could be read
            batch[KEY] = numbers
            for number in set(numbers.tolist()):
                own = batch | {key: batch[key][numbers == number] for key in ("labels", WEIGHTS) if key in batch}
                counts[self.names[number]] = criterion.count(own)
        return {f"count {name}": torch.tensor(float(count), device=device) for name, count in counts.items()}

    def taken(self, batch: dict[str, Any]) -> tuple[dict[str, Any], torch.Tensor | None]:
        """Return a batch without the sources, and the sources."""
        return {name: value for name, value in batch.items() if name != KEY}, batch.get(KEY)

    def losses(self, found: LossOutput, sources: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """Return the summed loss of each source in a batch, scalars on the device."""
        if not self.names or found.each is None:
            return {}
        sums = found.each.new_zeros(len(self.names), dtype=torch.double)
        if sources is not None:
            sums.index_add_(0, sources.to(sums.device), found.each.double())
        return {f"loss {name}": one for name, one in zip(self.names, sums, strict=True)}

    def report(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Return the loss of each source that had utterances: ``loss_NAME``."""
        return {
            f"loss_{name}": sums[f"loss {name}"] / sums[f"count {name}"]
            for name in self.names
            if f"loss {name}" in sums and sums[f"count {name}"]
        }
