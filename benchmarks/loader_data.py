"""The same images in the format of each loader, written once by the loader's own library and kept between runs.

All but the folder of files hold them in one random order, as their users write them.
"""

import hashlib
import json
import multiprocessing
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from launch.atomic import atomic_folder, write_json

SHARDS = 8
"""About so many files of every format: each of two workers has several."""
FOLDER = "folder"
LABELS = "labels.json"
"""The labels in that order."""
_SHARD = Path(__file__).parents[1] / "data_pipeline/shard.py"
_ROWS = 1000


def root_of(work: Path, source: Path, copies: int) -> Path:
    """The folder for everything that is made of `copies` copies of a parquet file, as that file is now.

    Raises:
        ValueError: there is no such file.
    """
    if not source.is_file():
        raise ValueError(
            f"{source}: no such file; expected a parquet file of `image` and `label`, as `datasets` writes"
        )
    state = source.stat()
    facts = json.dumps([str(source.resolve()), state.st_size, state.st_mtime_ns, copies, SHARDS])
    return work / f"{source.parent.name}-{copies}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}"


def write_formats(root: Path, source: Path, copies: int, formats: Sequence[str], say: Callable[[str], None]) -> None:
    """Write those formats that are not there yet and whose library is installed; `say` is told of each."""
    root.mkdir(parents=True, exist_ok=True)
    if not (root / FOLDER).exists():
        say(f"writing {root / FOLDER}")
        with atomic_folder(root / FOLDER) as out:
            write_folder(source, copies, out)
    if not (root / LABELS).exists():
        write_json(root / LABELS, [label for _, label in _shuffled(root / FOLDER)])
    for name in formats:
        if name in WRITERS and not (root / name).exists() and is_installed(name):
            say(f"writing {root / name}")
            # A process of its own, since these libraries start threads and servers that would go on running here.
            spawn = multiprocessing.get_context("spawn")
            with atomic_folder(root / name) as out, ProcessPoolExecutor(1, spawn) as pool:
                pool.submit(WRITERS[name][0], root / FOLDER, out).result()


def is_installed(name: str) -> bool:
    """Whether the library is there that writes a format."""
    return all(find_spec(module) is not None for module in WRITERS[name][1])


def write_folder(source: Path, copies: int, out: Path) -> None:
    """Files in a folder for each class, `copies` of each image: real copies, so that each has its place in memory."""
    from pyarrow import parquet

    number = 0
    for rows in parquet.ParquetFile(source).iter_batches(_ROWS, columns=["image", "label"]):
        for row in rows.to_pylist():
            folder = out / f"{row['label']:05}"
            folder.mkdir(exist_ok=True)
            for copy in range(copies):
                (folder / f"{number:06}-{copy:02}.jpg").write_bytes(row["image"]["bytes"])
            number += 1


def write_tars(images: Path, out: Path) -> None:
    """By webdataset: `key.jpg` and `key.cls`."""
    from webdataset import ShardWriter  # type: ignore[attr-defined]

    files = _shuffled(images)
    with ShardWriter(str(out / "%06d.tar"), maxcount=-(-len(files) // SHARDS), verbose=0) as writer:
        for number, (file, label) in enumerate(files):
            writer.write({"__key__": f"{number:09}", "jpg": file.read_bytes(), "cls": label})


def write_parquet(images: Path, out: Path) -> None:
    """By `datasets`, a column of images and one of labels."""
    from datasets import Dataset, Features, Image, Value

    os.environ["HF_HUB_OFFLINE"] = "1"
    files = _shuffled(images)
    features = Features({"image": Image(), "label": Value("int64")})
    for shard in range(SHARDS):
        own = files[shard::SHARDS]
        columns = {
            "image": [{"bytes": file.read_bytes(), "path": None} for file, _ in own],
            "label": [label for _, label in own],
        }
        Dataset.from_dict(columns, features=features).to_parquet(out / f"{shard:06}.parquet")


def write_mds(images: Path, out: Path) -> None:
    """By MosaicML Streaming, whose encoding "jpeg" keeps a file's bytes."""
    from PIL import Image
    from streaming import MDSWriter  # type: ignore[import-not-found]

    limit = _bytes_a_shard(images)
    with MDSWriter(out=str(out), columns={"image": "jpeg", "label": "int"}, size_limit=limit) as writer:
        for file, label in _shuffled(images):
            with Image.open(file) as image:
                writer.write({"image": image, "label": label})


def write_litdata(images: Path, out: Path) -> None:
    """By LitData: the files' bytes."""
    _optimize(_bytes_and_label, images, out)


def write_litdata_v2(images: Path, out: Path) -> None:
    """By LitData: its type for images, which keeps the files' bytes too and yields decoded tensors."""
    _optimize(_image_and_label, images, out)


def write_sherd(images: Path, out: Path) -> None:
    """By `data_pipeline/shard.py`: the files' bytes."""
    _shard(images, out)


def write_sherd_1000(images: Path, out: Path) -> None:
    """By `data_pipeline/shard.py`, into about a thousand shards, however few images there are."""
    _shard(images, out, shards=1000)


def write_sherd_256(images: Path, out: Path) -> None:
    """By `data_pipeline/shard.py`, encoded anew at short side 256 and quality 90."""
    _shard(images, out, "--short-side", "256", "--quality", "90")


# Of each format: what writes it, given the folder of files and the one to write into, and which modules that needs.
WRITERS: dict[str, tuple[Callable[[Path, Path], None], tuple[str, ...]]] = {
    "tars": (write_tars, ("webdataset",)),
    "parquet": (write_parquet, ("datasets",)),
    "mds": (write_mds, ("streaming",)),
    "litdata": (write_litdata, ("litdata",)),
    "litdata-v2": (write_litdata_v2, ("litdata",)),
    "sherd": (write_sherd, ()),
    "sherd-256": (write_sherd_256, ()),
    "sherd-1000": (write_sherd_1000, ()),
}


def _shard(images: Path, out: Path, *options: str, shards: int = SHARDS) -> None:
    size = ["--shard-size", str(_bytes_a_shard(images, shards)), "--duplicates", "keep"]
    command = [sys.executable, str(_SHARD), "--source", str(images), "--out", str(out), *size, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip()}")


def _optimize(read: Callable[[tuple[str, int]], dict[str, Any]], images: Path, out: Path) -> None:
    from litdata import optimize  # type: ignore[import-not-found]

    files = [(str(file), label) for file, label in _shuffled(images)]
    optimize(
        read, files, str(out), chunk_bytes=_bytes_a_shard(images), num_workers=1, reorder_files=False, verbose=False
    )


def _bytes_and_label(sample: tuple[str, int]) -> dict[str, Any]:
    return {"image": Path(sample[0]).read_bytes(), "label": sample[1]}


def _image_and_label(sample: tuple[str, int]) -> dict[str, Any]:
    from litdata import Image  # type: ignore[import-not-found]

    return {"image": Image(bytes=Path(sample[0]).read_bytes()), "label": sample[1]}


def _shuffled(images: Path) -> list[tuple[Path, int]]:
    """Every file with its label, the number of its folder, always in the same random order."""
    files = [(file, int(file.parent.name)) for file in sorted(images.glob("*/*.jpg"))]
    random.Random(0).shuffle(files)
    return files


def _bytes_a_shard(images: Path, shards: int = SHARDS) -> int:
    size = sum(file.stat().st_size for file in images.glob("*/*.jpg"))
    return int(size / shards * 1.002) + 1  # a little more, so that no remainder is a file of its own
