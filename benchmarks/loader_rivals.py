"""The other loaders, each set up as its documentation advises for speed, with the views of masked autoencoders.

All yield shuffled batches of images and labels, and none of them ever reaches the end of an epoch: with so few images,
waiting for its last batches would cost some of them a tenth of their rate, which on a real dataset they do not lose.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from loader_setting import Loader, Setting
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, default_collate
from torchvision import datasets, transforms
from torchvision import io as pictures
from torchvision.transforms import InterpolationMode, v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALE = (0.2, 1.0)
_EPOCHS = 50
_BUFFER = 500  # samples that a worker shuffles, where the library reads in order
_AHEAD = 4  # batches of a worker


def mae_transform(size: int) -> transforms.Compose:
    """That of facebookresearch/mae: a Pillow image to float32, normalised."""
    return transforms.Compose(
        [*_crop_and_flip(size), transforms.ToTensor(), transforms.Normalize(MEAN, STD)],
    )


def mae_transform_uint8(size: int) -> transforms.Compose:
    """The same crops and flips, kept in uint8: a quarter of the bytes, to be normalised on the device."""
    return transforms.Compose([*_crop_and_flip(size), transforms.PILToTensor()])


def v2_transform(size: int) -> v2.Compose:
    """The same of a decoded uint8 tensor, without Pillow: what torchvision itself advises for speed."""
    crop = v2.RandomResizedCrop(size, scale=SCALE, interpolation=InterpolationMode.BICUBIC, antialias=True)
    return v2.Compose([crop, v2.RandomHorizontalFlip()])


def image_folder(setting: Setting) -> Loader:
    """torchvision's ImageFolder and PyTorch's DataLoader, as facebookresearch/mae uses them."""
    return _map_style(datasets.ImageFolder(str(setting.folder), mae_transform(setting.size)), setting)


def image_folder_uint8(setting: Setting) -> Loader:
    """The same without conversion to float32 and normalisation."""
    return _map_style(datasets.ImageFolder(str(setting.folder), mae_transform_uint8(setting.size)), setting)


def image_folder_v2(setting: Setting) -> Loader:
    """ImageFolder without Pillow: torchvision's own decoder, and transforms.v2 on uint8."""
    dataset = datasets.ImageFolder(str(setting.folder), v2_transform(setting.size), loader=_decode_file)
    return _map_style(dataset, setting)


def webdataset(setting: Setting) -> Loader:
    """WebDataset's fluid interface; batches are put together in its workers, as its README advises.

    By PyTorch's own function, which does so in memory that processes share. Decoded by Pillow directly: the handler
    "pil" of webdataset copies each image twice.
    """
    from webdataset import WebDataset, WebLoader  # type: ignore[attr-defined]

    transform = mae_transform(setting.size)
    dataset = (
        WebDataset(sorted(map(str, setting.folder.glob("*.tar"))), resampled=True, shardshuffle=False)
        .shuffle(_BUFFER)
        .to_tuple("jpg", "cls")
        .map_tuple(lambda data: transform(_open(data)), int)
        .batched(setting.batch_size, collation_fn=default_collate, partial=False)
    )
    return Loader(_endless(WebLoader(dataset, batch_size=None, **_workers(setting))))


def streamed_parquet(setting: Setting) -> Loader:
    """`datasets`, streaming Parquet files that it wrote; shuffled while they are bytes still."""
    from datasets import Image as Column
    from datasets import load_dataset

    transform = mae_transform(setting.size)

    def show(example: dict[str, Any]) -> dict[str, Any]:
        return {"pixels": transform(_open(example["image"]["bytes"])), "label": example["label"]}

    files = sorted(map(str, setting.folder.glob("*.parquet")))
    stream = load_dataset("parquet", data_files=files, split="train", streaming=True)
    stream = stream.cast_column("image", Column(decode=False)).repeat(None).shuffle(seed=0, buffer_size=_BUFFER)
    stream = stream.map(show, remove_columns=["image"])
    loader = DataLoader(stream, batch_size=setting.batch_size, **_workers(setting))  # type: ignore[arg-type]
    return Loader((batch["pixels"], batch["label"]) for batch in _endless(loader))


def mosaicml(setting: Setting) -> Loader:
    """MosaicML Streaming over its own shards, all of them local."""
    from streaming import StreamingDataLoader, StreamingDataset  # type: ignore[import-not-found]
    from streaming.base.util import clean_stale_shared_memory  # type: ignore[import-not-found]

    transform = mae_transform(setting.size)

    class Images(StreamingDataset):
        def get_item(self, idx: int) -> tuple[Tensor, int]:
            sample = super().get_item(idx)
            return transform(sample["image"].convert("RGB")), sample["label"]

    clean_stale_shared_memory()
    dataset = Images(
        local=str(setting.folder),
        shuffle=True,
        batch_size=setting.batch_size,
        epoch_size=_EPOCHS * setting.images,
    )
    return Loader(_endless(StreamingDataLoader(dataset, batch_size=setting.batch_size, **_workers(setting))))


def litdata(setting: Setting) -> Loader:
    """LitData over chunks that hold the files' bytes, decoded by Pillow."""
    transform = mae_transform(setting.size)
    return _litdata(setting, lambda sample: (transform(_open(sample["image"])), sample["label"]))


def litdata_v2(setting: Setting) -> Loader:
    """LitData over chunks of its own type for images, which it decodes itself, to uint8 tensors."""
    transform = v2_transform(setting.size)
    return _litdata(setting, lambda sample: (transform(sample["image"]), sample["label"]))


def _litdata(setting: Setting, transform: Callable[[dict[str, Any]], Any]) -> Loader:
    from litdata import StreamingDataLoader, StreamingDataset  # type: ignore[import-not-found]

    dataset = StreamingDataset(str(setting.folder), shuffle=True, subsample=float(_EPOCHS), transform=transform)
    return Loader(_endless(StreamingDataLoader(dataset, batch_size=setting.batch_size, **_workers(setting))))


def _map_style(dataset: Dataset[Any], setting: Setting) -> Loader:
    order = RandomSampler(dataset, num_samples=_EPOCHS * setting.images)  # type: ignore[arg-type]
    return Loader(_endless(DataLoader(dataset, setting.batch_size, sampler=order, drop_last=True, **_workers(setting))))


def _endless(loader: Iterable[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def _workers(setting: Setting) -> dict[str, Any]:
    """Of a DataLoader; its pages are not locked in memory, since no device fetches them."""
    return {
        "num_workers": setting.workers,
        "persistent_workers": True,
        "prefetch_factor": _AHEAD,
        "pin_memory": False,
    }


def _crop_and_flip(size: int) -> Iterator[Callable[[Image.Image], Image.Image]]:
    yield transforms.RandomResizedCrop(size, scale=SCALE, interpolation=InterpolationMode.BICUBIC)
    yield transforms.RandomHorizontalFlip()


def _open(data: bytes) -> Any:
    return Image.open(io.BytesIO(data)).convert("RGB")


def _decode_file(path: str) -> Tensor:
    return pictures.decode_image(pictures.read_file(path), mode=pictures.ImageReadMode.RGB)
