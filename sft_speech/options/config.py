"""The options of fine-tuning: a dataclass per task, checked before anything heavy is imported."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from sft_speech.errors import UserError
from sft_speech.options.keep import KEEP, SELECT, Place, check_keep, keep_places
from sft_speech.options.lora import check_lora
from sft_speech.options.mixing import check_sources, common_source, eval_places, parts_of
from sft_speech.options.settings import check_values, option
from sft_speech.options.sources import IN_MEMORY as IN_MEMORY
from sft_speech.text.codes import language_code

# Options that cannot change the model of a run.
ASIDE = frozenset(
    "output_dir run_name report_to resume_from_checkpoint evaluate_before oom_check dataloader_num_workers "
    "push_to_hub hub_model_id hub_private hub_strategy license".split()
)
REGULARIZES = re.compile(r"^(?!lora_).*_dropout$|^layerdrop$|^mask_(time|feature)_")


@dataclasses.dataclass
class FinetuneConfig:
    """Options common to all tasks, named as in ``transformers.TrainingArguments`` if it has them."""

    # The model
    model: str = option("", "checkpoint to start from: a directory or a Hub id", path=True)
    revision: str | None = option(None, "branch, tag or commit of the checkpoint on the Hub")
    allow_pickle: bool = option(False, "read pickled weights of a directory that has no safetensors", by_hand=True)
    from_scratch: bool = option(False, "keep the architecture but start from random weights, for comparison")
    train: list[str] = option(  # noqa: RUF009
        [], "parts to train, such as head, encoder.layers.8-, norms, biases or `not embeddings`; []: all of the model"
    )
    unfreeze_every_steps: int = option(
        0, "train the head first, and one layer more from the top down every so many optimizer steps; 0: all at once", 0
    )
    layerwise_lr_decay: float = option(1.0, "ratio of a layer's learning rate to that of the layer above", 0.1, 1.0)
    language: str | None = option(None, "language of the transcripts, such as 'fr'; null: the checkpoint's")

    # Adaptation
    lora_rank: int = option(
        0, "train low-rank updates (LoRA) of this rank beside frozen weights; 0: train the weights themselves", 0
    )
    lora_alpha: float | None = option(None, "LoRA: scale of the updates times the rank; null: twice the rank", 0.0)
    lora_dropout: float = option(0.0, "LoRA: dropout of the input of the updates", 0.0, 0.99)
    lora_targets: list[str] = option(  # noqa: RUF009
        [], "LoRA: linear layers, by the end of their name or a regular expression; []: all of attention, feed-forward"
    )
    use_dora: bool = option(False, "LoRA: learn the norms of the weights apart (DoRA); slower")
    use_rslora: bool = option(False, "LoRA: divide lora_alpha by the root of the rank (rsLoRA); for high ranks")
    adapter: str | None = option(
        None, "LoRA adapter of peft to continue: a directory or a Hub id; it brings its rank and its targets", path=True
    )

    # The corpora
    source: str = option("", "corpus: a folder, a manifest file or a Hub id", path=True)
    source_config: str | None = option(None, "configuration of a Hub dataset, e.g. 'clean' of openslr/librispeech_asr")
    train_split: str | None = option(None, "split to train on; join several with '+'")
    sources: list[dict[str, Any]] = option(  # noqa: RUF009
        [],
        "in place of source and train_split: tables {source, split, weight or temperature, max_hours, eval_split}",
    )
    eval_source: str | None = option(None, "corpus of eval_split and test_splits, if not source", path=True)
    eval_split: str | None = option(None, "split to evaluate during training; it selects the best checkpoint")
    test_splits: list[str] = option([], "splits to evaluate once, at the end, each on its own")  # noqa: RUF009
    keep_splits: list[dict[str, Any] | str] = option(  # noqa: RUF009
        [], "splits, or tables {source, split} of other corpora, that it should not get worse on; only reported"
    )
    audio_column: str | None = option(None, "column of the audio, if it is not recognized by its name")
    text_column: str | None = option(None, "column of the transcript, if it is not recognized by its name")
    speaker_column: str | None = option(None, "column of the speaker, if it is not recognized by its name")
    channel: Literal["left", "right", "mix"] | None = option(
        None, "channel of recordings of several, if no column `channel` names it; null: mix, but warn if they differ"
    )
    min_seconds: float = option(0.1, "shorter utterances are dropped", 0.0)
    max_seconds: float = option(
        30.0, "longer utterances are not trained on; attention costs grow with the square of the length", 0.1
    )
    max_missing_share: float = option(
        0.1, "transcripts with a larger share of characters outside the vocabulary are dropped", 0.0, 1.0
    )
    max_dropped_share: float = option(
        0.05, "a larger share of unusable utterances is an error, before and during training", 0.0, 1.0
    )

    # Batches and length
    max_batch_seconds: float | Literal["auto"] = option(
        100.0, "seconds of padded audio per batch and process; 'auto': as many as fit into memory, measured", 0.1
    )
    update_seconds: float | None = option(
        None, "seconds of audio per optimizer step over all processes; sets gradient_accumulation_steps", 0.1
    )
    gradient_accumulation_steps: int = option(1, "batches per optimizer step and process", 1)
    num_train_epochs: float = option(3.0, "passes over the training split", 0.0)
    max_steps: int = option(-1, "optimizer steps; -1: num_train_epochs decides", -1)
    early_stopping_patience: int | None = option(
        None, "stop after this many evaluations in a row without improvement; null: never", 1
    )
    seed: int = option(42, "random seed of weights, order, masks and augmentation", 0, 2**31)

    # Optimizer and schedule
    optim: Literal["adamw_torch_fused", "adamw_torch", "adafactor"] = option(
        "adamw_torch_fused", "adafactor needs less memory than AdamW"
    )
    learning_rate: float = option(3e-5, "peak learning rate", 0.0)
    lr_scheduler_type: Literal["tri_stage", "linear", "cosine", "constant_with_warmup"] = option(
        "tri_stage", "tri_stage: rise over warmup_steps, hold over hold_share, then decay exponentially"
    )
    warmup_steps: float = option(0.1, "warm-up steps; below 1: a share of the run", 0.0)
    hold_share: float = option(0.4, "share of the run at the peak (tri_stage)", 0.0, 1.0)
    final_lr_scale: float = option(0.05, "final learning rate as a share of the peak (tri_stage)", 0.0, 1.0)
    adam_beta1: float = option(0.9, "decay of AdamW's first moment", 0.0, 1.0)
    adam_beta2: float = option(0.98, "decay of AdamW's second moment", 0.0, 1.0)
    adam_epsilon: float = option(1e-8, "added to AdamW's denominator", 0.0)
    weight_decay: float = option(0.0, "decoupled; not applied to biases and norms", 0.0)
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm; 0: no clipping", 0.0)
    max_nonfinite_steps: int = option(
        10, "steps with a NaN or infinite gradient are skipped; more than this in 100 steps end the run", 0
    )

    interpolate: float | Literal["auto"] | None = option(
        None, "share of the trained weights in a mean with those at the start (WiSE-FT); auto: chosen on eval_split"
    )

    # The machine
    bf16: bool | None = option(None, "bfloat16 mixed precision; null: if the GPU supports it")
    gradient_checkpointing: bool = option(
        False, "recompute activations in the backward pass: less memory, a third slower"
    )
    dataloader_num_workers: int = option(2, "processes that load and decode audio", 0)
    oom_check: bool = option(
        True, "on a GPU, run the largest batch before step 1, to run out of memory at once or never"
    )

    # Output
    output_dir: str = option("", "directory for the model and all files of the run", path=True)
    eval_steps: float = option(
        0.1, "optimizer steps between evaluations and checkpoints; below 1: a share of the run", 1e-6
    )
    evaluate_before: bool = option(
        True, "evaluate the checkpoint before step 1 too, unless its head is new, to show what training changes"
    )
    logging_steps: int = option(10, "optimizer steps between log lines", 1)
    save_total_limit: int = option(2, "checkpoints to keep, including the best; the last one is always kept", 1)
    report_to: str = option("tensorboard", "trackers by their transformers names, joined with ','; or 'none'")
    run_name: str | None = option(None, "name of the run in the trackers")
    resume_from_checkpoint: str | None = option(
        None,
        "'auto': the last complete one in output_dir, if any; 'true': there must be one; or its directory",
        path=True,
    )
    push_to_hub: bool = option(False, "upload the model; hub_strategy says when", by_hand=True)
    hub_model_id: str | None = option(None, "repository on the Hub; null: the name of output_dir")
    hub_private: bool = option(False, "create the repository as private")
    hub_strategy: Literal["end", "every_save", "checkpoint"] = option(
        "end", "end: upload at the end; every_save: at each checkpoint too; checkpoint: with all that resuming needs"
    )
    license: str | None = option(
        None, "license id of the model on the Hub ('cc-by-4.0'); null: as in the checkpoint's card"
    )

    # How the run was started; not options.
    command_line: ClassVar[Sequence[str]] = ()
    preset: ClassVar[str | None] = None
    model_copy: ClassVar[str | None] = None
    measured_batch_seconds: ClassVar[float | None] = None

    @property
    def checkpoint(self) -> str:
        """Directory or Hub id to load the model from; for a model passed from Python, its copy."""
        return self.model_copy or self.model

    @property
    def batch_seconds(self) -> float:
        """``max_batch_seconds`` as a number: the measured one of ``auto``."""
        if self.max_batch_seconds != "auto":
            return self.max_batch_seconds
        if self.measured_batch_seconds is None:
            raise UserError("max_batch_seconds auto", "only a run measures it", "give a number")
        return self.measured_batch_seconds

    def started_by(self, command_line: Sequence[str], preset: str | None) -> None:
        """Record the command line and the YAML of the run."""
        vars(self).update(command_line=tuple(command_line), preset=preset)

    def started_with(self, model_copy: str) -> None:
        """Record the directory that the loaded model was copied to."""
        vars(self).update(model_copy=model_copy)

    def started_with_batches_of(self, seconds: float) -> None:
        """Record what ``max_batch_seconds: auto`` was measured to be."""
        vars(self).update(measured_batch_seconds=seconds)

    def __post_init__(self) -> None:
        check_values(self)
        if self.language is not None:
            self.language = language_code(self.language)
        check_sources(self)
        for key in ("model", "source", "output_dir"):
            if not getattr(self, key) and not (key == "source" and self.sources):
                raise UserError(f"no {key}", "it is required", f"set `{key}:` in the YAML or pass --{key} VALUE")
        whole = self.train_split is None and self.eval_source is None and not self.sources
        if whole and self.eval_split is not None:
            raise UserError(
                "eval_split without train_split", "the evaluation utterances would be trained on", "set both"
            )
        if self.update_seconds is not None and self.gradient_accumulation_steps != 1:
            raise UserError(
                "both update_seconds and gradient_accumulation_steps",
                "the first one sets the second",
                "remove one of them",
            )
        if self.hub_strategy != "end" and not self.push_to_hub:
            raise UserError(
                f"hub_strategy {self.hub_strategy}", "nothing is uploaded without push_to_hub", "set it too"
            )
        if self.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.license):
            raise UserError(
                f"license {self.license}", "it is not a license id of the Hub", "use one such as apache-2.0"
            )
        if self.min_seconds >= self.max_seconds:
            raise UserError(
                f"min_seconds {self.min_seconds}, max_seconds {self.max_seconds}", "no utterance is left", "swap them"
            )
        for key in ("warmup_steps", "eval_steps"):
            steps = getattr(self, key)
            if steps > 1 and steps != int(steps):
                raise UserError(f"{key}: {steps}", "it must be a whole number, or below 1 to be a share", "round it")
        self.check_schedule()
        if self.train and self.from_scratch:
            raise UserError("train and from_scratch", "frozen weights would stay random", "remove one of them")
        check_lora(self)
        if whole and self.test_splits and self.eval_split is None:
            raise UserError(
                "test_splits without train_split", "the test utterances would be trained on", "set train_split"
            )
        if self.early_stopping_patience is not None and not self.selecting:
            raise UserError("early_stopping_patience without eval_split", "nothing is evaluated", "set eval_split too")
        check_keep(self)
        if self.max_steps == 0 or (self.max_steps < 0 and self.num_train_epochs == 0):
            raise UserError("no steps", "nothing would be trained", "set max_steps or num_train_epochs above 0")

    def check_schedule(self) -> None:
        """Raise UserError if the stages of the schedule are longer than the run, as far as its length is known."""
        warmup = self.warmup_steps
        if warmup >= 1:
            warmup = warmup / self.max_steps if self.max_steps > 0 else 0.0
        hold = self.hold_share if self.lr_scheduler_type == "tri_stage" else 0.0
        if warmup + hold > 1 + 1e-9:
            given = f"warmup_steps {self.warmup_steps:g}" + (f" and hold_share {hold}" if hold else "")
            raise UserError(given, "the run is shorter", "lower them, or raise max_steps")

    @property
    def corpora(self) -> dict[str, tuple[str, str | None]]:
        """Source and split by role: those of :attr:`own_corpora`, and of ``keep_splits`` as ``keep_CORPUS_SPLIT``."""
        kept = {role: (place.source, place.split) for role, place in keep_places(self).items()}
        return self.own_corpora | kept

    @property
    def own_corpora(self) -> dict[str, tuple[str, str | None]]:
        """Source and split by role: "train", "eval", ``eval_NAME`` for those of ``sources``, and every test split under
        its own name.
        """
        other = self.held_out_source
        roles = {"train": (self.source, self.train_split)}
        if self.sources:
            roles["train"] = (" + ".join(part.name for part in parts_of(self)), None)
        if self.eval_split is not None or self.eval_source is not None:
            roles["eval"] = (other, self.eval_split)
        roles |= {role: (place.source, place.split) for role, place in eval_places(self).items()}
        # A corpus may call its test split "eval", or have only a split "train".
        taken = ("train", "eval")
        return roles | {f"test_{split}" if split in taken else split: (other, split) for split in self.test_splits}

    @property
    def held_out_source(self) -> str:
        """Corpus of ``eval_split`` and ``test_splits``: that of ``eval_source``, or else the one that is trained on."""
        return self.eval_source or self.source or common_source(self.sources)

    @property
    def selecting(self) -> list[str]:
        """Roles that select the best checkpoint: "eval", or else the evaluation splits of ``sources`` together."""
        return ["eval"] if "eval" in self.own_corpora else list(eval_places(self))

    @property
    def reported(self) -> list[str]:
        """Roles of the corpora that are evaluated at the end."""
        return [role for role in self.corpora if role != "train" and not role.startswith(SELECT)]

    def place(self, role: str) -> Place:
        """Return where the rows of a role are read from."""
        source, split = self.corpora[role]
        own = Place(source, split, self.source_config, self.columns, self.channel)
        place = (keep_places(self) | eval_places(self)).get(role, own)
        return place if role == "train" else place.without("weight")

    def title(self, role: str) -> str:
        """Return the name of a role in the names of files and in messages."""
        own = role.startswith((KEEP, SELECT)) or role in eval_places(self)
        return role if own else self.corpora[role][1] or role

    @property
    def streamed(self) -> frozenset[str]:
        """Roles of the corpora that are streamed."""
        return frozenset()

    @property
    def columns(self) -> dict[str, str | None]:
        """The columns that the options name, by role."""
        named = {"audio": self.audio_column, "text": self.text_column, "speaker": self.speaker_column}
        return {role: column for role, column in named.items() if column}


@dataclasses.dataclass
class FinetuneEncoderConfig(FinetuneConfig):
    """Options of fine-tuning a pretrained encoder of speech with a head: for recognition or classification."""

    # The model
    freeze_feature_encoder: bool = option(True, "never train the convolutions; log-mel models have none")
    freeze_encoder_steps: int = option(0, "optimizer steps at the start that train only the head", 0)

    # Regularization; null keeps the checkpoint's
    hidden_dropout: float | None = option(None, "after attention and feed-forward; null: the checkpoint's", 0.0, 1.0)
    activation_dropout: float | None = option(None, "inside feed-forward; null: the checkpoint's", 0.0, 1.0)
    attention_dropout: float | None = option(
        None, "of attention weights; above 0 attention is slower; null: the checkpoint's", 0.0, 1.0
    )
    feat_proj_dropout: float | None = option(None, "after the feature projection; null: the checkpoint's", 0.0, 1.0)
    final_dropout: float | None = option(None, "before the head; null: the checkpoint's", 0.0, 1.0)
    layerdrop: float | None = option(None, "share of layers skipped in a step; null: the checkpoint's", 0.0, 1.0)
    mask_time_prob: float | None = option(
        None, "SpecAugment: masked share of frames, before overlaps; null: the checkpoint's", 0.0, 1.0
    )
    mask_time_length: int | None = option(None, "SpecAugment: frames per mask; null: the checkpoint's", 1)
    mask_feature_prob: float | None = option(
        None, "SpecAugment: masked share of channels, before overlaps; null: the checkpoint's", 0.0, 1.0
    )
    mask_feature_length: int | None = option(None, "SpecAugment: channels per mask; null: the checkpoint's", 1)
    augment: bool = option(False, "vary speed, spectrum, room and noise of the training utterances")

    @property
    def regularization(self) -> dict[str, float | None]:
        """Dropouts and masks by their names in the model's configuration; None keeps the checkpoint's value."""
        names = [field.name for field in dataclasses.fields(FinetuneEncoderConfig)]
        return {name: getattr(self, name) for name in names if REGULARIZES.search(name)}
