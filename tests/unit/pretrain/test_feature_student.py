"""What a student is told of its tokens, its distances on fixed numbers, and that it compiles as one graph."""

import json
import math
import subprocess
import sys

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from pretrain.config import EncoderConfig
from pretrain.encoder import create_classifier, create_encoder
from pretrain.feature_student import FeatureStudent, cosine_distance, student_flops
from pretrain.flops import encoder_flops

CONFIG = EncoderConfig("vit_tiny_patch16_224", (16, 16), (8, 8), width=24, depth=2, heads=2)
WIDTHS = (10, 6)


def student(seed: int = 0) -> FeatureStudent:
    made = FeatureStudent(create_classifier(CONFIG, classes=0, pool="token", drop_path=0.0), WIDTHS)
    made.initialize(torch.Generator().manual_seed(seed))
    return made


def drawn(rows: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((rows, 3, 16, 16), (rows, WIDTHS[0]), (rows, 4, WIDTHS[1]))
    images, image, places = (torch.randn(shape, generator=generator) for shape in shapes)
    return images, image, places


def test_distances_of_fixed_numbers():
    ours = torch.tensor([[3.0, 4.0], [1.0, 0.0], [1.0, 1.0], [2.0, 0.0]])
    theirs = torch.tensor([[6.0, 8.0], [0.0, 7.0], [-1.0, -1.0], [1.0, 1.0]])
    torch.testing.assert_close(cosine_distance(ours, theirs), torch.tensor([0.0, 1.0, 2.0, 1 - math.sqrt(0.5)]))
    half = cosine_distance(ours.bfloat16(), theirs.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, cosine_distance(ours, theirs))
    assert cosine_distance(torch.zeros(1, 2), theirs[:1]).item() == 1, "of nothing it is no NaN"


def test_the_class_token_learns_the_image_and_patch_tokens_their_places():
    model, (images, image, places) = student(), drawn()
    of_class, of_patches = model(images, image, places)
    tokens = model.encoder.forward_features(images)

    def projected(layer: torch.nn.Linear, values: Tensor) -> Tensor:
        return values @ layer.weight.T + layer.bias

    ours, mine = projected(model.class_projection, tokens[:, 0]), projected(model.patch_projection, tokens[:, 1:])
    expected = 1 - (ours * image).sum(-1) / (ours.norm(dim=-1) * image.norm(dim=-1))
    each = 1 - (mine * places).sum(-1) / (mine.norm(dim=-1) * places.norm(dim=-1))
    torch.testing.assert_close(of_class, expected)
    torch.testing.assert_close(of_patches, (each[:, 0] + each[:, 1] + each[:, 2] + each[:, 3]) / 4)
    assert of_class.shape == of_patches.shape == (3,)


def test_every_parameter_learns_and_starts_by_the_seed():
    model, again, other = student(seed=3), student(seed=3), student(seed=4)
    losses = sum(model(*drawn()))
    assert isinstance(losses, Tensor)
    losses.mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
        assert torch.equal(parameter, again.get_parameter(name)), name
    assert not torch.equal(model.patch_projection.weight, other.patch_projection.weight)


def test_features_are_the_encoders_own_before_any_projection():
    model, images = student().eval(), drawn()[0]
    plain = create_encoder(CONFIG)
    plain.load_state_dict(model.encoder.state_dict())
    tokens = plain.eval().forward_features(images)
    found = model.features(images)
    torch.testing.assert_close(found.class_token, tokens[:, 0])
    torch.testing.assert_close(found.mean, tokens[:, 1:].mean(dim=1))


# In a process of its own: the compiler cannot trace the shape checks that these tests switch on.
COMPILED = """
import json
import torch
from launch.console import Console
from pretrain.compiling import Compilation
from pretrain.config import EncoderConfig
from pretrain.drop_path import DropPaths
from pretrain.encoder import create_classifier
from pretrain.feature_student import FeatureStudent

config = EncoderConfig("vit_tiny_patch16_224", (16, 16), (8, 8), width=24, depth=2, heads=2)
model = FeatureStudent(create_classifier(config, classes=0, pool="token", drop_path=0.5), (10, 6))
model.initialize(torch.Generator().manual_seed(0))
paths = DropPaths(model.train())
given = torch.randn(8, 3, 16, 16), torch.randn(8, 10), torch.randn(8, 4, 6)

def losses(noise):
    paths.noise.values = noise
    return (sum(model(*given))).tolist()

noises = [torch.rand(8, paths.paths) for _ in range(3)]
plain = [losses(noise) for noise in noises]
compilation = Compilation(model, Console(rank=1), by_block=False, backend="eager")
found = [losses(noises[0])]
compilation.stepped()
found += [losses(noise) for noise in noises[1:]]
print(json.dumps([plain, found, compilation.again]))
"""


def test_one_graph_whatever_paths_are_dropped():
    command = [sys.executable, "-c", COMPILED]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    plain, found, again = json.loads(finished.stdout.splitlines()[-1])
    assert again == 0
    assert plain[0] != plain[1] != plain[2]
    for one, other in zip(plain, found, strict=True):
        assert other == pytest.approx(one, abs=1e-6)


def test_flops_are_the_encoders_and_both_projections():
    model = student()
    assert student_flops(model) == encoder_flops(model.encoder) + 2 * 24 * (10 + 4 * 6)


def test_other_encoders_are_refused_by_name():
    with torch.device("meta"):
        encoder = timm.create_model("vit_small_patch14_reg4_dinov2", img_size=56, depth=1)
    assert isinstance(encoder, VisionTransformer)
    with pytest.raises(ValueError, match="register tokens"):
        FeatureStudent(encoder, WIDTHS)
