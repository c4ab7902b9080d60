"""Where users say their data lies, what is refused by name, and that nothing shown holds a credential."""

import importlib.util
import pickle
from pathlib import Path

import fsspec
import numpy as np
import pytest

from data_pipeline import location
from data_pipeline.location import MissingError, RemotePath, ShortError, StoreError, locate
from launch import redaction
from launch.redaction import redact, redactor


def test_paths_stay_paths(tmp_path: Path) -> None:
    assert locate(tmp_path) == tmp_path
    assert locate("data/a::b") == Path("data/a::b")


def test_urls_become_remote_and_their_scheme_has_one_spelling() -> None:
    assert locate("S3://bucket/set") == RemotePath("s3://bucket/set")
    assert locate("s3a://bucket/set") == RemotePath("s3://bucket/set")
    assert locate("http://[::1]:8080/set") == RemotePath("http://[::1]:8080/set")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("pipe:aws s3 cp s3://b/x -", r"pipe:...: commands are not run; expected a folder or a URL"),
        ("simplecache::s3://b/x", r"chained URLs \(`::`\) are not read"),
        ("zip://x.tar::https://me:word@h/x.zip", r"^zip://x.tar::https://h/x.zip: chained"),
        ("file:///data/set", r"file:///data/set: expected the path itself: /data/set"),
        ("ftp://h/x", r"ftp:// is not read; expected one of s3://, gs://, https://, http://, hf:// or a folder"),
        ("s3:///set", r"s3:///set: no bucket or repository after s3://"),
        ("https:///set", r"no host after https://"),
        ("s3://AKIAKEY:word@bucket/x", r"^s3://bucket/x: credentials in the URL are not read"),
        ("https://h/x#y", r"a server is not told what follows `#`"),
    ],
)
def test_what_is_not_read_is_refused_by_name(where: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        locate(where)
    assert "word" not in str(error.value)


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(location, "find_spec", lambda name: None if name == "s3fs" else importlib.util.find_spec(name))
    with pytest.raises(ValueError, match=r"^s3://bucket/set: reading it needs s3fs: pip install s3fs$"):
        locate("s3://bucket/set")
    assert isinstance(locate("https://h/set"), RemotePath)


def test_names_are_joined_before_the_query_and_escaped_for_the_web() -> None:
    signed = locate("https://h/a set/?sig=abcd")
    assert isinstance(signed, RemotePath)
    inner = signed / "train 1#.tar"
    assert inner.url == "https://h/a%20set/train%201%23.tar?sig=abcd"
    assert inner.name == "train 1#.tar"
    assert RemotePath("s3://b/a set") / "x #.tar" == RemotePath("s3://b/a set/x #.tar")


@pytest.mark.parametrize("name", ["../other", "/etc/passwd", "a/../../b", "http://h/x"])
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="leads out of it"):
        RemotePath("s3://bucket/set").__truediv__(name)


def test_a_remote_path_shows_no_credentials_and_travels_with_them() -> None:
    path = RemotePath("https://me:word@h/set?X-Amz-Signature=0123456789")
    for shown in (str(path), repr(path), f"{path / 'x'}"):
        assert "word" not in shown
        assert "0123456789" not in shown
    assert str(path) == "https://h/set"
    assert pickle.loads(pickle.dumps(path)) == path  # noqa: S301 - written above


SECRETS = [
    "https://me:pa@ss-word@h/x failed",
    "GET https://h/x?X-Amz-Credential=pa-ss-word&X-Amz-Signature=word",
    "/bucket/x?sv=1&sig=pass-word",
    "Authorization: Bearer pass-word",
    "AWS4-HMAC-SHA256 Credential=pass-word/2020/us, SignedHeaders=host, Signature=pass-word",
    '{"secretAccessKey": "pass-word"}',
    "aws_secret_access_key = pass-word",
    "<SecretKey>pass-word</SecretKey>",
    "token hf_passwordword",
    "AKIAPASSWORDWORDWORD is unknown",
]


@pytest.mark.parametrize("text", SECRETS)
def test_credentials_leave_any_text(text: str) -> None:
    shown = redact(text).lower()
    assert "word" not in shown
    assert "pass" not in shown


def test_credentials_of_the_environment_leave_any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abc/def+ghi")
    assert redact("signed with abc/def+ghi (x)") == "signed with [redacted] (x)"
    hide = redactor()
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert hide("signed with abc/def+ghi (x)") == "signed with [redacted] (x)"


def test_nothing_is_missed_for_speed() -> None:
    """Of a text without the words that a rule looks for first the rule would change nothing."""

    def thoroughly(text: str) -> str:
        for pattern, replacement, _ in redaction._RULES:
            text = pattern.sub(replacement, text)
        return text

    words = (
        *("https://", "hf://", "@", "?", "=", ": ", "/", " ", "<", ">", '"', "\n", "_", "x", "abcd"),
        *("Bearer", "BASIC", "aws4-hmac-sha256", "PassWord", "passwd", "secret", "\u017fecret", "sig", "s\u0131g"),
        *("Token", "to\u212aen", "credential", "api_key", "Access-Key", "private_key", "AWSAccessKeyId", "policy"),
        *("key-pair-id", "AKIA", "ASIA", "hf_", "ya29.", "AIza", "ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
        "ABCDEFGHIJKLMNOPQRST",
    )
    random, hide, changed = np.random.default_rng(0), redactor(), 0
    for _ in range(5000):
        text = "".join(random.choice(words, random.integers(1, 9)))
        assert hide(text) == thoroughly(text), text
        changed += hide(text) != text
    assert changed > 500


@pytest.mark.parametrize(
    "text",
    [
        "hf://gpt2@main/config.json",
        "hf://datasets/someone/things@main/train.tar",
        "shard train-000001.tar: manifest lists 1000 samples, found 982",
        "could not find token: try again",
        "https://h/set/train-000000.tar: 503 Slow Down",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert redact(text) == text


def test_reading_a_store() -> None:
    fsspec.filesystem("memory").pipe("/location/set/manifest.json", "{ä}".encode())
    folder = locate("memory://location/set")
    assert isinstance(folder, RemotePath)
    path = folder / "manifest.json"
    assert path.is_file()
    assert path.size() == 4
    assert path.read_text() == "{ä}"
    assert path.read_range(3, 4) == b"}"
    assert not (folder / "index.npy").is_file()
    assert not folder.is_file()
    with pytest.raises(MissingError, match=r"^memory://location/set/index.npy: stage fetch, .*missing, or no access"):
        (folder / "index.npy").read_bytes()


def test_errors_travel_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ShortError("only 5", 5)))  # noqa: S301 - written above
    assert isinstance(error, ShortError)
    assert issubclass(ShortError, StoreError)
    assert (str(error), error.size) == ("only 5", 5)
