"""Where bytes lie: a folder on this machine, or a URL of a store (S3, Google Cloud Storage, a web server, the Hub).

Credentials come from where the store's own library looks for them (environment, config files), never from sherd's
options, and nothing that is printed or written shows any: `str()` of a remote path leaves them out, and `redact` takes
them out of any text.
"""

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from launch.redaction import redact

_WEB = ("http", "https")
# The scheme of a URL, and the package that reads it.
_DRIVERS = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "https": "aiohttp",
    "http": "aiohttp",
    "hf": "huggingface_hub",
    "memory": "fsspec",
}


class StoreError(OSError):
    """A store did not give the bytes; the message names stage, URL without credentials, bytes, tries and reason."""


class MissingError(StoreError):
    """The store answers that there is no such file, or hides it from these credentials."""


class ShortError(StoreError):
    """The file ends before the bytes that were asked for; `size` is how many it has."""

    def __init__(self, message: str, size: int = 0) -> None:
        super().__init__(message)
        self.size = size


@dataclass(frozen=True, repr=False)
class RemotePath:
    """A file or folder of a store; `url` may hold credentials, what is shown does not. Picklable."""

    url: str

    def __truediv__(self, name: str) -> "RemotePath":
        """The file or folder of that name inside.

        Raises:
            ValueError: a name that leads elsewhere.
        """
        parts = name.split("/")
        if name.startswith("/") or "://" in name or ".." in parts:
            raise ValueError(f"{self}: {name!r} leads out of it; expected a name inside")
        base, mark, query = self.url.partition("?")
        inner = quote(name, safe="/!$&'()*+,;=:@~") if self.scheme in _WEB else name
        return RemotePath(f"{base.rstrip('/')}/{inner}{mark}{query}")

    def __str__(self) -> str:
        return redact(self.url.partition("?")[0])

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    @property
    def scheme(self) -> str:
        """`s3`, `gs`, `https`, `http`, `hf` or `memory`."""
        return self.url.partition("://")[0]

    @property
    def name(self) -> str:
        """The last part."""
        last = str(self).rstrip("/").rpartition("/")[2]
        return unquote(last) if self.scheme in _WEB else last

    def resolve(self) -> "RemotePath":
        """Itself: a URL does not depend on the working folder."""
        return self

    def size(self) -> int:
        """Bytes of the file. Raises StoreError."""
        from data_pipeline.remote import size_of

        return size_of(self)

    def is_file(self) -> bool:
        """Whether the store has such a file. Raises StoreError where it does not say."""
        try:
            self.size()
        except MissingError:
            return False
        return True

    def read_range(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`, all of them. Raises StoreError."""
        from data_pipeline.remote import fetch

        return fetch(self, start, stop)

    def read_bytes(self) -> bytes:
        """All bytes of the file. Raises StoreError."""
        from data_pipeline.remote import fetch

        return fetch(self, 0, None)

    def read_text(self) -> str:
        """The file as UTF-8. Raises StoreError, and UnicodeDecodeError."""
        return self.read_bytes().decode()


def locate(where: str | Path) -> Path | RemotePath:
    """The place that a user named: a URL ("://" in it) or a path.

    Raises:
        ValueError: a URL that is not read, or whose driver is not installed; says what to do.
    """
    text = str(where)
    if text.startswith("pipe:"):
        raise ValueError("pipe:...: commands are not run; expected a folder or a URL")
    if isinstance(where, Path) or "://" not in text:
        return Path(where)
    scheme, _, rest = text.partition("://")
    scheme = {"gcs": "gs", "s3a": "s3"}.get(scheme.lower(), scheme.lower())
    url = f"{scheme}://{rest}"
    shown = redact(url.partition("?")[0])
    if "::" in re.sub(r"\[[0-9a-fA-F:.]*\]", "", text):
        raise ValueError(f"{redact(text)}: chained URLs (`::`) are not read; expected one URL, of the files themselves")
    if scheme == "file":
        raise ValueError(f"{shown}: expected the path itself: {rest.partition('?')[0]}")
    if scheme not in _DRIVERS:
        readable = ", ".join(f"{name}://" for name in _DRIVERS if name != "memory")
        raise ValueError(f"{shown}: {scheme}:// is not read; expected one of {readable} or a folder")
    _check_parts(url, scheme, shown)
    driver = _DRIVERS[scheme]
    if find_spec(driver) is None:
        raise ValueError(f"{shown}: reading it needs {driver}: pip install {driver}")
    return RemotePath(quote(url, safe="!#$%&'()*+,/:;=?@[]~") if scheme in _WEB else url)


def _check_parts(url: str, scheme: str, shown: str) -> None:
    host = urlsplit(url).netloc
    if not host and scheme != "memory":
        raise ValueError(f"{shown}: no {'host' if scheme in _WEB else 'bucket or repository'} after {scheme}://")
    if scheme in ("s3", "gs") and "@" in host:
        raise ValueError(
            f"{shown}: credentials in the URL are not read; expected {scheme}://bucket/folder, and credentials where "
            f"{_DRIVERS[scheme]} looks for them: its environment variables or config files"
        )
    if scheme in _WEB and "#" in url:
        raise ValueError(f"{shown}: a server is not told what follows `#`; write it as %23 if it is part of a name")
