"""What `loaders.py` compares, and what ours is held to. Free of heavy imports."""

from typing import NamedTuple

CORE, FULL, SMALL, READING, SMALL_READING = "core", "full", "small", "reading", "small reading"


class Contender(NamedTuple):
    """One of those that are measured.

    name: for `--only`. group: how it is measured, and in which table it is. title: there. function: module and name of
    what sets it up. data: the format that it reads, after `small/` that of the small images. needs: the library.
    """

    name: str
    group: str
    title: str
    function: str
    data: str
    needs: str = "torch"


class Target(NamedTuple):
    """What is asked of a contender: so many times the images/s of `base`, or so many images/s; or a limit.

    word: how it is meant there. limit: of what the most is given, in place of images/s.
    """

    contender: str
    bound: float
    base: str | None = None
    word: str = "target"
    limit: str | None = None


_PILLOW, _LIMIT = "Pillow, torchvision v1, float32 (facebookresearch/mae)", "the limit: libjpeg-turbo's full decode"
_SMALL_TARS = ("loader_reading:webdataset", "small/tars", "webdataset")
_V2, _UINT8 = "torchvision.io, transforms.v2, uint8", "Pillow, torchvision v1, kept uint8"

CONTENDERS = (
    Contender("core-pillow", CORE, _PILLOW, "loader_paths:pillow", "sherd"),
    Contender("core-pillow-uint8", CORE, _UINT8, "loader_paths:pillow_uint8", "sherd"),
    Contender("core-torchvision", CORE, _V2, "loader_paths:torchvision_v2", "sherd"),
    Contender("core-sherd", CORE, "sherd", "loader_paths:sherd", "sherd"),
    Contender("core-limit", CORE, _LIMIT, "loader_paths:full_decode", "sherd"),
    Contender("core-pillow-256", CORE, f"256: {_PILLOW}", "loader_paths:pillow", "sherd-256"),
    Contender("core-pillow-uint8-256", CORE, f"256: {_UINT8}", "loader_paths:pillow_uint8", "sherd-256"),
    Contender("core-torchvision-256", CORE, f"256: {_V2}", "loader_paths:torchvision_v2", "sherd-256"),
    Contender("core-sherd-256", CORE, "256: sherd", "loader_paths:sherd", "sherd-256"),
    Contender("core-limit-256", CORE, f"256: {_LIMIT}", "loader_paths:full_decode", "sherd-256"),
    Contender("imagefolder", FULL, "ImageFolder, Pillow", "loader_rivals:image_folder", "folder"),
    Contender("imagefolder-uint8", FULL, "ImageFolder, Pillow", "loader_rivals:image_folder_uint8", "folder"),
    Contender("imagefolder-v2", FULL, "ImageFolder, its own decoder, v2", "loader_rivals:image_folder_v2", "folder"),
    Contender("webdataset", FULL, "webdataset, Pillow", "loader_rivals:webdataset", "tars", "webdataset"),
    Contender("datasets", FULL, "datasets, streaming, Pillow", "loader_rivals:streamed_parquet", "parquet", "datasets"),
    Contender("mosaicml", FULL, "mosaicml-streaming, Pillow", "loader_rivals:mosaicml", "mds", "streaming"),
    Contender("litdata", FULL, "litdata, Pillow", "loader_rivals:litdata", "litdata", "litdata"),
    Contender("litdata-v2", FULL, "litdata, its own decoder, v2", "loader_rivals:litdata_v2", "litdata-v2", "litdata"),
    Contender("sherd", FULL, "sherd", "loader_sherd:plain", "sherd"),
    Contender("webdataset-256", FULL, "256: webdataset, Pillow", "loader_rivals:webdataset", "sherd-256", "webdataset"),
    Contender("sherd-256", FULL, "256: sherd", "loader_sherd:plain", "sherd-256"),
    Contender("small-imagefolder", SMALL, "ImageFolder, Pillow", "loader_rivals:image_folder", "small/folder"),
    Contender("small-sherd", SMALL, "sherd", "loader_sherd:plain", "small/sherd"),
    Contender("small-1000", SMALL, "sherd, 1,000 shards", "loader_sherd:plain", "small/sherd-1000"),
    Contender("small-memory", SMALL, "sherd, --cache memory", "loader_sherd:in_memory", "small/sherd"),
    Contender("small-device", SMALL, "sherd, --cache device, the CPU", "loader_sherd:on_device", "small/sherd"),
    Contender("small-gpu", SMALL, "sherd, --cache device, a GPU", "loader_sherd:on_gpu", "small/sherd"),
    Contender("read-webdataset", READING, "webdataset", "loader_reading:webdataset", "tars", "webdataset"),
    Contender("read-sherd", READING, "sherd, checksums verified", "loader_reading:sherd", "sherd"),
    Contender("small-read-webdataset", SMALL_READING, "webdataset", *_SMALL_TARS),
    Contender("small-read-sherd", SMALL_READING, "sherd, checksums verified", "loader_reading:sherd", "small/sherd"),
)

TARGETS = (
    Target("core-sherd", 2.0, "core-pillow"),
    Target("core-sherd", 2.8, "core-pillow", "aim"),
    Target("core-sherd-256", 4.2, "core-pillow"),
    Target("core-sherd-256", 2.1, "core-pillow-256"),
    Target("sherd", 2.1, "imagefolder"),
    Target("sherd-256", 4.2, "imagefolder"),
    Target("sherd-256", 2.1, "webdataset-256"),
    Target("small-sherd", 20_000),
    Target("small-memory", 20_000),
    Target("small-gpu", 100_000),
    Target("small-1000", 1.0, limit="first_batch_seconds"),
    Target("read-sherd", 5.0, "read-webdataset"),
    Target("small-read-sherd", 40.0, "small-read-webdataset"),
)

BASES = {
    CORE: "core-pillow",
    FULL: "imagefolder",
    SMALL: "small-imagefolder",
    READING: "read-webdataset",
    SMALL_READING: "small-read-webdataset",
}
"""Whose images/s are 1 in the table of a group."""


def contender_named(name: str) -> Contender:
    """Raises KeyError for a name that is none."""
    return {contender.name: contender for contender in CONTENDERS}[name]
