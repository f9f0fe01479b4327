"""Uploads while a run goes on. They are a convenience: none of them stops the run, whatever happens to it."""

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
from sft_speech.hub.repository import Repository, explained, hide_bars, open_repository, reason
from sft_speech.options.config import FinetuneConfig
from sft_speech.options.spec import TaskSpec

logger = logging.getLogger(__name__)

COPY = ".going-up"  # in the output directory: of the checkpoint that is being uploaded
OPTIMIZER = ("*.pt", "*.pth", "*.bin")


def opened(config: FinetuneConfig) -> Repository | None:
    """The repository that a run is uploaded to, before its first step: a wrong token is not found out after a week.

    Raises:
        UserError: it can't be written to.
    """
    if not config.push_to_hub:
        return None
    name = config.hub_model_id or Path(config.output_dir).resolve().name
    return open_repository(name, private=config.hub_private)


class RunUploads(TrainerCallback):
    """Uploads a run: where that is wished each checkpoint's model, in the background, and all of it at the end.

    While a checkpoint is on its way, the next ones are left out.

    Args:
        output: of the run.
        spec: of its task.
        strategy: see ``hub_strategy``.
    """

    def __init__(self, repository: Repository, output: Path, spec: TaskSpec, strategy: str) -> None:
        self.repository, self.output, self.spec, self.strategy = repository, output, spec, strategy
        self.thread: threading.Thread | None = None
        shutil.rmtree(output / COPY, ignore_errors=True)  # of a run that was killed
        atexit.register(shutil.rmtree, output / COPY, ignore_errors=True)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step
        if self.strategy == "end" or step >= state.max_steps:  # the end has an upload of its own
            return
        if self.thread is not None and self.thread.is_alive():
            logger.info("step %d isn't uploaded: the one before is still on its way", step)
            return
        try:
            self.copy(self.output / f"checkpoint-{step}")
        except Exception as error:  # a full disk, a file that is gone, a model in pieces (FSDP)
            logger.warning("step %d isn't uploaded (%s); training goes on", step, str(error).splitlines()[0])
            return
        # A daemon: a run that is told to stop does not wait for it, and a commit that was not finished is not seen.
        self.thread = threading.Thread(target=self.send, args=(step, list(state.log_history)), daemon=True)
        self.thread.start()

    def copy(self, checkpoint: Path) -> None:
        """Gives the files of a checkpoint a second name: the trainer may remove it before they are sent."""
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
        except Exception as error:  # of the Hub's library, httpx, xet
            why, _ = reason(error)
            logger.warning("step %d was not uploaded (%s); training goes on", step, why)
        finally:
            shutil.rmtree(copy, ignore_errors=True)

    def push_at_end(self) -> None:
        """Uploads the run, which is done and on the disk.

        Raises:
            UserError: that did not work.
        """
        if self.thread is not None and self.thread.is_alive():
            logger.info("a checkpoint is still on its way to %s", self.repository.url)
            self.thread.join()
        hide_bars()  # the trainer has brought them back
        going = files.uploads(self.output, self.spec)
        if self.strategy == "checkpoint" and (whole := files.checkpoints(self.output)):
            going += files.checkpoint_files(whole[-1], files.LAST_CHECKPOINT)
        again = f"the run is done and whole in {self.output}: `sft-speech push {self.output} {self.repository.id}`"
        with explained(f"push to {self.repository.id}", again):
            self.repository.upload(going, "End of training")
        logger.info("pushed to %s", self.repository.url)


def link_or_copy(source: str, target: str) -> None:
    """A second name for the same file; where the file system knows no such thing, a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
