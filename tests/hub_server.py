"""A Hub in memory, on loopback: the part of the HTTP interface that `huggingface_hub` uses for models.

Files of more than LARGE bytes are uploaded by LFS (batch, PUT), the others inside the commit, as on the real Hub. There
is no Xet, so clients need HF_HUB_DISABLE_XET.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

LARGE = 10_000
WRITER, READER = "hf_writerwriterwriterwriter", "hf_readerreaderreaderreader"
ID = r"(?P<id>[\w.-]+/[\w.-]+)"


@dataclass
class Repo:
    """A repository: branches hold files by path; anybody who may write counts as its owner."""

    private: bool = False
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {".gitattributes": b""}})
    commits: list[dict[str, Any]] = field(default_factory=list)

    @property
    def files(self) -> dict[str, bytes]:
        return self.branches["main"]


class Hub(ThreadingHTTPServer):
    """The server and its state; ``url`` is the value for HF_ENDPOINT.

    Attributes:
        repos: by "owner/name".
        blobs: uploaded large files, by their sha256.
        requests: "METHOD path" of every request.
        faults: called before each request with (method, path); return a function that makes it fail, or None.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.faults: list[Callable[[str, str], Callable[[Handler], None] | None]] = []

    def count(self, pattern: str) -> int:
        """Return the number of requests that match the pattern."""
        return sum(bool(re.search(pattern, request)) for request in self.requests)

    @contextmanager
    def failing(self, pattern: str, how: Callable[[Handler], None], times: int = 10**9) -> Iterator[None]:
        """Make the first ``times`` requests within the block that match the pattern fail."""
        left = [times]

        def fault(method: str, path: str) -> Callable[[Handler], None] | None:
            if left[0] and re.search(pattern, f"{method} {path}"):
                left[0] -= 1
                return how
            return None

        self.faults.append(fault)
        try:
            yield
        finally:
            self.faults.remove(fault)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore broken connections: tests break them on purpose."""


class Answer(Exception):
    """An error that is sent to the client."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        self.status, self.message, self.code = status, message, code


def cut(handler: Handler) -> None:
    """Break the connection in the middle of the request."""
    handler.rfile.read(min(4096, int(handler.headers.get("Content-Length") or 0)))
    handler.connection.close()
    raise ConnectionError


def status(number: int, echo: bool = False) -> Callable[[Handler], None]:
    """Answer with an error; with ``echo``, the message carelessly repeats the client's token."""

    def answer(handler: Handler) -> None:
        handler.body()
        message = f"sorry, {handler.headers.get('Authorization')}" if echo else "sorry"
        raise Answer(number, message)

    return answer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, content: Any, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_request(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        try:
            for fault in self.server.faults:
                if how := fault(self.command, path):
                    how(self)
            for pattern, method in ROUTES:
                if found := re.fullmatch(pattern, f"{self.command} {path}"):
                    method(self, **found.groupdict())
                    return
            raise Answer(404, f"no such route: {path}", "EntryNotFound")
        except Answer as error:
            headers = {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {})
            self.answer({"error": error.message}, error.status, **headers)
        except ConnectionError:
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    # ---- who may do what

    def user(self, write: str | None = None) -> str | None:
        """Return the name of the client; with ``write``, raise if it may not write to that owner's repositories."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("", WRITER, READER):
            raise Answer(401, "Invalid credentials in Authorization header")
        if write is not None and token == "":
            raise Answer(401, "Invalid username or password.")
        if write is not None and (token != WRITER or write != "me"):
            raise Answer(403, f"You don't have the rights to write to {write}")
        return "me" if token else None

    def repo(self, id: str, write: bool = False) -> Repo:
        user, repo = self.user(), self.server.repos.get(id)
        if repo is None or (repo.private and user is None):
            raise Answer(404 if user else 401, "Repository not found", "RepoNotFound")
        if write:
            self.user(write=id.split("/")[0])
        return repo

    def branch(self, repo: Repo, name: str) -> dict[str, bytes]:
        if name not in repo.branches and name != head(repo):
            raise Answer(404, "Revision not found", "RevisionNotFound")
        return repo.branches.get(name, repo.files)

    # ---- repositories

    def create(self) -> None:
        asked = json.loads(self.body())
        owner = asked.get("organization") or "me"
        self.user(write=owner)
        id = f"{owner}/{asked['name']}"
        found = {"url": f"{self.server.url}/{id}", "name": id}
        if id in self.server.repos:
            self.answer(found | {"error": "You already created this model repo"}, 409)
            return
        self.server.repos[id] = Repo(asked.get("visibility") == "private")
        self.answer(found)

    def auth_check(self, id: str, write: str | None) -> None:
        self.repo(id, write=bool(write))
        self.answer({})

    def info(self, id: str, rev: str | None = None) -> None:
        repo = self.repo(id)
        names = [{"rfilename": name} for name in self.branch(repo, rev or "main")]
        self.answer(
            {"id": id, "modelId": id, "sha": head(repo), "private": repo.private, "siblings": names, "tags": []}
        )

    def tree(self, id: str, rev: str) -> None:
        files = self.branch(self.repo(id), rev).items()
        self.answer([{"type": "file", "path": path, "size": len(data), "oid": git_oid(data)} for path, data in files])

    def refs(self, id: str) -> None:
        names = {"branches": "main", "converts": "refs/convert/parquet"}
        repo = self.repo(id)
        found = {kind: [name] if name in repo.branches else [] for kind, name in names.items()}
        refs = {k: [{"name": n, "ref": n, "targetCommit": head(repo)} for n in v] for k, v in found.items()}
        self.answer({"tags": [], **refs})

    def make_branch(self, id: str, rev: str) -> None:
        self.body()
        repo = self.repo(id, write=True)
        if rev in repo.branches:
            raise Answer(409, "Reference already exists")
        repo.branches[rev] = dict(repo.files)
        self.answer({})

    def validate_yaml(self) -> None:
        content = json.loads(self.body())["content"]
        try:
            data = yaml.safe_load(content.split("---\n")[1])
        except (yaml.YAMLError, IndexError) as error:
            self.answer({"errors": [{"message": str(error)}], "warnings": []}, 400)
            return
        if data.get("license", "mit") not in ("mit", "apache-2.0", "cc-by-4.0"):
            self.answer({"errors": [{"message": '"license" must be one of the known ones'}], "warnings": []}, 400)
            return
        indexed = [result["metrics"] for model in data.get("model-index", []) for result in model["results"]]
        assert all(isinstance(metric["value"], float | int) for metrics in indexed for metric in metrics)
        self.answer({"errors": [], "warnings": []})

    # ---- uploads

    def preupload(self, id: str, rev: str) -> None:
        there = self.branch(self.repo(id, write=True), rev)
        files = json.loads(self.body())["files"]
        self.answer({"files": [self.mode(file, there.get(file["path"])) for file in files]})

    def mode(self, file: dict[str, Any], there: bytes | None) -> dict[str, Any]:
        large = file["size"] > LARGE
        oid = there and (hashlib.sha256(there).hexdigest() if large else git_oid(there))
        mode = "lfs" if large else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}

    def lfs_batch(self, id: str) -> None:
        self.repo(id, write=True)
        objects = json.loads(self.body())["objects"]
        for one in objects:
            if one["oid"] not in self.server.blobs:
                one["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}"}}
        self.answer({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        data = self.body()
        if hashlib.sha256(data).hexdigest() != oid:
            raise Answer(400, "the content does not match its hash")
        self.server.blobs[oid] = data
        self.answer({})

    def commit(self, id: str, rev: str) -> None:
        """Commit all files, or none if a large file is missing."""
        repo = self.repo(id, write=True)
        lines = [json.loads(line) for line in self.body().splitlines()]
        files = dict(self.branch(repo, rev))
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.server.blobs:
                    raise Answer(400, f"LFS pointer to a file that does not exist: {value['path']}")
                files[value["path"]] = self.server.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        repo.branches[rev] = files
        repo.commits.append({"message": lines[0]["value"]["summary"], "files": sorted(files)})
        self.answer({"commitUrl": f"{self.server.url}/{id}/commit/{head(repo)}", "commitOid": head(repo)})

    # ---- downloads

    def resolve(self, id: str, rev: str, path: str) -> None:
        repo = self.repo(id)
        data = self.branch(repo, rev).get(path)
        if data is None:
            raise Answer(404, "Entry not found", "EntryNotFound")
        oid = hashlib.sha256(data).hexdigest()
        self.answer(data, X_Repo_Commit=head(repo), ETag=f'"{git_oid(data)}"', X_Linked_Etag=f'"{oid}"')


ROUTES = [
    ("POST /api/repos/create", Handler.create),
    ("POST /api/validate-yaml", Handler.validate_yaml),
    (rf"GET /api/models/{ID}/auth-check(?P<write>/write)?", Handler.auth_check),
    (rf"GET /api/(?:models|datasets)/{ID}", Handler.info),
    (rf"GET /api/(?:models|datasets)/{ID}/revision/(?P<rev>[^/]+)", Handler.info),
    (rf"GET /api/(?:models|datasets)/{ID}/tree/(?P<rev>[^/]+)", Handler.tree),
    (rf"POST /api/models/{ID}/branch/(?P<rev>[^/]+)", Handler.make_branch),
    (rf"POST /api/models/{ID}/preupload/(?P<rev>[^/]+)", Handler.preupload),
    (rf"POST /api/models/{ID}/commit/(?P<rev>[^/]+)", Handler.commit),
    (rf"POST /{ID}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    (rf"GET /api/datasets/{ID}/refs", Handler.refs),
    (r"PUT /lfs/(?P<oid>\w+)", Handler.lfs_put),
    (rf"(?:GET|HEAD) /(?:datasets/)?{ID}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", Handler.resolve),
]


def head(repo: Repo) -> str:
    """Return the hash of the newest commit."""
    return hashlib.sha1(str(len(repo.commits)).encode()).hexdigest()


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def serving() -> Iterator[Hub]:
    """Run a Hub in threads of this process."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
