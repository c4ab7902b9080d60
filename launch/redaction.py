"""Credentials taken out of texts that are printed or written: of URLs, headers, keys and tokens."""

import os
import re
from collections.abc import Callable

_GONE = "[redacted]"
_SECRET_NAME = (
    r"[\w-]*(?:password|passwd|secret|signature|credential|token|api[_-]?key|access[_-]?key|private[_-]?key)[\w-]*"
    r"|sig|awsaccesskeyid|policy|key-pair-id"
)
# What to look for, what to put there, and words: an ASCII text that has it holds one of them, in lower case. Most texts
# hold none, and words are found much sooner than patterns.
_RULES = (
    # A repository of the Hub may be named hf://name@revision; elsewhere `@` before the first slash ends a password.
    (re.compile(r"""(?<!\bhf)://[^/\s'"<>]*@"""), "://", ("@",)),
    (re.compile(r"""(\w://[^\s'"<>?]*)\?[^\s'"<>]*"""), rf"\1?{_GONE}", ("?",)),
    (
        re.compile(r"(?i)\b(bearer|basic|aws4-hmac-sha256)\s+(?!realm)[^\s'\"][^\n'\"]*"),
        rf"\1 {_GONE}",
        ("bearer", "basic", "aws4"),
    ),
    (
        re.compile(rf"(?i)(?<![\w-])({_SECRET_NAME})(['\"]?\s*[=:]\s*['\"]?)[^\s'\"&,;<>]{{4,}}"),
        rf"\1\2{_GONE}",
        ("pass", "secret", "sig", "credential", "token", "key", "policy"),
    ),
    (re.compile(rf"(?i)<({_SECRET_NAME})>[^<]*<"), rf"<\1>{_GONE}<", ("<",)),
    (
        re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{12,}|\bhf_\w{8,}|\bya29\.[\w.-]+|\bAIza[\w-]{20,}|\bgh[pousr]_\w{20,}"),
        _GONE,
        ("akia", "asia", "hf_", "ya29", "aiza", "ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
    ),
)
# Their values are taken out wherever they stand.
_SECRET_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "FSSPEC_S3_KEY",
    "FSSPEC_S3_SECRET",
    "FSSPEC_S3_TOKEN",
    "FSSPEC_GS_TOKEN",
    "HF_TOKEN",
    "TRACKIO_WRITE_TOKEN",
    "WANDB_API_KEY",
    "HUGGING_FACE_HUB_TOKEN",
)


def redact(text: str) -> str:
    """`text` without credentials: passwords in URLs, queries of (signed) URLs, tokens, keys, authorization headers."""
    return redactor()(text)


def redactor() -> Callable[[str], str]:
    """`redact` for very many texts: with the credentials that the environment holds now, which takes time to read."""
    values = [os.environ.get(variable, "") for variable in _SECRET_VARIABLES]
    secrets = [value for value in values if len(value) >= 8]

    def hide(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, _GONE)
        lower, plain = text.lower(), text.isascii()  # some other letters match ASCII ones where case is ignored
        for pattern, replacement, words in _RULES:
            if not plain or any(word in lower for word in words):
                text = pattern.sub(replacement, text)
        return text

    return hide
