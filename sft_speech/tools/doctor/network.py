"""The way to the Hub, and who one is there. A token is used, never shown."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from sft_speech.tools.doctor.finding import Finding, first_line

PATIENCE = 10.0  # seconds for an answer


def hub() -> Iterator[Finding]:
    """Name, connection, answer, token."""
    from huggingface_hub import constants, get_token

    address = constants.ENDPOINT
    if constants.HF_HUB_OFFLINE:
        do = "unset it to load models and data by their names on the Hub, and to push"
        yield Finding("note", "Hub", "HF_HUB_OFFLINE is set: only what is in its cache, and local files", do)
        return
    reached = _reach(address)
    yield reached
    if reached.level != "ok":
        return
    token = get_token()
    if token is None:
        yield Finding("note", "Hub token", "none: public models and data only, nothing can be pushed", "hf auth login")
    else:
        yield _who(address, token)


def _reach(address: str) -> Finding:
    from httpx2 import HTTPError
    from huggingface_hub import get_session

    parts = urlsplit(address)
    do = "set HTTPS_PROXY where there is one; or fetch models elsewhere, give their directories, set HF_HUB_OFFLINE=1"
    try:
        socket.getaddrinfo(parts.hostname, parts.port or 443)
    except OSError as error:
        why = f"the name {parts.hostname} is not known here ({error.strerror})"
        return Finding("note", "Hub", f"{address} can't be reached: {why}", do)
    began = time.perf_counter()
    try:
        answer = get_session().get(f"{address}/api/models?limit=1", timeout=PATIENCE)
    except (HTTPError, OSError) as error:
        return Finding("note", "Hub", f"{address} can't be reached: {first_line(error)}", do)
    took = time.perf_counter() - began
    if answer.status_code >= 500:
        return Finding("note", "Hub", f"{address} answers {answer.status_code}", "try again later")
    return Finding("ok", "Hub", f"{address} answers after {took:.2f} s")


def _who(address: str, token: str) -> Finding:
    from httpx2 import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        found = HfApi(endpoint=address).whoami(token=token)
    except HfHubHTTPError as error:
        status = error.response.status_code
        return Finding("fault", "Hub token", f"the Hub does not take it ({status})", "hf auth login, with a new token")
    except (HTTPError, OSError, ValueError) as error:
        return Finding("note", "Hub token", f"no answer ({type(error).__name__})", "try again later")
    role = found.get("auth", {}).get("accessToken", {}).get("role")
    said = f"of {found.get('name')}" + (f", role {role}" if role else "")
    if role == "read":
        return Finding("note", "Hub token", f"{said}: nothing can be pushed", "hf auth login, with one that may write")
    return Finding("ok", "Hub token", said)
