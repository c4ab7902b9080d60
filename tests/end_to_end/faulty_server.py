"""A web server that misbehaves as it is told.

    with FaultyServer(folder, lambda path, start, before: "short" if before == 0 else "") as server:
        subprocess.run(command_with(server.url))

Test files cannot import this under pytest's importlib mode: they get it as the fixture `faulty`.
"""

import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import unquote, urlsplit

Fault = Literal["", "altered", "short", "elsewhere", "whole", "busy", "silent"]
"""What may be wrong with an answer: nothing, a bit in every 2,000 bytes, its end missing, the bytes of another place,
the whole file instead of the range, 503, nothing at all until the client gives up."""


class Asked(NamedTuple):
    """A request for the bytes of a file from `start` to `stop`, and what was wrong with its answer."""

    path: str
    start: int
    stop: int
    fault: Fault


class FaultyServer(ThreadingHTTPServer):
    """A web server, in threads of this process, whose answers are wrong as `fault` says of each request.

    `fault` is given the path below the served folder, the first byte asked for and how often this range of the file has
    been asked for before.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, folder: Path, fault: Callable[[str, int, int], Fault]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.fault = fault
        self.url = f"http://127.0.0.1:{self.server_port}/{folder.name}"
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self._asked: dict[tuple[str, int], int] = {}
        self._requests: list[Asked] = []

    def __enter__(self) -> "FaultyServer":
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: clients that are killed, or give up, break off."""

    def requests(self, suffix: str = "") -> list[Asked]:
        """What was asked for, of paths that end so."""
        return [request for request in self._requests if request.path.endswith(suffix)]

    def note(self, path: str, start: int, stop: int) -> Fault:
        """Enter a request for these bytes of a file, and say what shall be wrong with the answer."""
        with self._lock:
            before = self._asked.get((path, start), 0)
            self._asked[path, start] = before + 1
            fault = self.fault(path, start, before)
            self._requests.append(Asked(path, start, stop, fault))
        return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyServer

    def do_HEAD(self) -> None:
        data = self._file()
        if data is not None:
            self._send(200, b"", {"Content-Length": str(len(data))})

    def do_GET(self) -> None:
        data = self._file()
        if data is None:
            return
        span = _parse_range(self.headers.get("Range"), len(data))
        start, stop = span or (0, len(data))
        body, status, headers = data[start:stop], 200, {}
        if span is not None:
            status, headers["Content-Range"] = 206, f"bytes {start}-{stop - 1}/{len(data)}"
        fault = self.server.note(self._name(), start, stop)
        if fault == "silent":
            self.server.ended.wait()
            self.close_connection = True
            return
        if fault == "busy":
            status, body, headers = 503, b"slow down", {}
        elif fault == "altered":
            body = bytes(byte ^ (place % 2000 == 1000) for place, byte in enumerate(body))
        elif fault == "elsewhere":
            body = (data[start + 512 :] + data)[: len(body)]
        elif fault == "whole":
            status, body, headers = 200, data, {}
        headers["Content-Length"] = str(len(body))
        self._send(status, body[: len(body) // 2] if fault == "short" else body, headers)
        self.close_connection = fault == "short"

    def log_message(self, format: str, *values: object) -> None:
        """Nothing on stderr: `requests` is the log."""

    def _name(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix(f"/{self.server.folder.name}/")

    def _file(self) -> bytes | None:
        path = self.server.folder / self._name()
        if path.is_file():
            return path.read_bytes()
        self._send(404, b"", {"Content-Length": "0"})
        return None

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Where the bytes that a Range header asks for start and stop, None for everything."""
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", header or "")
    if found is None:
        return None
    return int(found[1]), min(int(found[2] or size - 1) + 1, size)
