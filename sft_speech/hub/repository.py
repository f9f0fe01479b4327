"""A repository on the Hub: checked before training starts, and written in whole commits."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sft_speech.errors import UserError
from sft_speech.hub.card import CARD, is_ours
from sft_speech.hub.files import Upload, is_replaced
from sft_speech.redact import redact, redact_record

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 600.0  # without an answer; the Hub's library would wait forever if the network fails silently


@dataclass(frozen=True)
class Repository:
    """A repository that this token may write to.

    Args:
        id: "owner/name".
        url: its page.
        branch: the branch that commits go to; None: the main one.
        api: the client of the Hub.
        timeout: seconds to wait for an answer.
    """

    id: str
    url: str
    branch: str | None
    api: HfApi
    timeout: float = TIMEOUT_SECONDS

    def upload(self, files: list[Upload], message: str) -> str:
        """Upload files in one commit, without sending existing content again.

        The same commit deletes files of a previous model (its shards, speakers, figures). A card in the repository
        that was written or edited by hand stays.

        Returns:
            The address of the commit.

        Raises:
            Exception: errors of the Hub's library and of the libraries that it uses; see :func:`explained`.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        set_timeout(self.timeout)
        there = self.api.list_repo_files(self.id, revision=self.branch)
        if CARD in there and self.keeps_its_card(files):
            logger.warning("%s: its card was written by hand and stays; `hf upload` replaces it", self.id)
            files = [file for file in files if file.path != CARD]
        kept = {CARD, *(file.path for file in files)}
        commit = self.api.create_commit(
            self.id,
            [
                *(CommitOperationAdd(file.path, file.source) for file in files),
                *(CommitOperationDelete(path) for path in there if is_replaced(path) and path not in kept),
            ],
            commit_message=message,
            revision=self.branch,
        )
        return str(commit.commit_url)

    def keeps_its_card(self, files: list[Upload]) -> bool:
        """Return whether a generated card would replace one that was written by hand."""
        generated = any(file.path == CARD and is_ours(file.content().decode(errors="replace")) for file in files)
        if not generated:
            return False
        there = self.api.hf_hub_download(self.id, CARD, revision=self.branch)
        return not is_ours(Path(there).read_text(encoding="utf-8", errors="replace"))


def check_name(name: str) -> None:
    """Check that a name is valid for a repository on the Hub.

    Raises:
        UserError: it is not.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(
            f"repository {name}", "this is not a valid name", "give OWNER/NAME, such as me/my-model"
        ) from error


def open_repository(
    name: str, *, private: bool = False, branch: str | None = None, timeout: float = TIMEOUT_SECONDS
) -> Repository:
    """Create a repository, or take the existing one, and check that this token may write to it.

    Args:
        name: "owner/name", or the name of a repository of the token's owner.
        private: create it private; an existing one must be private.
        branch: a branch, created if it does not exist.
        timeout: seconds to wait for an answer.

    Raises:
        UserError: an invalid name, not logged in, no permission, no connection, or public instead of private.
    """
    from huggingface_hub import HfApi

    check_name(name)
    for handler in logging.getLogger("huggingface_hub").handlers:
        handler.addFilter(redact_record)
    with explained(f"repository {name}"):
        set_timeout(timeout)
        api = HfApi()
        url = api.create_repo(name, private=True if private else None, exist_ok=True)
        api.auth_check(url.repo_id, write=True)
        if private and not api.model_info(url.repo_id).private:
            why = "it exists already and is public"
            raise UserError(f"repository {url.repo_id}", why, "make it private on the Hub, or choose another name")
        if branch is not None:
            api.create_branch(url.repo_id, branch=branch, exist_ok=True)
    return Repository(url.repo_id, str(url), branch, api, timeout)


@contextlib.contextmanager
def explained(given: str, then: str = "") -> Iterator[None]:
    """Turn any error of the Hub's library into a UserError.

    Args:
        then: what to do once the cause is fixed.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the Hub's library, httpx and xet have their own errors, and wrap each other's
        why, do = reason(error)
        raise UserError(given, why, f"{do}; {then}" if then else do) from error


def reason(error: BaseException) -> tuple[str, str]:
    """Return why the Hub refused, and what to do about it."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, UserError):
        return f"{error.given}: {error.why}", error.do
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    login = "run `hf auth login` with a token that has write permission, or set HF_TOKEN"
    if any(isinstance(one, OfflineModeIsEnabled) for one in chain):
        return "HF_HUB_OFFLINE is set", "unset it"
    answers = [getattr(one, "response", None) for one in chain]
    status = next((answer.status_code for answer in answers if answer is not None), None)
    if status == 401:
        return "there is no token" if get_token() is None else "the Hub does not know this token (401)", login
    if status == 403:
        return "this token has no write permission there (403)", login
    if status == 404:
        return "the repository does not exist, or this token may not see it (404)", "check its name and the token"
    if status == 400 or (
        status is None and isinstance(error, ValueError)
    ):  # an invalid name, or invalid metadata of a card
        return f"the Hub rejects it ({_one_line(error)})", "correct it"
    if status is not None:
        return f"the Hub answers {status} ({_one_line(error)})", "try again later"
    return f"the connection failed ({_one_line(chain[-1])})", "check the network (`sft-speech doctor`)"


def _one_line(error: BaseException) -> str:
    return " ".join(redact(str(error)).split()).rstrip(".") or type(error).__name__


def set_timeout(seconds: float) -> None:
    """Limit how long the Hub's library waits for an answer."""
    from huggingface_hub import get_session

    get_session().timeout = seconds


def hide_bars() -> None:
    """Hide the progress bars of the Hub's library: a run has its own, and they clutter a log file."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
