"""A toy task, in one file and one line of ``tasks.TASKS``: the loudness of a recording, from the energies of bands."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from sft_speech.audio.read import read
from sft_speech.options.config import FinetuneConfig
from sft_speech.options.settings import option
from sft_speech.options.spec import Card, Metric, TaskSpec
from sft_speech.tasks import TASKS
from sft_speech.training.loss import LossOutput
from sft_speech.training.rows import StoredRows
from sft_speech.training.task import Task

RATE, BANDS = 16_000, 8


class ForLoudness(PreTrainedModel):
    config_class = PreTrainedConfig

    def __init__(self, config):
        super().__init__(config)
        self.head = torch.nn.Linear(BANDS, 1)
        self.post_init()

    def forward(self, bands):
        return self.head(bands)[:, 0]


class Criterion:
    def count(self, batch):
        return len(batch["loudness"])

    def loss(self, model, batch):
        error = model(batch["bands"]) - batch["loudness"]
        return LossOutput(error.square().sum(), {"error": error.abs().sum(), "seconds": batch["seconds"]})

    def report(self, sums):
        return {"mean_error": sums["error"]}


@dataclasses.dataclass
class ToyConfig(FinetuneConfig):
    tolerance: float = option(10.0, "an estimate within so many dB is close", 0.0)


class Utterances(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __getitem__(self, key):
        row = self.rows[key[1]]
        waveform = read(row["audio"], RATE)
        bands = [np.log(np.abs(band).mean()) for band in np.array_split(np.fft.rfft(waveform), BANDS)]
        loudness = 10 * np.log10(np.square(waveform).mean())
        return {"id": row["id"], "bands": bands, "loudness": loudness, "seconds": row["seconds"]}


def collate(utterances):
    columns = {name: [one[name] for one in utterances] for name in ("bands", "loudness", "seconds")}
    tensors = {name: torch.tensor(np.array(values), dtype=torch.float32) for name, values in columns.items()}
    return tensors | {"seconds": tensors["seconds"].sum()}


class Evaluation:
    def __init__(self, errors, tolerance):
        self.figures = {"loss": float(np.square(errors).mean()), "close": float((errors <= tolerance).mean())}
        self.metrics = lambda: self.figures

    def table(self):
        return str(self.figures)

    def save(self, folder, split):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{split}.json").write_text(json.dumps(self.figures))


class Toy(Task[ToyConfig]):
    metric = "close"

    def load(self, rows):
        self.model, self.criterion = ForLoudness(PreTrainedConfig()), Criterion()

    def usable(self, name, rows, report):
        return StoredRows(rows.table.filter(lambda row: row["seconds"] <= self.config.max_seconds))

    def dataset(self, rows):
        return Utterances(rows.table)

    def collator(self):
        return collate

    def evaluate(self, rows):
        data = Utterances(rows)
        batch = collate([data[(0, index)] for index in range(len(rows))])
        with torch.inference_mode():
            errors = (self.model(batch["bands"]) - batch["loudness"]).abs().numpy()
        return Evaluation(errors, self.config.tolerance)

    def save(self, folder, weights=None):
        self.model.save_pretrained(folder, state_dict=weights)

    def save_processor(self, folder):
        """There is none."""

    def usage_hint(self, output):
        return f"{output} knows how loud it was"


CARD = Card("other", ("loudness",), "print(NAME)", "square dB")
METRICS = (Metric("close", "close %", best="max", scale=100, indexed=True, curve=True), Metric("loss", "square dB"))
SPEC = TaskSpec("toy", "loudness estimation", ToyConfig, Toy, METRICS, ("ForLoudness",), CARD)
TASKS["toy"] = __name__  # the one registration
