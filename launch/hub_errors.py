"""What the Hub's refusals mean, in one line with the fix, and which of them the next try may not meet again.

huggingface_hub asks over requests, httpx or httpx2, as its version has it: errors of the network are told apart by
name, so that none of them has to be imported.
"""

from launch.redaction import redact

TOKENS = "https://huggingface.co/settings/tokens"

_NETWORK = {"ConnectionError", "NetworkError", "RemoteProtocolError", "Timeout", "TimeoutException", "TransportError"}
_RETRIED_STATUSES = (408, 412, 425, 429)  # 412: somebody else has written to the branch meanwhile
_RIGHTS = (
    "this account or its token has no right to do that ({status}{said}); use a token that may write there "
    f"({TOKENS}), or push under your own name"
)
# The first of huggingface_hub's errors that fits.
_BY_NAME = {
    "LocalTokenNotFoundError": (
        f"no token of the Hub is at hand; log in with `hf auth login`, or set HF_TOKEN to one that may write ({TOKENS})"
    ),
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set; unset it to reach {endpoint}",
    "DisabledRepoError": "the Hub has disabled this repository; its page at {endpoint} says why",
    "GatedRepoError": "gated: ask for access on its page at {endpoint}, and use that account's token",
    "RevisionNotFoundError": "it has no such branch, tag or commit; its page at {endpoint} lists those it has",
    "RepositoryNotFoundError": (
        "it does not exist, or this account may not see it; check the name, and whether the token of HF_TOKEN or "
        "`hf auth login` is its owner's"
    ),
}
_BY_STATUS = {
    401: (
        "{endpoint} does not know the token of HF_TOKEN or `hf auth login` (401); it may have expired or been "
        f"mistyped: make another that may write ({TOKENS})"
    ),
    402: _RIGHTS,
    403: _RIGHTS,
    413: "larger than the Hub takes (413{said})",
}


class HubError(OSError):
    """The Hub did not answer, or not as it should; the message tells what to do.

    `is_passing`: the same request may succeed a little later.
    """

    def __init__(self, message: str, is_passing: bool = False) -> None:
        super().__init__(message)
        self.is_passing = is_passing


def explained(error: Exception, repository: str, doing: str, endpoint: str) -> ValueError | HubError:
    """What is raised in the place of a library's error.

    Args:
        error: what huggingface_hub raised.
        repository: the repository in words, such as `dataset user/name`.
        doing: what was asked for, such as `upload`.
        endpoint: the Hub's address.
    """
    chain = _chain(error)
    one = next((one for one in chain if _status(one) or _is_network(one)), chain[-1])
    names = {kind.__name__ for kind in type(one).__mro__}
    status, where = _status(one), f"{repository}: {doing}"
    facts = {"endpoint": endpoint, "status": status, "said": _said(one), "kind": type(one).__name__}
    known = next((text for name, text in _BY_NAME.items() if name in names), _BY_STATUS.get(status))
    if known is not None:
        return ValueError(f"{where}: {known.format(**facts)}")
    again = "give the same command again: it goes on with what is not there yet"
    if _is_network(one):
        reason = "{endpoint} does not answer ({kind}{said}); check the network and HF_ENDPOINT, then {again}"
    elif status >= 500 or status in _RETRIED_STATUSES:
        reason = "{endpoint} cannot do it now ({status}{said}); wait, then {again}"
    elif status:
        return HubError(f"{where}: {endpoint} refuses it ({status}: {_text(error)})")
    else:
        return HubError(f"{where}: {endpoint} does not answer as the Hub does ({_text(one)}); check HF_ENDPOINT")
    return HubError(f"{where}: {reason.format(**facts, again=again)}", is_passing=True)


def _chain(error: BaseException | None) -> list[BaseException]:
    """The error and what it was raised from: huggingface_hub wraps what breaks off an upload."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _is_network(error: BaseException) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    return not _status(error) and bool(_NETWORK & names) and "OfflineModeIsEnabled" not in names


def _status(error: BaseException) -> int:
    """The HTTP status behind an error, 0 for none."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    return status if isinstance(status, int) else 0


def _said(error: BaseException) -> str:
    """What the server or the library said of it, after a colon."""
    server = getattr(error, "server_message", None)
    text = " ".join(redact(str(server)).split())[:200] if server else "" if _status(error) else _text(error)
    return f": {text}" if text else ""


def _text(error: BaseException) -> str:
    return " ".join(redact(str(error)).split())[:200]
