"""A teacher's features are those of plain timm code, on the student's grid; models without such are refused by name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import Tensor, nn

from pretrain import feature_teacher as module
from pretrain.feature_teacher import FeatureTeacher, to_grid
from pretrain.out_of_memory import OutOfMemoryError
from pretrain.pixels import IMAGENET, Normalization
from pretrain.teacher_source import find_teacher
from pretrain.world import World

OWN = Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
TINY: dict[str, Any] = {"embed_dim": 48, "depth": 2, "num_heads": 3}
PLAIN = ("vit_tiny_patch16_224", {**TINY, "img_size": 32, "patch_size": 8})
DINOV2 = ("vit_small_patch14_reg4_dinov2", {**TINY, "img_size": 56})
DINOV3 = ("vit_small_patch16_dinov3", {**TINY, "img_size": 64})


@pytest.fixture(scope="module")
def world() -> World:
    return World("fp32")


def create(name: str, arguments: dict[str, Any]) -> nn.Module:
    """A model with random weights, also where a fresh one has 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=0, **arguments)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def saved(folder: Path, model: nn.Module, size: int, arguments: dict[str, Any], channels: int = 3) -> str:
    described: Any = vars(model)["pretrained_cfg"]
    described.update(input_size=(channels, size, size), mean=OWN.mean[:channels], std=OWN.std[:channels])
    save_for_hf(model, str(folder), model_args=arguments, safe_serialization=True)
    return str(folder)


def taught(folder: Path, world: World, model: tuple[str, dict[str, Any]], **options: Any) -> FeatureTeacher:
    name, arguments = model
    size = arguments.get("img_size", 32)
    where = saved(folder / "model", create(name, arguments), size, arguments)
    return FeatureTeacher(find_teacher(where, architecture=None), world, **{"seen": OWN, "grid": (4, 4), **options})


def pixels(size: int, rows: int = 2) -> Tensor:
    return torch.randn(rows, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("model", "registers"), [(PLAIN, 0), (DINOV2, 4), (DINOV3, 4)])
def test_tokens_are_those_of_timm(model: tuple[str, dict[str, Any]], registers: int, world: World, tmp_path: Path):
    teacher = taught(tmp_path, world, model)
    size = model[1]["img_size"]
    found = teacher.features(pixels(size))
    timms: Any = create(*model)
    with torch.no_grad():
        tokens = timms.forward_features(pixels(size))
        (kept,) = timms.forward_intermediates(pixels(size), indices=1, norm=True, intermediates_only=True)
    torch.testing.assert_close(found.image, tokens[:, 0])
    torch.testing.assert_close(found.places, tokens[:, 1 + registers :])
    torch.testing.assert_close(found.places, kept.flatten(2).mT)  # row by row
    assert (teacher.grid, teacher.widths) == ((4, 4), (48, 48))


def test_the_last_norm_of_a_model_that_pools_the_mean_is_the_tokens(world: World, tmp_path: Path):
    model = (PLAIN[0], {**PLAIN[1], "global_pool": "avg"})
    found = taught(tmp_path, world, model).features(pixels(32))
    timms: Any = create(*model)
    with torch.no_grad():
        tokens = timms.fc_norm(timms.blocks(timms._pos_embed(timms.patch_embed(pixels(32)))))
    torch.testing.assert_close(found.image, tokens[:, 0])
    torch.testing.assert_close(found.places, tokens[:, 1:])


def test_a_model_without_a_class_token_gives_what_its_head_sees(world: World, tmp_path: Path):
    model = (PLAIN[0], {**PLAIN[1], "class_token": False, "global_pool": "avg"})
    found = taught(tmp_path, world, model).features(pixels(32))
    timms: Any = create(*model)
    with torch.no_grad():
        torch.testing.assert_close(found.image, timms(pixels(32)))
    assert found.places.shape == (2, 16, 48)


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_map_is_places_and_what_is_pooled_of_it_the_image(channels_last: bool, world: World, tmp_path: Path):
    swin = {"img_size": 32, "patch_size": 4, "embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}
    model = ("swin_tiny_patch4_window7_224", swin) if channels_last else ("test_resnet", {})
    size = 32 if channels_last else 128
    grid = (size // 8, size // 8) if channels_last else (size // 32, size // 32)
    teacher = taught(tmp_path, world, model, grid=grid, image_size=(size, size))
    found = teacher.features(pixels(size))
    timms: Any = create(*model)
    with torch.no_grad():
        own = timms.forward_features(pixels(size))
        torch.testing.assert_close(found.image, timms(pixels(size)))
    places = own if channels_last else own.permute(0, 2, 3, 1)
    torch.testing.assert_close(found.places, places.flatten(1, 2))
    assert teacher.grid == grid == (4, 4)
    assert teacher.widths == (found.image.shape[1], places.shape[3])


def test_it_sees_the_same_pixels_by_its_own_statistics_and_at_its_own_size(world: World, tmp_path: Path):
    found = taught(tmp_path, world, PLAIN, seen=IMAGENET).features(pixels(48))
    timms: Any = create(*PLAIN)
    mean, std, own_mean, own_std = (
        torch.tensor(values)[:, None, None] for values in (IMAGENET.mean, IMAGENET.std, OWN.mean, OWN.std)
    )
    seen = (pixels(48) * std + mean - own_mean) / own_std
    with torch.no_grad():
        tokens = timms.forward_features(nn.functional.interpolate(seen, (32, 32), mode="bicubic", antialias=True))
    torch.testing.assert_close(found.image, tokens[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", [DINOV2, DINOV3])
def test_another_size_is_seen_with_positions_for_it(model: tuple[str, dict[str, Any]], world: World, tmp_path: Path):
    size = model[1]["img_size"] * 3 // 2
    teacher = taught(tmp_path, world, model, image_size=(size, size), grid=(6, 6))
    found = teacher.features(pixels(size))
    timms: Any = create(*model)
    timms.set_input_size(img_size=(size, size))
    with torch.no_grad():
        torch.testing.assert_close(found.places, timms.forward_features(pixels(size))[:, 5:])
    assert teacher.grid == (6, 6)


def test_sizes_that_a_teacher_cannot_see_name_one_that_it_can(world: World, tmp_path: Path):
    message = r"--teacher-image-size 50 x 50: vit_small_patch14_reg4_dinov2 has patches of 14 x 14; .*such as 56 56"
    with pytest.raises(ValueError, match=message):
        taught(tmp_path, world, DINOV2, image_size=(50, 50))


def test_places_on_another_grid_are_averaged_where_there_are_fewer_and_untouched_on_the_same():
    places = torch.arange(16.0).view(1, 16, 1)
    assert to_grid(places, (4, 4), (4, 4)) is places
    assert to_grid(places, (2, 8), (1, 1)).item() == pytest.approx(7.5)
    more = to_grid(places, (4, 4), (8, 8))
    assert more.shape == (1, 64, 1)
    torch.testing.assert_close(more[0, :, 0].view(8, 8)[:, 0], torch.tensor([0, 1, 3, 5, 7, 9, 11, 12.0]))
    columns = to_grid(torch.arange(8.0).view(1, 8, 1), (2, 4), (2, 1))  # rows stay rows
    assert columns[0, 1, 0] - columns[0, 0, 0] == pytest.approx(4)


def test_nothing_of_it_is_trained_or_drawn_at_random(world: World, tmp_path: Path):
    model = (PLAIN[0], {**PLAIN[1], "drop_path_rate": 0.5})
    teacher = taught(tmp_path, world, model)
    images = pixels(32).requires_grad_()
    once, again = teacher.features(images), teacher.features(images)
    assert torch.equal(once.places, again.places)
    assert not once.image.requires_grad
    assert not isinstance(teacher, nn.Module)
    assert teacher.clock.seconds() > 0


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("levit_128s", "gives 16 tokens, which lie on no grid that timm tells of"),
        ("crossvit_tiny_240", "gives no features of places, but list"),
    ],
)
def test_a_model_without_a_grid_is_refused_by_name(
    name: str, why: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = find_teacher(saved(tmp_path / "other", create(*PLAIN), 32, PLAIN[1]), architecture=None)
    size = 240 if "240" in name else 224
    source = replace(source, backbone=replace(source.backbone, name=name, image_size=(size, size), patch_size=None))
    monkeypatch.setattr(module, "build_teacher", lambda _: timm.create_model(name, num_classes=0).eval())
    with pytest.raises(ValueError, match=rf"--teacher \S+: {name} {why}; choose a vision transformer such as vit_base"):
        FeatureTeacher(source, world, seen=OWN, grid=(4, 4))


def test_images_that_are_too_small_are_refused_with_the_reason(world: World, tmp_path: Path):
    source = find_teacher(saved(tmp_path / "model", create(*PLAIN), 32, PLAIN[1]), architecture=None)
    source = replace(source, backbone=replace(source.backbone, image_size=(30, 30)))
    with pytest.raises(ValueError, match=r"vit_tiny_patch16_224 cannot see images of 30 x 30 pixels \(.*30.*\)"):
        FeatureTeacher(source, world, seen=OWN, grid=(4, 4))


def test_other_channels_are_refused_with_both_counts(world: World, tmp_path: Path):
    with pytest.raises(
        ValueError, match=r"--teacher: \S+ is for images of 3 channels, the data's have 1; give a model"
    ):
        taught(tmp_path, world, PLAIN, seen=Normalization((0.5,), (0.5,)))


def test_running_out_of_memory_names_what_needs_less(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    teacher = taught(tmp_path, world, PLAIN)

    def too_much(*_: object) -> Tensor:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(module, "as_shown", too_much)
    with pytest.raises(OutOfMemoryError, match=r"looks at 2 images at once .*--teacher-image-size"):
        teacher.features(pixels(32))


def test_it_says_what_it_is(world: World, tmp_path: Path):
    said = taught(tmp_path, world, DINOV2, grid=(2, 2)).sentence()
    assert said.startswith(
        f"teacher: vit_small_patch14_reg4_dinov2 of {tmp_path / 'model'}, 0.1 M parameters, frozen; "
    )
    assert said.endswith(
        "it sees 56 x 56 pixels and gives 48 features of the image, 48 of each of 4 x 4 places, interpolated to 2 x 2"
    )
