"""A repository on the Hub: opened before there is anything to lose, filled in whole commits."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_speech.errors import UserError
from sft_speech.hub.card import CARD, is_ours
from sft_speech.hub.files import Upload, is_replaced
from sft_speech.redact import redact, redact_record

logger = logging.getLogger(__name__)

PATIENCE = 600.0  # seconds without a sign of the Hub; its library would wait for ever where a network dies silently


@dataclass(frozen=True)
class Repository:
    """One that may be written to.

    Args:
        id: "owner/name".
        url: where people see it.
        branch: that commits go to; None: the main one.
        api: the Hub's client.
    """

    id: str
    url: str
    branch: str | None
    api: Any

    def upload(self, files: list[Upload], message: str) -> str:
        """Uploads files in one commit: whoever looks sees all of it or none. What is there already isn't sent again.

        Files of another model that lies there (its shards, voices, figures) go with the same commit; a card there that
        was written or changed by hand stays.

        Returns:
            The address of the commit.

        Raises:
            Exception: of the Hub's library and of those that it sends with; see :func:`explained`.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        be_patient()
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
        """Whether a card made by us would replace one made by people."""
        made = any(file.path == CARD and is_ours(file.content().decode(errors="replace")) for file in files)
        if not made:
            return False
        there = self.api.hf_hub_download(self.id, CARD, revision=self.branch)
        return not is_ours(Path(there).read_text(encoding="utf-8", errors="replace"))


def check_name(name: str) -> None:
    """See that the Hub could have a repository of this name.

    Raises:
        UserError: it could not.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"repository {name}", "it is no name of one", "give OWNER/NAME, as me/my-model") from error


def open_repository(name: str, *, private: bool = False, branch: str | None = None) -> Repository:
    """Makes a repository, or takes the one that is there, and sees that it may be written to.

    Args:
        name: "owner/name", or a name of one's own.
        private: a new one is private; one that is there has to be.
        branch: made where there is none of that name.

    Raises:
        UserError: no such name can be, not logged in, no right, no connection, or public where private is wished.
    """
    from huggingface_hub import HfApi

    check_name(name)
    for handler in logging.getLogger("huggingface_hub").handlers:
        handler.addFilter(redact_record)
    with explained(f"repository {name}"):
        be_patient()
        api = HfApi()
        url = api.create_repo(name, private=True if private else None, exist_ok=True)
        api.auth_check(url.repo_id, write=True)
        if private and not api.model_info(url.repo_id).private:
            why = "it is there already, and public"
            raise UserError(f"repository {url.repo_id}", why, "make it private on the Hub, or take another name")
        if branch is not None:
            api.create_branch(url.repo_id, branch=branch, exist_ok=True)
    return Repository(url.repo_id, str(url), branch, api)


@contextlib.contextmanager
def explained(given: str, then: str = "") -> Iterator[None]:
    """Turns whatever the Hub's library raises within into a UserError.

    Args:
        then: what to do once the reason is gone.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the Hub's library, httpx and xet each have their own, and wrap each other's
        why, do = reason(error)
        raise UserError(given, why, f"{do}; {then}" if then else do) from error


def reason(error: BaseException) -> tuple[str, str]:
    """Why the Hub did not do it, and what to do."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, UserError):
        return f"{error.given}: {error.why}", error.do
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    login = "`hf auth login`, or set HF_TOKEN, with a token that may write"
    if any(isinstance(one, OfflineModeIsEnabled) for one in chain):
        return "HF_HUB_OFFLINE is set", "unset it"
    answers = [getattr(one, "response", None) for one in chain]
    status = next((answer.status_code for answer in answers if answer is not None), None)
    if status == 401:
        return "no token is known here" if get_token() is None else "the Hub does not know this token (401)", login
    if status == 403:
        return "this token may not write there (403)", login
    if status == 404:
        return "there is no such repository, or it may not be seen (404)", "check the name and whose token it is"
    if status == 400 or (status is None and isinstance(error, ValueError)):  # a name, the head of a card
        return f"the Hub refuses it ({_in_a_line(error)})", "correct it"
    if status is not None:
        return f"the Hub answers {status} ({_in_a_line(error)})", "try again later"
    return f"it did not get through ({_in_a_line(chain[-1])})", "check the connection (`sft-speech doctor`)"


def _in_a_line(error: BaseException) -> str:
    return " ".join(redact(str(error)).split()).rstrip(".") or type(error).__name__


def be_patient() -> None:
    """But not for ever."""
    from huggingface_hub import get_session

    get_session().timeout = PATIENCE


def hide_bars() -> None:
    """No progress bars of the Hub's library: a run has its own, and in a file they are noise."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
