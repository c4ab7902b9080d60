"""What publish.py takes, and what it says where that does not go together."""

from typing import Any

import pytest

from finetune.publish_config import PublishConfig
from launch.hub_config import HubConfig


@pytest.mark.parametrize(
    "given",
    [
        {"run": "r", "out": "m"},
        {"run": "r", "out": "m", "format": "facebook", "decoder": True},
        {"run": "r", "out": "m", "push": "me/m", "hub": HubConfig(private=True, tag="v1"), "dry_run": True},
        {"verify": "me/m@v1"},
    ],
)
def test_what_goes_together(given: dict[str, Any]):
    assert PublishConfig(**given).verify == given.get("verify")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "expected --run RUN --out MODEL, to publish a finished run, or --verify MODEL, .*; got neither"),
        ({"run": "r"}, "got --run alone"),
        ({"out": "m"}, "got --out alone"),
        ({"verify": "m", "run": "r", "out": "o"}, "--verify checks what was published: drop --run, --out, or --verify"),
        ({"verify": "m", "share_images": False, "format": "facebook"}, "published: drop --format, --share-images, or"),
        ({"run": "r", "out": "m", "decoder": True}, "--decoder: timm has no decoder .*; pass --format transformers or"),
        ({"run": "r", "out": "m", "dry_run": True}, "about an upload, got no --push; add --push user/name"),
        ({"run": "r", "out": "m", "hub": HubConfig(tag="v1")}, "about an upload, got no --push"),
        ({"run": "r", "out": "m", "push": "m"}, r"--push 'm': not the name of a repository on the Hub"),
        ({"run": "r", "out": "m", "license": "Apache 2"}, r"--license 'Apache 2' is not spelled as on the Hub"),
    ],
)
def test_what_does_not(given: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        PublishConfig(**given)
