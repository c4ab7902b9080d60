"""Byte ranges from a store that may stutter: what has arrived is kept, and asked for again from there.

The bytes of a range are those of one version of the file: where its tag (ETag) or size changes meanwhile the range is
read anew. Whether they are the right ones is for checksums to say.
"""

from collections.abc import Mapping
from typing import NamedTuple

from data_pipeline.location import MissingError, RemotePath, ShortError, StoreError
from data_pipeline.patience import PATIENCE, NotWantedError, Patience
from data_pipeline.transfer import AnswerError, Transfer, UnfitError, ask_once
from launch.redaction import redact

_SLOWEST = 100_000  # bytes a second that a store must give in the long run
_REFUSED = "missing, or no access with the present credentials"
_RETRIED_STATUSES = (408, 425, 429)
# Errors that the next try would meet again, by name: their packages need not be installed.
_FINAL = {
    "ClientConnectorCertificateError",
    "InvalidURL",
    "NoCredentialsError",
    "NonHttpUrlClientError",
    "ParamValidationError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "TooManyRedirects",
}


def fetch(where: RemotePath, start: int, stop: int | None, patience: Patience = PATIENCE) -> bytes:
    """The bytes from `start` to `stop` (None: to the end), in one request if nothing goes wrong.

    Raises:
        MissingError: no such file. ShortError: it ends before `stop`. StoreError: anything else, after retries.
    """
    if start == stop:
        return b""
    transfer = Transfer(start, stop)
    _try_until_done(where, transfer, patience)
    return bytes(transfer.data)


def size_of(where: RemotePath, patience: Patience = PATIENCE) -> int:
    """Bytes of a file. Raises MissingError and StoreError."""
    transfer = Transfer(0, 1, probe=True)
    try:
        _try_until_done(where, transfer, patience)
    except ShortError as error:
        return error.size
    if transfer.total is None:
        raise StoreError(f"{where}: stage open: the server does not tell the file's size")
    return transfer.total


class _Failure(NamedTuple):
    kind: type[StoreError]
    reason: str
    is_final: bool
    wait: float = 0.0
    size: int = 0


def _try_until_done(where: RemotePath, transfer: Transfer, patience: Patience) -> None:
    wanted = 0 if transfer.stop is None else transfer.stop - transfer.start
    allowed = patience.most_seconds + wanted / _SLOWEST
    began = patience.clock()
    tries = failures = 0
    while True:
        before = len(transfer.data)
        tries += 1
        failure = _try(where, transfer, patience, allowed - (patience.clock() - began))
        if failure is None:
            return
        failures = 1 if len(transfer.data) > before else failures + 1
        pause = patience.pause(failures, failure.wait)
        seconds = patience.clock() - began
        if failure.is_final or failures >= patience.most_tries or seconds + pause >= allowed:
            break
        patience.sleep(pause)
        patience.interrupt()
    # Raised here, outside any handler: a library's own exception may show a signed URL.
    if transfer.probe:
        span = "stage open"
    else:
        end = "the end" if transfer.stop is None else transfer.stop
        span = f"stage fetch, bytes {transfer.start} to {end} ({len(transfer.data)} arrived)"
    after = "" if failure.is_final else f"; gave up after {tries} tries in {seconds:.0f} s"
    message = f"{where}: {span}: {failure.reason}{after}"
    raise ShortError(message, failure.size) if failure.kind is ShortError else failure.kind(message)


def _try(where: RemotePath, transfer: Transfer, patience: Patience, seconds: float) -> _Failure | None:
    try:
        ask_once(where, transfer, patience, seconds)
    except NotWantedError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a driver raises, its text may hold credentials
        return _understand(error)
    if transfer.is_done or (transfer.probe and transfer.total is not None):
        return None
    return _Failure(StoreError, "the answer was shorter than asked for", False)


def _understand(error: Exception) -> _Failure:
    """What a driver's exception means; its text, redacted, is all that is kept of it."""
    text = " ".join(redact(str(error)).split())[:300]
    if isinstance(error, ShortError):
        return _Failure(ShortError, f"the file has only {error.size} bytes", True, size=error.size)
    if isinstance(error, UnfitError):
        return _Failure(StoreError, text, True)
    status = _status(error)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return _Failure(MissingError, f"{_REFUSED} ({text})", True)
    if isinstance(error, PermissionError) or status in (401, 403):
        return _Failure(StoreError, f"{_REFUSED} ({text})", True)
    if status == 416:
        told = (getattr(error.__cause__, "response", None) or {}).get("Error", {}).get("ActualObjectSize", 0)
        return _Failure(ShortError, "the file has fewer bytes", True, size=int(told))
    name = type(error).__name__
    if name == "NoCredentialsError":
        text += "; for a public bucket set FSSPEC_S3_ANON=true"
    if not isinstance(error, AnswerError):
        text = f"{name}: {text}" if text else name
    ours = isinstance(error, AssertionError | AttributeError | NameError | TypeError)
    is_final = ours or name in _FINAL or (400 <= status < 500 and status not in _RETRIED_STATUSES)
    return _Failure(StoreError, text, is_final, getattr(error, "wait", 0.0))


def _status(error: Exception) -> int:
    """The HTTP status behind an exception, 0 for none; each library keeps it elsewhere."""
    if isinstance(error, AnswerError):
        return error.status
    if type(error).__module__.startswith("aiohttp"):
        return 0  # it numbers what it makes of half an answer, too
    for one in (error, error.__cause__):  # s3fs hands on what botocore raised as a cause
        response = getattr(one, "response", None)
        if isinstance(response, Mapping):
            return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        for holder, name in ((response, "status_code"), (one, "code")):
            value = getattr(holder, name, None)
            if isinstance(value, int):
                return value
    return 0
