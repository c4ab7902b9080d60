"""A range is fetched whole from a server that breaks off, stalls, stutters or lies, or a message says why it is not."""

import json
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.config import conf

from data_pipeline.location import MissingError, RemotePath, ShortError, StoreError
from data_pipeline.patience import NotWantedError, Patience
from data_pipeline.remote import fetch, size_of

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, np.uint8).tobytes()
Behaviour = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers by the server's list of behaviours, one a request, then honestly."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_GET(self) -> None:
        if self.path.startswith("/api/"):
            revision = {"id": "me/set", "sha": "0" * 40, "private": True, "downloads": 0, "likes": 0, "tags": []}
            content = json.dumps(revision | {"siblings": []}).encode()
            self.head(200, len(content), Content_Type="application/json")
            self.wfile.write(content)
            return
        self.server.paths.append(self.path)
        self.server.ranges.append(self.headers.get("Range"))
        self.server.authorizations.append(self.headers.get("Authorization"))
        behaviour = self.server.behaviours.pop(0) if self.server.behaviours else answer
        behaviour(self)

    def span(self) -> tuple[int, int]:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "bytes=0-"))
        assert wanted is not None
        stop = int(wanted[2]) + 1 if wanted[2] else len(CONTENT)
        return int(wanted[1]), min(stop, len(CONTENT))

    def head(self, status: int, length: int, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviours: list[Behaviour] = []
        self.paths: list[str] = []
        self.ranges: list[str | None] = []
        self.authorizations: list[str | None] = []

    def at(self, name: str = "set/train-000000.tar") -> RemotePath:
        return RemotePath(f"http://127.0.0.1:{self.server_address[1]}/{name}")


def answer(handler: Handler, tag: str = '"one"', most: int | None = None) -> None:
    """As a good server does; with `most` the connection breaks after so many bytes."""
    start, stop = handler.span()
    if start >= len(CONTENT):
        handler.head(416, 0, Content_Range=f"bytes */{len(CONTENT)}")
        return
    told = {"ETag": tag}
    if "Range" in handler.headers:
        told["Content_Range"] = f"bytes {start}-{stop - 1}/{len(CONTENT)}"
    handler.head(206 if "Range" in handler.headers else 200, stop - start, **told)
    handler.wfile.write(CONTENT[start:stop] if most is None else CONTENT[start : start + most])
    handler.close_connection = most is not None


def broken(most: int, tag: str = '"one"') -> Behaviour:
    return lambda handler: answer(handler, tag, most)


def status(code: int, **headers: str) -> Behaviour:
    return lambda handler: handler.head(code, 0, **headers)


def unranged(handler: Handler) -> None:
    handler.head(200, len(CONTENT))
    handler.wfile.write(CONTENT)


def unranged_and_huge(handler: Handler) -> None:
    handler.head(200, 70_000_000)
    handler.close_connection = True


def stalled(handler: Handler) -> None:
    start, stop = handler.span()
    handler.head(206, stop - start, Content_Range=f"bytes {start}-{stop - 1}/{len(CONTENT)}", ETag='"one"')
    handler.wfile.write(CONTENT[start : start + 1000])
    handler.wfile.flush()
    time.sleep(2)
    handler.close_connection = True


def elsewhere(handler: Handler) -> None:
    port = handler.server.server_address[1]
    handler.head(302, 0, Location=f"http://localhost:{port}/stored%2Fhere?Signature=a%2Bb~")


def hung_up(handler: Handler) -> None:
    handler.close_connection = True


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def patience(self, **options: Any) -> Patience:
        return Patience(sleep=self.sleep, clock=lambda: self.now, jitter=lambda: 0.0, **options)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_one_range_is_one_request(server: Server) -> None:
    assert fetch(server.at(), 1000, 200_000) == CONTENT[1000:200_000]
    assert server.ranges == ["bytes=1000-199999"]


def test_a_whole_file_and_its_size(server: Server) -> None:
    assert fetch(server.at(), 0, None) == CONTENT
    assert size_of(server.at()) == len(CONTENT)
    assert server.ranges == [None, "bytes=0-0"]
    assert fetch(server.at(), 5, 5) == b""


def test_a_broken_connection_goes_on_where_it_broke(server: Server, clock: Clock) -> None:
    server.behaviours += [broken(50_000), hung_up, broken(100_000)]
    assert fetch(server.at(), 1000, 290_000, clock.patience()) == CONTENT[1000:290_000]
    starts = [int(str(wanted).partition("=")[2].partition("-")[0]) for wanted in server.ranges]
    assert starts == [1000, 51_000, 51_000, 151_000]


def test_a_file_that_changes_is_read_anew(server: Server, clock: Clock) -> None:
    server.behaviours += [broken(50_000, '"old"')]
    assert fetch(server.at(), 0, 200_000, clock.patience()) == CONTENT[:200_000]
    assert server.ranges == ["bytes=0-199999", "bytes=50000-199999", "bytes=0-199999"]


def test_a_whole_file_that_changes_its_size_is_read_anew(server: Server, clock: Clock) -> None:
    def shorter(handler: Handler) -> None:
        handler.head(200, 100_000, ETag='"old"')
        handler.wfile.write(bytes(50_000))
        handler.close_connection = True

    server.behaviours += [shorter]
    assert fetch(server.at(), 0, None, clock.patience()) == CONTENT
    assert server.ranges == [None, "bytes=50000-99999", None]


def test_a_broken_whole_file_goes_on_by_range(server: Server, clock: Clock) -> None:
    server.behaviours += [broken(50_000)]
    assert fetch(server.at(), 0, None, clock.patience()) == CONTENT
    assert server.ranges == [None, "bytes=50000-299999"]


def test_a_store_that_is_away_for_a_minute_is_survived(server: Server, clock: Clock) -> None:
    def away(handler: Handler) -> None:
        if clock.now < 60:
            server.behaviours.insert(0, away)
            handler.head(503, 0)
        else:
            answer(handler)

    server.behaviours.append(away)
    assert fetch(server.at(), 0, 1000, clock.patience()) == CONTENT[:1000]
    assert clock.pauses == [0.1875, 0.75, 3.0, 12.0, 15.0, 15.0, 15.0]


def test_a_store_that_stays_away_is_named(server: Server, clock: Clock) -> None:
    server.behaviours += [status(503)] * 8
    with pytest.raises(StoreError) as error:
        fetch(server.at(), 0, 1000, clock.patience())
    assert str(error.value) == (
        f"{server.at()}: stage fetch, bytes 0 to 1000 (0 arrived): 503 Service Unavailable; "
        "gave up after 8 tries in 61 s"
    )


def test_nobody_listens(server: Server, clock: Clock) -> None:
    port = server.server_address[1]
    server.server_close()
    with pytest.raises(StoreError, match=r"ClientConnectorError: .*gave up after 3 tries in 1 s"):
        fetch(RemotePath(f"http://127.0.0.1:{port}/x"), 0, 10, clock.patience(tries=3))


def test_progress_is_not_counted_as_failure(server: Server, clock: Clock) -> None:
    server.behaviours += [broken(10_000) for _ in range(15)]
    assert fetch(server.at(), 0, 200_000, clock.patience()) == CONTENT[:200_000]


def test_the_time_in_all_is_bounded(server: Server, clock: Clock) -> None:
    server.behaviours += [broken(1) for _ in range(50)]
    with pytest.raises(StoreError, match=r"\(\d+ arrived\): .*gave up after \d+ tries in [0-9] s"):
        fetch(server.at(), 0, 1000, clock.patience(seconds=2))
    assert clock.now <= 2.01


def test_a_store_may_ask_for_a_longer_pause(server: Server, clock: Clock) -> None:
    server.behaviours += [status(429, Retry_After="7")]
    assert fetch(server.at(), 0, 10, clock.patience()) == CONTENT[:10]
    assert clock.pauses == [7.0]


def test_silence_counts_as_a_broken_connection(server: Server, clock: Clock) -> None:
    server.behaviours += [stalled]
    assert fetch(server.at(), 0, 5000, clock.patience(silent_seconds=1)) == CONTENT[:5000]
    assert server.ranges == ["bytes=0-4999", "bytes=1000-4999"]


@pytest.mark.parametrize(("code", "kind"), [(404, MissingError), (403, StoreError), (401, StoreError)])
def test_what_is_not_there_is_not_asked_for_again(
    server: Server, clock: Clock, code: int, kind: type[StoreError]
) -> None:
    server.behaviours += [status(code)]
    with pytest.raises(kind, match=rf"missing, or no access with the present credentials \({code} .*\)$"):
        fetch(server.at(), 0, 10, clock.patience())
    assert len(server.ranges) == 1


def test_a_shorter_file_tells_its_size(server: Server, clock: Clock) -> None:
    for start in (299_000, 400_000):
        with pytest.raises(ShortError, match=r"the file has only 300000 bytes$") as error:
            fetch(server.at(), start, 500_000, clock.patience())
        assert error.value.size == 300_000
    assert not clock.pauses


def test_a_server_without_ranges_serves_small_files_only(server: Server, clock: Clock) -> None:
    server.behaviours += [unranged, unranged_and_huge]
    assert fetch(server.at(), 1000, 2000, clock.patience()) == CONTENT[1000:2000]
    with pytest.raises(StoreError, match="does not answer range requests and the file has 70000000 bytes; expected at"):
        fetch(server.at(), 1000, 2000, clock.patience())
    assert not clock.pauses


def test_another_range_than_asked_for_is_no_answer(server: Server, clock: Clock) -> None:
    def other(handler: Handler) -> None:
        handler.head(206, 10, Content_Range=f"bytes 0-9/{len(CONTENT)}")
        handler.wfile.write(CONTENT[:10])

    server.behaviours += [other]
    assert fetch(server.at(), 20, 30, clock.patience()) == CONTENT[20:30]
    assert len(server.ranges) == 2


def test_credentials_show_nowhere(server: Server, clock: Clock) -> None:
    path = RemotePath(server.at("set/x?X-Amz-Signature=word").url.replace("://", "://me:pass-word@"))
    assert fetch(path, 0, 10, clock.patience()) == CONTENT[:10]
    assert server.authorizations[0] is not None
    server.behaviours += [broken(0)] * 3
    with pytest.raises(StoreError) as error:
        fetch(path, 0, 10, clock.patience(tries=3))
    shown = "".join(traceback.format_exception(error.value))
    assert "word" not in shown
    assert error.value.__cause__ is None
    assert error.value.__context__ is None


@pytest.mark.parametrize("behaviour", [stalled, status(503)])
def test_who_waits_may_give_up(server: Server, behaviour: Behaviour) -> None:
    def interrupt() -> None:
        raise NotWantedError

    server.behaviours += [behaviour]
    with pytest.raises(NotWantedError):
        fetch(server.at(), 0, 5000, Patience(interrupt=interrupt, sleep=lambda _: None))


class Stutter:
    """A store, as fsspec has them, whose second answer is short and whose third fails."""

    def __init__(self, inner: Any) -> None:
        self.async_impl = False
        self.info = inner.info
        self.asked: list[tuple[int, int]] = []
        self._inner = inner

    def cat_file(self, url: str, start: int, end: int) -> bytes:
        self.asked.append((start, end))
        if len(self.asked) == 3:
            raise OSError("token=pass-word expired")
        return self._inner.cat_file(url, start=start, end=end)[: 7 if len(self.asked) == 2 else None]


def test_other_stores_are_read_in_pieces(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    content = CONTENT * 30
    memory = fsspec.filesystem("memory")
    memory.pipe("/remote/x", content)
    stutter = Stutter(memory)
    monkeypatch.setattr("data_pipeline.transfer._file_system", lambda *_: stutter)
    assert fetch(RemotePath("memory://remote/x"), 10, 8_500_000, clock.patience()) == content[10:8_500_000]
    assert stutter.asked == [
        (10, 4_000_010),
        (4_000_010, 8_000_010),
        (4_000_017, 8_000_017),
        (4_000_017, 8_000_017),
        (8_000_017, 8_500_000),
    ]
    with pytest.raises(ShortError, match="only 9000000 bytes"):
        fetch(RemotePath("memory://remote/x"), 8_999_999, 9_500_000, clock.patience())


@pytest.fixture
def bucket(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemotePath]:
    """A bucket of S3, as far as reading goes; the server looks at no signature."""
    s3fs = pytest.importorskip("s3fs")
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_address[1]}",
        "AWS_ACCESS_KEY_ID": "the-key-word",
        "AWS_SECRET_ACCESS_KEY": "the-secret-word",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    yield RemotePath("s3://bucket/set/train-000000.tar")
    s3fs.S3FileSystem.clear_instance_cache()


def test_s3_goes_on_where_it_broke(server: Server, clock: Clock, bucket: RemotePath) -> None:
    server.behaviours += [broken(50_000), status(503), broken(100_000)]
    assert fetch(bucket, 1000, 290_000, clock.patience()) == CONTENT[1000:290_000]
    starts = [int(str(wanted).partition("=")[2].partition("-")[0]) for wanted in server.ranges]
    assert starts == [1000, 51_000, 51_000, 151_000]
    assert fetch(bucket, 0, None, clock.patience()) == CONTENT
    assert size_of(bucket, clock.patience()) == len(CONTENT)


def test_s3_that_changes_is_read_anew(server: Server, clock: Clock, bucket: RemotePath) -> None:
    server.behaviours += [broken(50_000, '"old"')]
    assert fetch(bucket, 0, 200_000, clock.patience()) == CONTENT[:200_000]
    assert server.ranges == ["bytes=0-199999", "bytes=50000-199999", "bytes=0-199999"]


def test_s3_says_what_is_not_there(server: Server, clock: Clock, bucket: RemotePath) -> None:
    server.behaviours += [status(404), status(403), status(503), status(503)]
    with pytest.raises(MissingError, match="missing, or no access with the present credentials"):
        fetch(bucket, 0, 10, clock.patience())
    with pytest.raises(StoreError, match="missing, or no access with the present credentials") as error:
        fetch(bucket, 0, 10, clock.patience())
    assert not isinstance(error.value, MissingError)
    with pytest.raises(StoreError, match="gave up after 2 tries") as error:
        fetch(bucket, 0, 10, clock.patience(tries=2))
    assert "word" not in "".join(traceback.format_exception(error.value))
    with pytest.raises(ShortError, match="the file has only 300000 bytes"):
        fetch(bucket, 299_000, 300_001, clock.patience())


def test_s3_silence_counts_as_a_broken_connection(server: Server, clock: Clock, bucket: RemotePath) -> None:
    server.behaviours += [stalled]
    assert fetch(bucket, 0, 5000, clock.patience(silent_seconds=1)) == CONTENT[:5000]
    assert server.ranges == ["bytes=0-4999", "bytes=1000-4999"]


def test_the_hub_sends_on_to_its_store_without_the_token(
    server: Server, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setitem(conf, "hf", {"endpoint": endpoint, "token": "hf_tokenword"})
    path = RemotePath("hf://datasets/me/set@main/train 0.tar")
    server.behaviours += [elsewhere, broken(50_000), elsewhere]
    assert fetch(path, 1000, 200_000, clock.patience()) == CONTENT[1000:200_000]
    resolved, stored = "/datasets/me/set/resolve/main/train%200.tar", "/stored%2Fhere?Signature=a%2Bb~"
    assert server.paths == [resolved, stored, resolved, stored]
    assert server.authorizations == ["Bearer hf_tokenword", None] * 2
    server.behaviours += [status(404)]
    with pytest.raises(MissingError, match=r"^hf://datasets/me/set@main/train 0.tar: stage open: missing, or no"):
        size_of(path, clock.patience())
