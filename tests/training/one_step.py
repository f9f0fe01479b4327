"""One optimizer step on 16 clips under a given split of the batch, with every way to train a model of each kind.

python one_step.py CLIPS_PER_BATCH ACCUMULATION [uneven] [sharded | few], under `accelerate launch` for several
processes. It prints the losses and the norms of the gradients, of all weights and of each, as JSON by the kind, of the
kinds of `SHARDED` or `FEW` if asked.
python one_step.py differences FIRST OTHER ... prints how much files of such output differ from the first.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch.distributed.tensor import DTensor
from transformers import TrainingArguments, Wav2Vec2Config, Wav2Vec2ForCTC

from sft_speech.models.parts import train_only
from sft_speech.models.unfreezing import Unfreezing, stages_of
from sft_speech.tasks.asr.ctc.loss import CtcCriterion
from sft_speech.tasks.asr.seq2seq.checkpoint import load_checkpoint
from sft_speech.tasks.asr.seq2seq.collator import Seq2SeqCollator
from sft_speech.tasks.asr.seq2seq.loss import Seq2SeqCriterion
from sft_speech.training.plan import BatchPlan
from sft_speech.training.trainer import ExactTrainer
from sft_speech.training.utterances import weights_of

sys.path.append(str(Path(__file__).parents[1]))
import tiny_seq2seq
import tiny_tasks
from tiny_lora import adapted, randomize

# A kind of model, and what is trained of it: parts, LoRA or DoRA; "late", if some weights are trained only from a later
# step on; or "weighted", if the utterances have weights.
ASR = (
    "ctc", "ctc: head", "ctc: head, encoder.layers.1-", "ctc: norms, biases", "ctc: late", "ctc: lora", "ctc: dora",
    "ctc: weighted", "whisper", "whisper: decoder.layers.top1, encoder.norms", "whisper: late", "whisper: lora",
    "whisper: weighted", "transducer", "transducer: lora",
)  # fmt: skip
KINDS = (
    *ASR, "classification", "classification: head", "classification: late", "classification: lora",
    "synthesis", "synthesis: decoder, norms", "synthesis: lora", "conversion", "conversion: dora",
    "pretraining", "pretraining: late", "conformer_pretraining",
)  # fmt: skip
SHARDED = (*ASR, "pretraining")
# Of each model and each way to train: how the processes are started does not depend on the others.
FEW = ("ctc", "ctc: late", "ctc: weighted", "whisper", "whisper: lora", "transducer", "pretraining")
CLIPS = 16
# Half of a batch may have no weights at all, and a batch may have no weight but 0.
WEIGHTS = (0.5, 0.0, None, 2.5, None, None, 0.125, 1.0, None, None, None, None, 0.0, 0.0, 0.0, 0.0)
TEXTS = ("the", "So it is.", "Hut", "a, b, c and so on", "6 times 7", "W", "hello there", "it")
SIZES = {
    "conv_dim": (8, 8),
    "conv_stride": (10, 8),
    "conv_kernel": (20, 8),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 12,
}
STILL = dict.fromkeys(
    ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "final_dropout", "layerdrop"),
    0.0,
)


def tiny_config(**overrides) -> Wav2Vec2Config:
    fixed = {"feat_extract_norm": "layer", "apply_spec_augment": False}
    return Wav2Vec2Config(**{**SIZES, **STILL, **fixed, **overrides})


def tiny_model(**overrides) -> Wav2Vec2ForCTC:
    torch.manual_seed(0)
    return Wav2Vec2ForCTC(tiny_config(**overrides))


class Clips(torch.utils.data.Dataset):
    """Clips of noise of 0.2 to 0.5 s with random labels."""

    weighted = False

    def __init__(self, model: Wav2Vec2ForCTC) -> None:
        rng = np.random.default_rng(0)
        self.frames = model._get_feat_extract_output_lengths
        self.clips = [
            torch.from_numpy(rng.normal(size=int(n)).astype(np.float32)) for n in rng.integers(3200, 8000, CLIPS)
        ]
        self.labels = [torch.from_numpy(rng.integers(1, 12, int(n))) for n in rng.integers(3, 9, CLIPS)]
        self.seconds = [len(clip) / 16000 for clip in self.clips]

    def __len__(self) -> int:
        return CLIPS

    def __getitem__(self, key):
        utterance = {"id": str(key[1]), "clip": self.clips[key[1]], "labels": self.labels[key[1]]}
        return utterance | weight_of(key[1], self.weighted)

    def collate(self, utterances):
        clips, labels = ([utterance[name] for utterance in utterances] for name in ("clip", "labels"))
        lengths = torch.tensor([len(clip) for clip in clips])
        pad = torch.nn.utils.rnn.pad_sequence
        return {
            **weights_of(utterances),
            "input_values": pad(clips, batch_first=True),
            "attention_mask": (torch.arange(int(lengths.max())) < lengths[:, None]).long(),
            "labels": pad(labels, batch_first=True, padding_value=-100),
            "frames": self.frames(lengths),
            "seconds": lengths.sum() / 16000,
        }


class Seq2SeqClips(torch.utils.data.Dataset):
    """Clips of noise of 0.2 to 1.5 s with texts of different lengths, one in four with timestamps."""

    weighted = False

    def __init__(self, kind: str) -> None:
        torch.manual_seed(0)
        self.checkpoint = seq2seq_checkpoint(kind)
        self.collate = Seq2SeqCollator(self.checkpoint)
        rng, transcripts = np.random.default_rng(0), self.checkpoint.transcripts
        lengths = rng.integers(3200, 24000, CLIPS).tolist()
        self.utterances = []
        for number, samples in enumerate(lengths):
            times = (0.0, samples / 16000) if number % 4 == 0 and transcripts.first_timestamp is not None else None
            self.utterances.append(
                {
                    "id": str(number),
                    "waveform": rng.normal(0, 0.1, samples).astype(np.float32),
                    "prefix": transcripts.prefix("de", timestamps=times is not None),
                    "labels": transcripts.encode(TEXTS[number % len(TEXTS)], "de", times),
                }
            )
        self.seconds = [samples / 16000 for samples in lengths]

    def __len__(self) -> int:
        return CLIPS

    def __getitem__(self, key):
        return self.utterances[key[1]] | weight_of(key[1], self.weighted)


def weight_of(number: int, weighted: bool) -> dict[str, float]:
    """Return the weight of a clip, if it has one."""
    return {"weight": WEIGHTS[number]} if weighted and WEIGHTS[number] is not None else {}


def seq2seq_checkpoint(kind: str) -> Any:
    """Load a tiny recognizer as a run does."""
    with tempfile.TemporaryDirectory() as folder:
        model, processor = getattr(tiny_seq2seq, kind)(multilingual=True)
        tiny_seq2seq.randomized(model, processor.tokenizer).save_pretrained(folder)
        processor.save_pretrained(folder)
        checkpoint = load_checkpoint(folder)
    checkpoint.train_on(own_length=True)
    return checkpoint


class Utterances(torch.utils.data.Dataset):
    """Those of a tiny task."""

    def __init__(self, task: tiny_tasks.TinyTask) -> None:
        self.utterances, self.collate, self.seconds = task.utterances, task.collate, [1.0] * CLIPS

    def __len__(self) -> int:
        return CLIPS

    def __getitem__(self, key):
        return self.utterances[key[1]]


def parts(kind: str, **overrides: Any) -> tuple[Any, Any, Any]:
    """Return the model, the clips and the criterion of a kind."""
    kind, _, trained = kind.partition(": ")
    model, clips, criterion, new = whole_parts(kind, **overrides)
    clips.weighted = trained == "weighted"
    if trained in ("lora", "dora"):
        randomize(adapted(model, new, use_dora=trained == "dora"))
    elif trained not in ("", "late", "weighted"):
        train_only(model, trained.split(", "))
    return model, clips, criterion()


def late(model: Any) -> Unfreezing:
    """Return the callback that trains the lower half of the stages of a model from step 1 on."""
    stages = stages_of(model)
    return Unfreezing(model, {name: 1 for stage in stages[len(stages) // 2 :] for name in stage})


def whole_parts(kind: str, **overrides: Any) -> tuple[Any, Any, Any, tuple[str, ...]]:
    """Return a model, the clips, what makes the criterion, and the names of new weights."""
    if kind == "ctc":
        model = tiny_model(**overrides)
        return model, Clips(model), lambda: CtcCriterion(blank=0), ("lm_head.weight",)
    if kind == "whisper":
        seq2seq = Seq2SeqClips(kind)
        return seq2seq.checkpoint.model, seq2seq, lambda: Seq2SeqCriterion(**overrides), ()
    more = (tiny_config(),) if kind == "classification" else ()
    task: tiny_tasks.TinyTask = getattr(tiny_tasks, kind)(CLIPS, *more)
    return task.model, Utterances(task), task.criterion, task.new


class Split(BatchPlan):
    """A stand-in for the plan: the 16 clips in one optimizer step, dealt out evenly or not."""

    def __init__(self, seconds, size: int, batches: int, uneven: bool) -> None:
        processes = PartialState()
        world, rank = processes.num_processes, processes.process_index
        assert size * batches * world == CLIPS
        cuts = np.arange(0, CLIPS + 1, size)
        if uneven:  # every second batch hands one clip to the one before it
            cuts[1:-1:2] += 1
        pieces = [[(0, int(i)) for i in range(a, b)] for a, b in itertools.pairwise(cuts)]
        self.own = pieces[rank::world]
        super().__init__(seconds, 100.0, batches=len(self.own))

    def __iter__(self):
        return iter(self.own)

    def epoch(self, epoch: int):
        return self.own


class Watched(ExactTrainer):
    """A trainer that keeps the norm of the gradient of every weight."""

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        gradients = {name: p.grad for name, p in self.accelerator.unwrap_model(self.model).named_parameters()}
        self.norms = {
            name: (found.full_tensor() if isinstance(found, DTensor) else found).norm().item()
            for name, found in gradients.items()
            if found is not None
        }
        return super()._get_grad_norm(*args, **kwargs)


def one_step(size: int, batches: int, uneven: bool = False, kind: str = "ctc", **overrides: Any) -> dict[str, float]:
    """Take a step and return its figures."""
    return step(size, batches, uneven, kind, *parts(kind, **overrides))


def step(size: int, batches: int, uneven: bool, kind: str, model: Any, clips: Any, criterion: Any) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=1,
            gradient_accumulation_steps=batches,
            logging_steps=1,
            max_grad_norm=1e9,
            report_to=[],
            save_strategy="no",
            remove_unused_columns=False,
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Watched(
            model=model,
            args=arguments,
            train_dataset=clips,
            data_collator=clips.collate,
            criterion=criterion,
            plan=Split(clips.seconds, size, batches, uneven),
            unfreezing=late(model) if kind.endswith("late") else None,
        )
        trainer.train()
        logged = next(entry for entry in trainer.state.log_history if "loss" in entry)
    figures = {key: logged[key] for key in ("loss", "grad_norm", "blank_share", "label_accuracy") if key in logged}
    return figures | {f"gradient of {name}": norm for name, norm in trainer.norms.items()}


def difference(found: dict[str, float], whole: dict[str, float]) -> float:
    """Return the largest relative difference of figures. A gradient below a thousandth of all is taken as one.

    Weights that no loss depends on have no gradient in one process, and one of 0 in several.
    """
    only_one = found.keys() ^ whole.keys()
    assert all(key.startswith("gradient") and (found | whole)[key] == 0.0 for key in only_one), only_one
    least = {key: whole["grad_norm"] / 1000 if key.startswith("gradient") else 1e-9 for key in whole}
    return max(abs(found[key] - whole[key]) / max(abs(whole[key]), least[key]) for key in whole.keys() - only_one)


def differences(files: list[str]) -> None:
    """Print how much the output in files differs from that in the first."""
    first, *others = [json.loads(Path(file).read_text().splitlines()[-1]) for file in files]
    for kind, figures in first.items():
        found = [f"{difference(other[kind], figures):.1e}" if kind in other else "-" for other in others]
        print(f"| {kind} | {figures['loss']:.6f} | {figures['grad_norm']:.6f} | {' | '.join(found)} |")


def main(*given: str) -> None:
    kinds = SHARDED if "sharded" in given else FEW if "few" in given else KINDS
    made = {kind: parts(kind) for kind in kinds}  # before there are processes, of which only the first one saves
    result = {kind: step(int(given[0]), int(given[1]), "uneven" in given, kind, *own) for kind, own in made.items()}
    if PartialState().is_main_process:
        print(json.dumps(result))
    PartialState().destroy_process_group()


if __name__ == "__main__":
    if sys.argv[1] == "differences":
        differences(sys.argv[2:])
    else:
        main(*sys.argv[1:])
