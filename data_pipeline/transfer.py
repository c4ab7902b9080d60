"""One try at a byte range: what each kind of store is asked, and how its answer is read."""

import asyncio
import re
from collections.abc import Coroutine
from typing import Any
from urllib.request import getproxies, proxy_bypass

from data_pipeline.location import RemotePath, ShortError
from data_pipeline.patience import Patience

_PIECE = 4_000_000
_MOST_UNRANGED = 64_000_000
_WEB = ("http", "https", "hf")


class AnswerError(Exception):
    """An answer that is none. `status`: of HTTP, 0 if it was a good one; `wait`: seconds the server asks for."""

    def __init__(self, text: str, status: int = 0, wait: float = 0.0) -> None:
        super().__init__(text)
        self.status, self.wait = status, wait


class UnfitError(Exception):
    """A server that cannot be read from, whatever the number of tries."""


class Transfer:
    """A range, and what has arrived of it. `probe`: only the file's size is wanted."""

    def __init__(self, start: int, stop: int | None, probe: bool = False) -> None:
        self.start, self.stop, self.probe = start, stop, probe
        self.data = bytearray()
        self.total: int | None = None
        self._tag: str | None = None
        self._is_open = stop is None

    @property
    def position(self) -> int:
        """Where the next byte is to come from."""
        return self.start + len(self.data)

    @property
    def is_done(self) -> bool:
        return self.position == self.stop

    def range(self) -> str | None:
        """What is still wanted, as an HTTP range; None for the whole file."""
        if self.position == 0 and self.stop is None:
            return None
        return f"bytes={self.position}-{'' if self.stop is None else self.stop - 1}"

    def begin(self, tag: str | None, total: int | None) -> None:
        """An answer begins, of this version of the file and this many bytes in all, where that is told."""
        changed = (self._tag, self.total) != (tag, total)
        had = len(self.data)
        self._tag, self.total = tag, total
        if had and changed:
            self.data.clear()
            self.stop = None if self._is_open else self.stop
            raise AnswerError("the file changed while it was read")
        if total is not None:
            self.stop = total if self.stop is None else self.stop
            if self.stop > total:
                raise ShortError("", total)

    def add(self, offset: int, piece: bytes) -> None:
        """Keep what is wanted of a piece that lies at `offset` of the file."""
        assert offset <= self.position
        self.data += memoryview(piece)[self.position - offset : None if self.stop is None else self.stop - offset]

    def end(self) -> None:
        """The answer ended by itself; where no size was told this is the file's end."""
        if self.stop is None:
            self.stop = self.position


def ask_once(where: RemotePath, transfer: Transfer, patience: Patience, seconds: float) -> None:
    """Ask a store for what a transfer still lacks, once; what arrives before an error is kept.

    Raises:
        ShortError, AnswerError, UnfitError, NotWantedError, and whatever the store's driver raises.
    """
    if where.scheme in _WEB:
        address, headers = _web_address(where)
        files = _file_system("http", patience, netrc="authorization" not in headers)
        _wait(files.loop, _read_web(files, address, headers, transfer), seconds, patience)
    elif where.scheme == "s3":
        files = _file_system("s3", patience)
        _wait(files.loop, _read_s3(files, where.url, transfer), seconds, patience)
    else:
        _read_pieces(_file_system(where.scheme, patience), where.url, transfer, seconds, patience)


def _file_system(scheme: str, patience: Patience, netrc: bool = True) -> Any:
    """The scheme's file system; fsspec keeps one for each process and set of options.

    `netrc`: whether ~/.netrc is looked at, which aiohttp refuses beside an authorization header.
    """
    import fsspec
    from fsspec.config import conf

    if scheme == "http":
        from aiohttp import ClientTimeout

        own = {
            "timeout": ClientTimeout(
                total=None, sock_connect=patience.connect_seconds, sock_read=patience.silent_seconds
            ),
            "trust_env": netrc,  # proxies too; without it they are given with each request
            "auto_decompress": False,
            "requote_redirect_url": False,  # a signed URL must stay as it is spelled
        }
        return fsspec.filesystem("http", client_kwargs={**conf.get("http", {}).get("client_kwargs", {}), **own})
    if scheme == "s3":
        from botocore.config import Config

        own = {
            "connect_timeout": patience.connect_seconds,
            "read_timeout": patience.silent_seconds,
            "retries": {"total_max_attempts": 1},
        }
        if "response_checksum_validation" in Config.OPTION_DEFAULTS:
            own["response_checksum_validation"] = "when_required"  # sherd has its own, and not every store this one
        files = fsspec.filesystem("s3", config_kwargs={**conf.get("s3", {}).get("config_kwargs", {}), **own})
        files.retries = 1
        return files
    return fsspec.filesystem(scheme, use_listings_cache=False)


def _wait(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], seconds: float, patience: Patience) -> Any:
    """Run `work` on fsspec's loop, and wait in pieces so that Ctrl-C and `interrupt` are heard."""
    future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, seconds), loop)
    try:
        while True:
            try:
                return future.result(timeout=0.5)
            except TimeoutError:
                if future.done():
                    raise
                patience.interrupt()
    finally:
        future.cancel()


def _web_address(where: RemotePath) -> tuple[str, dict[str, str]]:
    """The URL to ask a web server for, and the headers to ask with."""
    headers = {"Accept-Encoding": "identity"}
    if where.scheme != "hf":
        return where.url, headers
    import fsspec
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    files = fsspec.filesystem("hf")
    place = files.resolve_path(where.url)
    if not hasattr(place, "repo_id"):  # a bucket of the Hub
        return files.url(where.url), build_hf_headers(token=files.token) | headers
    address = hf_hub_url(
        place.repo_id, place.path_in_repo, repo_type=place.repo_type, revision=place.revision, endpoint=files.endpoint
    )
    return address, build_hf_headers(token=files.token) | headers


async def _read_web(files: Any, address: str, headers: dict[str, str], transfer: Transfer) -> None:
    from yarl import URL

    wanted = transfer.range()
    if wanted is not None:
        headers = {**headers, "Range": wanted}
    session = await files.set_session()
    url = URL(address, encoded=True)
    async with session.get(url, headers=headers, proxy=None if session.trust_env else _proxy(url)) as response:
        told = response.headers
        span = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", told.get("Content-Range", "").strip())
        total = int(span[2]) if span and span[2] != "*" else None
        if response.status == 416 and total is not None:
            raise ShortError("", total)
        if response.status not in (200, 206):
            wait = told.get("Retry-After", "")
            raise AnswerError(
                f"{response.status} {response.reason}", response.status, float(wait) if wait.isdigit() else 0.0
            )
        if told.get("Content-Encoding", "identity") != "identity":
            raise UnfitError(f"the server sends the file compressed ({told['Content-Encoding']}); expected it as it is")
        offset = 0
        if response.status == 206:
            if span is None or span[1] is None or int(span[1]) != transfer.position:
                raise AnswerError(f"asked for {wanted}, the answer holds {told.get('Content-Range', 'no range')!r}")
            offset = transfer.position
        else:
            total = response.content_length
        unranged = wanted is not None and response.status == 200 and not transfer.probe
        if unranged and (total or 0) > _MOST_UNRANGED:
            raise UnfitError(_unranged(total))
        transfer.begin(told.get("ETag") or told.get("Last-Modified"), total)
        async for piece in response.content.iter_any():
            transfer.add(offset, piece)
            offset += len(piece)
            if transfer.is_done:
                return
            if unranged and offset > _MOST_UNRANGED:
                raise UnfitError(_unranged(None))
        transfer.end()


def _proxy(url: Any) -> str | None:
    """The proxy that the environment names for a URL."""
    return None if proxy_bypass(url.host or "") else getproxies().get(url.scheme)


def _unranged(total: int | None) -> str:
    size = "more" if total is None else f"{total} bytes"
    return (
        f"the server does not answer range requests and the file has {size}; expected at most {_MOST_UNRANGED} from "
        "such a server: serve the dataset from one that does (nginx, any object store), or copy it"
    )


async def _read_s3(files: Any, url: str, transfer: Transfer) -> None:
    bucket, name, _ = files.split_path(url)
    wanted = transfer.range()
    options = {} if wanted is None else {"Range": wanted}
    answer = await files._call_s3("get_object", Bucket=bucket, Key=name, **options)
    body = answer["Body"]
    try:
        told = answer.get("ContentRange", "")
        total = answer["ContentLength"] if wanted is None else int(told.rpartition("/")[2])
        transfer.begin(answer.get("ETag"), total)
        offset = transfer.position
        while not transfer.is_done and (piece := await body.read(1 << 16)):
            transfer.add(offset, piece)
            offset += len(piece)
    finally:
        body.close()


def _read_pieces(files: Any, url: str, transfer: Transfer, seconds: float, patience: Patience) -> None:
    """Any other store: whole ranges, in pieces so that what has arrived is kept."""

    def ask(name: str, **options: int) -> Any:
        if files.async_impl:
            return _wait(files.loop, getattr(files, f"_{name}")(url, **options), seconds, patience)
        return getattr(files, name)(url, **options)

    if transfer.probe or transfer.stop is None:
        described = ask("info")
        if described["type"] != "file":
            raise FileNotFoundError(f"it is a {described['type']}")
        transfer.begin(None, described["size"])
    while not transfer.is_done and not transfer.probe:
        assert transfer.stop is not None
        stop = min(transfer.position + _PIECE, transfer.stop)
        asked = stop - transfer.position
        piece = ask("cat_file", start=transfer.position, end=stop)
        transfer.add(transfer.position, piece)
        if len(piece) < asked:
            if (size := ask("info")["size"]) < transfer.stop:
                raise ShortError("", size)
            raise AnswerError(f"{len(piece)} of {asked} bytes came")
