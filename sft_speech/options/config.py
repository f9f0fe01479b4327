"""What decides a fine-tuning run: one dataclass per kind of run, its combinations checked before anything heavy is
imported.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import ClassVar, Literal

from sft_speech.errors import UserError
from sft_speech.options.settings import check_values, option


@dataclasses.dataclass
class FinetuneConfig:
    """What decides any fine-tuning run; keys are named as in ``TrainingArguments`` where it has them."""

    # What is trained
    model: str = option("", "checkpoint to start from: a directory or a Hub id")
    revision: str | None = option(None, "branch, tag or commit of the checkpoint on the Hub")
    allow_pickle: bool = option(False, "read the pickled weights of a directory that has no safetensors", by_hand=True)
    from_scratch: bool = option(False, "keep the architecture, throw the weights away (to see what they are worth)")
    language: str | None = option(None, "of the transcripts, as num2words names it ('fr'), for their numbers; null: en")

    # What it is trained on
    source: str = option("", "corpus: a folder, a manifest file or a Hub id")
    source_config: str | None = option(None, "configuration of a Hub dataset, as 'clean' of openslr/librispeech_asr")
    train_split: str | None = option(None, "split to train on; several are joined by '+'")
    eval_source: str | None = option(None, "corpus of eval_split and test_splits, where it is another one")
    eval_split: str | None = option(None, "split that is evaluated during training and picks the best checkpoint")
    test_splits: list[str] = option([], "splits evaluated once, at the end, each for itself")  # noqa: RUF009
    audio_column: str | None = option(None, "column of the audio, where it has another name")
    text_column: str | None = option(None, "column of the transcript, where it has another name")
    speaker_column: str | None = option(None, "column of the speaker, where it has another name")
    min_seconds: float = option(0.1, "shorter utterances are dropped", 0.0)
    max_seconds: float = option(30.0, "longer utterances are dropped from training; attention costs their square", 0.1)
    max_missing_share: float = option(
        0.1, "transcripts that lose more of their characters to the vocabulary are dropped", 0.0, 1.0
    )
    max_dropped_share: float = option(
        0.05, "more unusable utterances than this are an error, before the run and while it goes on", 0.0, 1.0
    )

    # How much at once, and how long
    max_batch_seconds: float = option(
        100.0, "padded audio in one batch of one process: raise it until memory is full", 0.1
    )
    update_seconds: float | None = option(
        None, "audio per optimizer step over all processes; sets the accumulation", 0.1
    )
    gradient_accumulation_steps: int = option(1, "batches per optimizer step and process", 1)
    num_train_epochs: float = option(3.0, "passes over the training split", 0.0)
    max_steps: int = option(-1, "optimizer steps; -1 leaves it to num_train_epochs", -1)
    seed: int = option(42, "of weights, order, masks and augmentation", 0, 2**31)

    # Optimizer and schedule
    learning_rate: float = option(3e-5, "at its peak", 0.0)
    lr_scheduler_type: Literal["tri_stage", "linear", "cosine", "constant_with_warmup"] = option(
        "tri_stage", "tri_stage: up over warmup_steps, level over hold_share, then down exponentially"
    )
    warmup_steps: float = option(0.1, "steps of warm-up, or their share of the run when below 1", 0.0)
    hold_share: float = option(0.4, "share of the run at the peak (tri_stage)", 0.0, 1.0)
    final_lr_scale: float = option(0.05, "last over peak learning rate (tri_stage)", 0.0, 1.0)
    adam_beta1: float = option(0.9, "first moment", 0.0, 1.0)
    adam_beta2: float = option(0.98, "second moment", 0.0, 1.0)
    adam_epsilon: float = option(1e-8, "of the denominator", 0.0)
    weight_decay: float = option(0.0, "decoupled; not on biases and norms", 0.0)
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm; 0 leaves them", 0.0)
    max_nonfinite_steps: int = option(
        10, "steps whose gradient is NaN or infinite are left out; more of them among 100 end the run", 0
    )

    # The machine
    bf16: bool | None = option(None, "mixed precision; null takes it where the GPU has it")
    activation_checkpointing: bool = option(
        False, "recompute activations in the backward pass: less memory, a third slower"
    )
    dataloader_num_workers: int = option(2, "processes that decode audio ahead", 0)
    oom_check: bool = option(
        True, "on a GPU, run the most expensive batch once before step 1, so that memory runs short at once or never"
    )

    # What is kept and said
    output_dir: str = option("", "directory of the model and everything about the run")
    eval_steps: float = option(
        0.1, "optimizer steps between evaluations and checkpoints, or their share of the run when below 1", 1e-6
    )
    logging_steps: int = option(10, "optimizer steps between two lines of the log", 1)
    save_total_limit: int = option(2, "checkpoints kept, the best one among them; the last one in any case", 1)
    report_to: str = option("tensorboard", "trackers, joined by ',', as transformers names them; 'none' for none")
    run_name: str | None = option(None, "name of the run in the trackers")
    resume_from_checkpoint: str | None = option(
        None, "'auto': the last whole one in output_dir, else from the start; 'true' insists on one; or a directory"
    )
    push_to_hub: bool = option(False, "upload the model; hub_strategy tells when", by_hand=True)
    hub_model_id: str | None = option(None, "repository on the Hub; the name of output_dir when absent")
    hub_private: bool = option(False, "make the repository a private one")
    hub_strategy: Literal["end", "every_save", "checkpoint"] = option(
        "end", "when to upload: end; every_save: the model at each checkpoint too; checkpoint: and what resuming takes"
    )
    license: str | None = option(
        None, "of the model, as the Hub names it ('cc-by-4.0'); null: that which the card of the checkpoint tells"
    )

    # How the run was started. These are not options.
    command_line: ClassVar[Sequence[str]] = ()
    preset: ClassVar[str | None] = None

    def started_by(self, command_line: Sequence[str], preset: str | None) -> None:
        """Record the command line and the YAML of the run."""
        vars(self).update(command_line=tuple(command_line), preset=preset)

    def __post_init__(self) -> None:
        check_values(self)
        for key in ("model", "source", "output_dir"):
            if not getattr(self, key):
                raise UserError(
                    f"no {key}", "a run can't do without it", f"set `{key}:` in the YAML or pass --{key} VALUE"
                )
        if self.train_split is None and self.eval_split is not None and self.eval_source is None:
            raise UserError(
                "eval_split without train_split", "the training utterances would contain it", "name both splits"
            )
        if self.update_seconds is not None and self.gradient_accumulation_steps != 1:
            raise UserError(
                "both update_seconds and gradient_accumulation_steps",
                "the first decides the second",
                "keep one of them",
            )
        if self.hub_strategy != "end" and not self.push_to_hub:
            raise UserError(f"hub_strategy {self.hub_strategy}", "nothing is uploaded", "set push_to_hub as well")
        if self.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.license):
            raise UserError(
                f"license {self.license}", "the Hub's names of licences are others", "give one such as apache-2.0"
            )
        if self.min_seconds >= self.max_seconds:
            raise UserError(
                f"min_seconds {self.min_seconds}, max_seconds {self.max_seconds}", "no utterance fits", "swap them"
            )
        for key in ("warmup_steps", "eval_steps"):
            steps = getattr(self, key)
            if steps > 1 and steps != int(steps):
                raise UserError(f"{key}: {steps}", "neither a share nor a number of steps", "round it")
        self.check_schedule()
        if self.test_splits and self.eval_split is None and self.eval_source is None and self.train_split is None:
            raise UserError(
                "test_splits without train_split", "the training utterances would contain them", "name train_split"
            )
        if self.max_steps == 0 or (self.max_steps < 0 and self.num_train_epochs == 0):
            raise UserError(
                "a run of no steps", "nothing would be trained", "set max_steps or num_train_epochs above 0"
            )

    def check_schedule(self) -> None:
        """Stages of the learning rate that are longer than the run, as far as the run's length is known by now."""
        warmup = self.warmup_steps
        if warmup >= 1:
            warmup = warmup / self.max_steps if self.max_steps > 0 else 0.0
        hold = self.hold_share if self.lr_scheduler_type == "tri_stage" else 0.0
        if warmup + hold > 1 + 1e-9:
            given = f"warmup_steps {self.warmup_steps:g}" + (f" and hold_share {hold}" if hold else "")
            raise UserError(given, "longer than the run", "lower them, or raise max_steps")

    @property
    def corpora(self) -> dict[str, tuple[str, str | None]]:
        """Source and split by their role in the run: "train", "eval", and every test split under its own name."""
        other = self.eval_source or self.source
        roles = {"train": (self.source, self.train_split)}
        if self.eval_split is not None or self.eval_source is not None:
            roles["eval"] = (other, self.eval_split)
        # A corpus may well call its test split "eval", or have nothing but a "train".
        taken = ("train", "eval")
        return roles | {f"test_{split}" if split in taken else split: (other, split) for split in self.test_splits}

    @property
    def streamed(self) -> frozenset[str]:
        """Roles of the corpora that are read while they are used."""
        return frozenset()

    @property
    def columns(self) -> dict[str, str | None]:
        """Corpus column by its role, of those that were named."""
        named = {"audio": self.audio_column, "text": self.text_column, "speaker": self.speaker_column}
        return {role: column for role, column in named.items() if column}


@dataclasses.dataclass
class FinetuneAsrConfig(FinetuneConfig):
    """Everything that decides the fine-tuning of a CTC model."""

    # What it is trained on
    streaming: bool = option(
        False, "read the training split from the Hub while it is trained on, none of it kept on disk; needs max_steps"
    )

    # What is trained
    trust_remote_code: bool = option(False, "run code that comes with the checkpoint", by_hand=True)
    new_vocabulary: bool = option(False, "build the vocabulary from the transcripts although the checkpoint has one")
    target_lang: str | None = option(None, "adapter of a checkpoint for many languages (MMS), as 'fra'")
    freeze_feature_encoder: bool = option(True, "never train the convolutions (with log-mel models: nothing)")
    freeze_encoder_steps: int = option(0, "optimizer steps during which only the head is trained", 0)
    layerwise_lr_decay: float = option(1.0, "learning rate of a layer over that of the layer above it", 0.1, 1.0)
    metric_for_best_model: Literal["wer", "cer", "loss"] = option("wer", "what picks the best checkpoint")

    # Regularization
    hidden_dropout: float = option(0.0, "after attention and feed-forward", 0.0, 1.0)
    activation_dropout: float = option(0.0, "inside feed-forward", 0.0, 1.0)
    attention_dropout: float = option(0.0, "of attention weights; above 0 attention leaves its fast path", 0.0, 1.0)
    feat_proj_dropout: float = option(0.0, "after the feature projection", 0.0, 1.0)
    final_dropout: float = option(0.0, "before the head", 0.0, 1.0)
    layerdrop: float = option(0.0, "share of layers skipped in a step", 0.0, 1.0)
    mask_time_prob: float = option(0.05, "SpecAugment: share of frames under masks, spans may overlap", 0.0, 1.0)
    mask_time_length: int = option(10, "frames per mask", 1)
    mask_feature_prob: float = option(0.0, "SpecAugment: share of channels under masks, spans may overlap", 0.0, 1.0)
    mask_feature_length: int = option(10, "channels per mask", 1)
    augment: bool = option(False, "change speed, spectrum, room and noise of training utterances")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.streaming and self.max_steps < 0:
            raise UserError("streaming without max_steps", "the length of a stream isn't known", "set max_steps")

    @property
    def streamed(self) -> frozenset[str]:
        return frozenset({"train"}) if self.streaming else frozenset()


@dataclasses.dataclass
class FinetuneSpeechConfig(FinetuneConfig):
    """What decides the fine-tuning of any SpeechT5 that makes speech."""

    learning_rate: float = option(1e-5, "at its peak", 0.0)
    max_seconds: float = option(20.0, "longer utterances are dropped; so are those beyond the model's positions", 0.1)
    speaker_encoder: str | None = option(
        None, "x-vector model that makes speaker embeddings; null: statistics of the spectrum, which need no model"
    )
    vocoder: str | None = option(None, "SpeechT5HifiGan that the samples are heard through; null: Griffin-Lim")
    trim_db: float | None = option(
        40.0, "silence at both ends, so many dB below the loudest part, is cut off; null: kept", 10.0, 120.0
    )
    samples: int = option(2, "utterances of the evaluation split that are spoken after each evaluation", 0, 20)


@dataclasses.dataclass
class FinetuneTtsConfig(FinetuneSpeechConfig):
    """Everything that decides the fine-tuning of a SpeechT5 that speaks texts."""

    new_characters: bool = option(False, "add letters of the transcripts that the tokenizer lacks: a new language")


@dataclasses.dataclass
class FinetuneVcConfig(FinetuneSpeechConfig):
    """Everything that decides the fine-tuning of a SpeechT5 that converts voices."""

    from_source: str | None = option(
        None, "corpus of the recordings to convert; those of `source` are what they become; null: both in one table"
    )
    from_config: str | None = option(None, "configuration of from_source, where that is a Hub dataset")
    from_split: str | None = option(None, "split of from_source; null: all of it")
    pair_by: Literal["id", "text"] = option("id", "what recordings of a pair have in common")

    def __post_init__(self) -> None:
        super().__post_init__()
        given = {
            "from_split": self.from_split,
            "from_config": self.from_config,
            "pair_by: text": self.pair_by == "text",
        }
        if self.from_source is None and any(given.values()):
            key = next(key for key, value in given.items() if value)
            raise UserError(key, "there is no from_source", "name the corpus of the recordings to convert")

    @property
    def columns(self) -> dict[str, str | None]:
        """Transcripts are not needed, but to pair by; in a table of pairs, a pair is known by what is converted."""
        known = super().columns if self.pair_by == "text" else {"text": None, **super().columns}
        return known if self.from_source is not None else {**known, "id": "source_audio"}

    @property
    def from_columns(self) -> dict[str, str | None]:
        """Those of the recordings to convert."""
        return self.columns if self.from_source is not None else {**self.columns, "audio": "source_audio"}
