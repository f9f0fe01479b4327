"""Uploads during a run, whose failures never stop the run."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import threading
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from sft_speech.hub import files
from sft_speech.hub.card import Run, card_files
from sft_speech.hub.repository import Repository, explained, open_repository, reason
from sft_speech.options.config import FinetuneConfig
from sft_speech.options.spec import TaskSpec

logger = logging.getLogger(__name__)

COPY = ".going-up"  # folder in the output directory with the checkpoint that is being uploaded
OPTIMIZER = ("*.pt", "*.pth", "*.bin")


def opened(config: FinetuneConfig) -> Repository | None:
    """Open the repository of a run before its first step, so that a wrong token is found at once.

    Raises:
        UserError: the repository cannot be written.
    """
    if not config.push_to_hub:
        return None
    name = config.hub_model_id or Path(config.output_dir).resolve().name
    return open_repository(name, private=config.hub_private)


class RunUploads(TrainerCallback):
    """Uploads the whole run at its end and, optionally, the model of each checkpoint in the background.

    While one checkpoint is being uploaded, the next ones are skipped.

    Args:
        repository: the repository to write.
        output: output directory of the run.
        spec: description of its task.
        strategy: see ``hub_strategy``.
    """

    def __init__(self, repository: Repository, output: Path, spec: TaskSpec, strategy: str) -> None:
        self.repository, self.output, self.spec, self.strategy = repository, output, spec, strategy
        self.thread: threading.Thread | None = None
        shutil.rmtree(output / COPY, ignore_errors=True)  # left by a run that was killed
        atexit.register(shutil.rmtree, output / COPY, ignore_errors=True)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step
        if self.strategy == "end" or step >= state.max_steps:  # the end of training has its own upload
            return
        if self.thread is not None and self.thread.is_alive():
            logger.info("step %d is not uploaded: the previous upload is still running", step)
            return
        try:
            self.copy(self.output / f"checkpoint-{step}")
        except Exception as error:  # a full disk, a missing file, a sharded model (FSDP)
            logger.warning("step %d is not uploaded (%s); training continues", step, str(error).splitlines()[0])
            return
        # A daemon: a run that is stopped does not wait for it, and an unfinished commit is never visible.
        self.thread = threading.Thread(target=self.send, args=(step, list(state.log_history)), daemon=True)
        self.thread.start()

    def copy(self, checkpoint: Path) -> None:
        """Link the files of a checkpoint into another folder: the trainer may remove them before they are sent."""
        files.check_weights(checkpoint)
        shutil.rmtree(self.output / COPY, ignore_errors=True)
        left_out = shutil.ignore_patterns(*(() if self.strategy == "checkpoint" else OPTIMIZER))
        shutil.copytree(checkpoint, self.output / COPY, ignore=left_out, copy_function=link_or_copy)

    def send(self, step: int, log: list[dict[str, Any]]) -> None:
        copy = self.output / COPY
        try:
            card = card_files(Run(self.output, self.spec, copy, log), self.repository.id)
            going = [*files.model_files(copy), *(files.Upload(name, content) for name, content in card.items())]
            if self.strategy == "checkpoint":
                going += files.checkpoint_files(copy, files.LAST_CHECKPOINT)
            self.repository.upload(going, f"Training, step {step}")
        except Exception as error:  # errors of the Hub's library, httpx, xet
            why, _ = reason(error)
            logger.warning("step %d was not uploaded (%s); training continues", step, why)
        finally:
            shutil.rmtree(copy, ignore_errors=True)

    def push_at_end(self) -> None:
        """Upload the finished run.

        Raises:
            UserError: the upload failed.
        """
        if self.thread is not None and self.thread.is_alive():
            logger.info("waiting for the upload of a checkpoint to %s", self.repository.url)
            self.thread.join()
        going = files.uploads(self.output, self.spec)
        if self.strategy == "checkpoint" and (whole := files.checkpoints(self.output)):
            going += files.checkpoint_files(whole[-1], files.LAST_CHECKPOINT)
        again = f"the run is complete in {self.output}: `sft-speech push {self.output} {self.repository.id}`"
        with explained(f"push to {self.repository.id}", again):
            self.repository.upload(going, "End of training")
        logger.info("pushed to %s", self.repository.url)


def link_or_copy(source: str, target: str) -> None:
    """Hard-link a file, or copy it if the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
