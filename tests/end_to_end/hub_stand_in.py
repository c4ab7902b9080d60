"""A stand-in for the Hub on this machine: what `datasets.load_dataset("user/name")` reads from it, over real HTTP.

    hub = HubStandIn({("dataset", "user/name"): Repository({"data/train.parquet": b"..."})})
    with serve(hub):
        subprocess.run(command, env=os.environ | hub.environment)

A refusal is the Hub's: a status and an `X-Error-Code`, by which the client tells a wrong name from a missing token. An
endpoint is a function from a request to an answer, and a row of `ROUTES`; those that write are in hub_uploads.py. One
that raises ConnectionError breaks the connection off.
Test files cannot import this under pytest's importlib mode: they load it by its path.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_stand_in"  # its user may see and read everything
READER = "hf_stand_in_reader"  # of the same user, but nothing can be written with it
LARGE = (".bin", ".npy", ".parquet", ".pth", ".safetensors", ".tar")  # kept by git LFS, under another hash


@dataclass
class Repository:
    """`files` are those of main. Without the token nobody reads what is gated, nor sees what is private.

    `branches`: the others; `tags`: the commit of each; `history`: the files of all commits that uploads have made, in
    order. A commit is called by what it holds.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    access: Literal["public", "gated", "private"] = "public"
    branches: dict[str, dict[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    history: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        """Of main: another one whenever a file changes."""
        return commit_of(self.files)

    def at(self, revision: str | None) -> dict[str, bytes] | None:
        """The files of a branch, tag or commit; None where there is none of that name."""
        if revision in (None, "main", self.commit):
            return self.files
        assert revision is not None
        found = self.branches.get(revision)
        return self.history.get(self.tags.get(revision, revision)) if found is None else found


@dataclass
class Request:
    """`parts` are the named groups of the route."""

    parts: dict[str, str | None]
    query: dict[str, list[str]]
    headers: Message
    body: bytes


@dataclass
class Answer:
    """What is sent back; the length is added."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class HubStandIn:
    """Repositories by kind (dataset, model, space) and id; `log` holds what was asked, as `GET /path 200`."""

    repositories: dict[tuple[str, str], Repository]
    routes: list["Route"] = field(default_factory=lambda: list(ROUTES))
    log: list[str] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)  # of the next PUTs: bytes until the connection breaks
    address: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """Variables that make the libraries ask here, and nobody else; HF_HOME and HF_TOKEN are left to the caller."""
        quiet = {"HF_UPDATE_DOWNLOAD_COUNTS": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
        return {"HF_ENDPOINT": self.address, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", **quiet}


Route = tuple[str, str, Callable[[HubStandIn, Request], Answer]]
"""Method, pattern of the path, endpoint."""


class RefusalError(Exception):
    """Raised by an endpoint; the client raises its own by this code."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.answer = Answer(status, headers={"X-Error-Code": code})


def find(hub: HubStandIn, request: Request, content: bool = False) -> Repository:
    """The repository that a request names, with the files of the revision that it names: if it may be seen, and its
    content read if that is asked for.

    Raises RefusalError.
    """
    known = "Authorization" in request.headers
    repository = hub.repositories.get((request.parts["kind"] or "model", request.parts["id"] or ""))
    if repository is None or (repository.access == "private" and not known):
        raise RefusalError(404 if known else 401, "RepoNotFound")  # to a stranger both look the same
    if repository.access == "gated" and content and not known:
        raise RefusalError(401, "GatedRepo")
    files = repository.at(request.parts.get("revision"))
    if files is None:
        raise RefusalError(404, "RevisionNotFound")
    return repository if files is repository.files else replace(repository, files=files)


def info(hub: HubStandIn, request: Request) -> Answer:
    """`HfApi.dataset_info`: anyone may know of a gated repository what it holds."""
    repository = find(hub, request)
    files = [{"rfilename": name} for name in sorted(repository.files)]
    access = {"private": repository.access == "private", "gated": repository.access == "gated"}
    return json_answer({"id": request.parts["id"], "sha": repository.commit, "tags": [], "siblings": files, **access})


def tree(hub: HubStandIn, request: Request) -> Answer:
    """`HfApi.list_repo_tree`, in one page: what is in a folder, or with `recursive` all that is below it."""
    repository = find(hub, request)
    folder = f"{request.parts['path']}/" if request.parts["path"] else ""
    below = [name.removeprefix(folder) for name in repository.files if name.startswith(folder)]
    if folder and not below:
        raise RefusalError(404, "EntryNotFound")
    paths = {"/".join(name.split("/")[:depth]) for name in below for depth in range(1, name.count("/") + 2)}
    deep = request.query.get("recursive") == ["true"]
    return json_answer([_entry(repository, folder + path) for path in sorted(paths) if deep or "/" not in path])


def resolve(hub: HubStandIn, request: Request) -> Answer:
    """A file, or a range of it; the Hub would redirect for large ones."""
    repository = find(hub, request, content=True)
    content = repository.files.get(request.parts["path"] or "")
    headers = {"X-Repo-Commit": repository.commit}
    if content is None:
        return Answer(404, headers={**headers, "X-Error-Code": "EntryNotFound"})
    large = (request.parts["path"] or "").endswith(LARGE)
    headers |= {"ETag": f'"{sha256_of(content) if large else blob_id(content)}"'}
    if large:
        headers |= {"X-Linked-ETag": headers["ETag"], "X-Linked-Size": str(len(content))}
    span = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    if span is None:
        return Answer(200, content, headers)
    start, size = int(span[1]), len(content)
    if start >= size:
        return Answer(416, headers={**headers, "Content-Range": f"bytes */{size}"})
    part = content[start : int(span[2]) + 1 if span[2] else size]
    return Answer(206, part, {**headers, "Content-Range": f"bytes {start}-{start + len(part) - 1}/{size}"})


_API = r"/api/(?P<kind>dataset|model|space)s/(?P<id>[^/]+/[^/]+)"
_PAGE = r"/((?P<kind>dataset|space)s/)?(?P<id>[^/]+/[^/]+)"
ROUTES: list[Route] = [
    ("GET", rf"{_API}(/revision/(?P<revision>[^/]+))?", info),
    ("GET", rf"{_API}/tree/(?P<revision>[^/]+)(/(?P<path>.+))?", tree),
    ("GET", rf"{_PAGE}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", resolve),
]
"""The first that fits answers; where none does it is 404. HEAD is asked of GET."""


def answer(hub: HubStandIn, method: str, url: str, headers: Message, body: bytes) -> Answer:
    """What the hub says to one request."""
    path, query = urlsplit(url).path, parse_qs(urlsplit(url).query)
    if headers.get("Authorization") not in (None, f"Bearer {TOKEN}", f"Bearer {READER}"):
        return Answer(401, headers={"X-Error-Message": "Invalid credentials in Authorization header"})
    for wanted, pattern, endpoint in hub.routes:
        match = re.fullmatch(pattern, path)
        if match is not None and wanted == ("GET" if method == "HEAD" else method):
            parts = {name: text and unquote(text) for name, text in match.groupdict().items()}
            try:
                return endpoint(hub, Request(parts, query, headers, body))
            except RefusalError as refusal:
                return refusal.answer
    return Answer(404)


@contextmanager
def serve(hub: HubStandIn) -> Iterator[None]:
    """The hub at a free port of this machine, a thread a connection; fills in its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections are kept open
        disable_nagle_algorithm = True

        def respond(self) -> None:
            size = int(self.headers.get("Content-Length", 0))
            if self.command == "PUT" and hub.cuts:
                self.rfile.read(min(size, hub.cuts.pop(0)))
                hub.log.append(f"PUT {self.path} cut")
                self.close_connection = True
                return
            body = self.rfile.read(size)
            try:
                said = answer(hub, self.command, self.path, self.headers, body)
            except ConnectionError:
                self.close_connection = True
                return
            hub.log.append(f"{self.command} {self.path} {said.status}")
            self.send_response(said.status)
            for name, value in {**said.headers, "Content-Length": str(len(said.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(said.body)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = respond

        def log_message(self, *_: object) -> None:
            """Nothing to the terminal: `hub.log` has it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True  # a connection left open does not hold up the end
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def _entry(repository: Repository, path: str) -> dict[str, Any]:
    content = repository.files.get(path)
    if content is None:
        return {"type": "directory", "path": path, "oid": blob_id(path.encode()), "size": 0}
    lfs = {"lfs": {"oid": sha256_of(content), "size": len(content), "pointerSize": 130}} if path.endswith(LARGE) else {}
    return {"type": "file", "path": path, "oid": blob_id(content), "size": len(content), **lfs}


def json_answer(value: Any) -> Answer:
    """What most endpoints say."""
    return Answer(body=json.dumps(value).encode(), headers={"Content-Type": "application/json"})


def sha256_of(content: bytes) -> str:
    """By which git LFS knows these bytes."""
    return hashlib.sha256(content).hexdigest()


def blob_id(content: bytes) -> str:
    """By which git knows these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def commit_of(files: Mapping[str, bytes]) -> str:
    """The name of a commit that holds these files."""
    return blob_id(json.dumps([[name, blob_id(files[name])] for name in sorted(files)]).encode())
