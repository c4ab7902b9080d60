"""launch/hub_errors.py: refusals that the stand-in does not give."""

from types import SimpleNamespace

import httpx2
import pytest
from huggingface_hub.errors import DisabledRepoError, GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled

from launch.hub_errors import HubError, explained


def refusal(status: int, message: str = "", kind: type[HfHubHTTPError] = HfHubHTTPError) -> HfHubHTTPError:
    request = httpx2.Request("PUT", "https://hub/x?X-Amz-Signature=secret")
    return kind("refused", response=httpx2.Response(status, request=request), server_message=message or None)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (refusal(403, "Forbidden: quota"), ValueError, r"no right to do that \(403: Forbidden: quota\)"),
        (refusal(413), ValueError, r"larger than the Hub takes \(413\)"),
        (refusal(403, kind=DisabledRepoError), ValueError, "the Hub has disabled this repository"),
        (refusal(403, kind=GatedRepoError), ValueError, "gated: ask for access on its page"),
        (refusal(500, "Oops"), HubError, r"https://hub cannot do it now \(500: Oops\); wait, then give the same"),
        (refusal(429), HubError, r"cannot do it now \(429\)"),
        (refusal(400), HubError, r"refuses it \(400: refused\)"),
        (OfflineModeIsEnabled("offline"), ValueError, "HF_HUB_OFFLINE is set; unset it to reach https://hub"),
        (httpx2.ReadTimeout("slow"), HubError, r"does not answer \(ReadTimeout: slow\)"),
        (ValueError("Expecting value"), HubError, r"does not answer as the Hub does \(Expecting value\); check HF_END"),
    ],
)
def test_what_a_refusal_means(error: Exception, kind: type[Exception], message: str) -> None:
    found = explained(error, "model user/name", "upload", "https://hub")
    assert type(found) is kind
    with pytest.raises(kind, match=f"^model user/name: upload: .*{message}"):
        raise found
    assert "\n" not in str(found)


@pytest.mark.parametrize(("error", "passes"), [(refusal(503), True), (refusal(400), False), (OSError("disk"), False)])
def test_which_may_pass(error: Exception, passes: bool) -> None:
    wrapped = RuntimeError("Error while uploading 'x'")
    wrapped.__cause__ = error
    found = explained(wrapped, "model user/name", "upload", "https://hub")
    assert isinstance(found, HubError)
    assert found.is_passing == passes


def test_signed_addresses_are_not_shown() -> None:
    error = httpx2.ConnectError("for https://bucket/x?X-Amz-Signature=secret")
    found = explained(error, "model user/name", "upload", "https://hub")
    assert "secret" not in str(found)
    assert "[redacted]" in str(found)


def test_errors_of_requests_are_known_by_name() -> None:
    """Versions of huggingface_hub before 1.0 ask with requests, whose errors carry a response of their own."""
    kind = type("HTTPError", (OSError,), {})
    error = kind("nope")
    error.response = SimpleNamespace(status_code=401)
    assert "(401)" in str(explained(error, "model user/name", "upload", "https://hub"))
    gone = type("ConnectionError", (OSError,), {})("reset")
    assert isinstance(explained(gone, "model user/name", "upload", "https://hub"), HubError)
