"""torch.compile: the same numbers from one graph, and what is said where graphs are made again."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import nn

from launch.console import Console
from pretrain.compiling import Compilation

# The real model, in a process of its own: the compiler cannot trace the shape checks that these tests switch on. Not by
# inductor, which takes a minute to make C++ of the graphs: the whole command is tested with it.
REAL = """
import copy
import io
import json
import torch
from launch.console import Console
from pretrain.compiling import Compilation
from pretrain.config import DecoderConfig, EncoderConfig, ObjectiveConfig
from pretrain.encoder import create_encoder
from pretrain.masked_autoencoder import MaskedAutoencoder
from pretrain.recomputing import recompute_blocks

def step(model, images, noise):
    loss = model(images, noise).loss
    loss.backward()
    found = [loss.detach(), *(parameter.grad for parameter in model.parameters() if parameter.requires_grad)]
    model.zero_grad()
    return found

encoder = create_encoder(EncoderConfig("vit_tiny_patch16_224", (16, 24), (4, 4), width=24, depth=2, heads=3))
plain = MaskedAutoencoder(encoder, DecoderConfig(width=16, depth=2, heads=2), ObjectiveConfig())
plain.initialize(torch.Generator().manual_seed(0))
batches = [(torch.randn(4, 3, 16, 24), torch.rand(4, 24)) for _ in range(2)]
expected = [step(plain, *batch) for batch in batches]
for by_block in (False, True):
    for recomputes in (False, True):
        torch._dynamo.reset()
        model, said = copy.deepcopy(plain), io.StringIO()
        compilation = Compilation(model, Console(stream=said), by_block=by_block, backend="aot_eager")
        if recomputes:
            recompute_blocks(model)
        found, again = [], []
        for batch in batches:
            found.append(step(model, *batch))
            compilation.stepped()
        again.append(compilation.again)
        model.eval()
        with compilation.aside():
            features = model.features(batches[0][0])
            model.reconstruct(*batches[1])
        model.train()
        step(model, *batches[0])
        again.append(compilation.again)
        pairs = [pair for ours, theirs in zip(found, expected) for pair in zip(ours, theirs, strict=True)]
        print(json.dumps({
            "by_block": by_block,
            "recomputes": recomputes,
            "difference": max(float((one - other).abs().max()) for one, other in pairs),
            "features": torch.equal(features.mean, plain.features(batches[0][0]).mean),
            "again": again,
            "said": said.getvalue(),
        }))
"""


def test_the_model_whole_and_by_block():
    """Evaluation, with images in one piece, compiles nothing."""
    done = subprocess.run([sys.executable, "-c", REAL], check=True, stdout=subprocess.PIPE, text=True)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(one["by_block"], one["recomputes"]) for one in results] == [
        (False, False),
        (False, True),
        (True, False),
        (True, True),
    ]
    for one in results:
        assert one["difference"] <= 1e-5
        assert one["features"]
        # The blocks of the encoder are one graph, those of the decoder another, and its last block a third.
        graphs = re.fullmatch(r"compiled (\d) graphs? in \d+ s\n", one["said"])
        assert graphs is not None, one["said"]
        assert (int(graphs[1]) == 1) if not one["by_block"] else (2 <= int(graphs[1]) <= 3)
        assert one["again"] == [0, 0]


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled(model: nn.Module, *, by_block: bool = False) -> tuple[Compilation, io.StringIO]:
    said = io.StringIO()
    return Compilation(model, Console(stream=said), by_block=by_block, backend="aot_eager"), said


def test_nothing_is_said_to_be_made_again_before_the_first_step_is_done():
    model = nn.Sequential(Block(8, 2), Block(8, 2))
    compilation, said = compiled(model)
    model(torch.ones(1, 3, 8))
    assert compilation.again == 0
    assert said.getvalue() == ""
    compilation.stepped()
    compilation.stepped()
    assert re.fullmatch(r"compiled 1 graph in \d+ s\n", said.getvalue())
    assert compilation.sentence() == "torch.compile: no graph was made again after the first step"


def test_other_shapes_are_counted_and_said():
    model = nn.Sequential(Block(8, 2), Block(8, 2))
    compilation, _ = compiled(model)
    model(torch.ones(1, 3, 8))
    compilation.stepped()
    for tokens, again in ((3, 0), (4, 1), (4, 1), (5, 2)):
        model(torch.ones(1, tokens, 8))
        assert compilation.again == again
    assert compilation.sentence() == (
        "warning: torch.compile: 2 graphs were made again after the first step, which has cost time; "
        "TORCH_LOGS=recompiles says why"
    )


def test_what_others_compile_before_is_not_counted():
    first, second = (nn.Sequential(Block(width, 2)) for width in (8, 12))
    compilation, _ = compiled(first)
    first(torch.ones(1, 3, 8))
    compilation.stepped()
    other, said = compiled(second)
    second(torch.ones(1, 3, 12))
    other.stepped()
    assert said.getvalue().startswith("compiled 1 graph in ")


def test_a_break_in_the_graph_is_an_error():
    class Broken(nn.Module):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            print("seen")
            return values * 2

    model = Broken()
    compiled(model)
    with pytest.raises(RuntimeError, match="print"):
        model(torch.ones(3))


def test_aside_runs_what_was_written():
    model = nn.Sequential(Block(8, 2))
    compilation, _ = compiled(model, by_block=True)
    model(torch.ones(1, 3, 8))
    compilation.stepped()
    with compilation.aside():
        for tokens in range(4, 20):  # more than the compiler would make graphs for
            model(torch.ones(1, tokens, 8))
    assert compilation.again == 0
    model(torch.ones(1, 3, 8))
    assert compilation.again == 0
