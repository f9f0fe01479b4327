"""Checks of the connection to the Hub and of the token, which is never printed."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from sft_speech.errors import first_line
from sft_speech.tools.doctor.finding import Finding

TIMEOUT_SECONDS = 10.0


def hub() -> Iterator[Finding]:
    """Check name resolution, the connection, the response and the token."""
    from huggingface_hub import constants, get_token

    address = constants.ENDPOINT
    if constants.HF_HUB_OFFLINE:
        do = "unset it to load models and data from the Hub, and to push"
        yield Finding("note", "Hub", "HF_HUB_OFFLINE is set: only the cache and local files are used", do)
        return
    reached = _reach(address)
    yield reached
    if reached.level != "ok":
        return
    token = get_token()
    if token is None:
        yield Finding("note", "Hub token", "none: public models and data only, and no push", "hf auth login")
    else:
        yield _owner(address, token)


def _reach(address: str) -> Finding:
    from httpx2 import HTTPError
    from huggingface_hub import get_session

    parts = urlsplit(address)
    do = "set HTTPS_PROXY if you need one; or copy models here, pass their directories and set HF_HUB_OFFLINE=1"
    try:
        socket.getaddrinfo(parts.hostname, parts.port or 443)
    except OSError as error:
        why = f"the name {parts.hostname} cannot be resolved ({error.strerror})"
        return Finding("note", "Hub", f"{address} cannot be reached: {why}", do)
    began = time.perf_counter()
    try:
        answer = get_session().get(f"{address}/api/models?limit=1", timeout=TIMEOUT_SECONDS)
    except (HTTPError, OSError) as error:
        return Finding("note", "Hub", f"{address} cannot be reached: {first_line(error)}", do)
    took = time.perf_counter() - began
    if answer.status_code >= 500:
        return Finding("note", "Hub", f"{address} answers {answer.status_code}", "try again later")
    return Finding("ok", "Hub", f"{address} answers after {took:.2f} s")


def _owner(address: str, token: str) -> Finding:
    from httpx2 import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        found = HfApi(endpoint=address).whoami(token=token)
    except HfHubHTTPError as error:
        status = error.response.status_code
        return Finding("fault", "Hub token", f"the Hub rejects it ({status})", "hf auth login, with a new token")
    except (HTTPError, OSError, ValueError) as error:
        return Finding("note", "Hub token", f"no answer ({type(error).__name__})", "try again later")
    role = found.get("auth", {}).get("accessToken", {}).get("role")
    owner = f"of {found.get('name')}" + (f", role {role}" if role else "")
    do = "hf auth login, with a token that has write permission"
    return Finding("note", "Hub token", f"{owner}: it cannot push", do).unless(role != "read", owner)
