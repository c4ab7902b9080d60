"""Scaling on paper: a recipe on a billion images, on 8 to 1,024 GPUs. Writes the tables of docs/scaling.md.

python benchmarks/scaling.py --out benchmarks/scaling.json --document docs/scaling.md

python benchmarks/scaling.py --facts benchmarks/scaling.json --gpus 8 64 --batch-size 16384

FLOPs, parameters, checkpoint bytes, blocks and lanes come from sherd's own code, decoding from benchmarks/loaders.json;
bytes on the wire, the writing of a checkpoint and sizes of images are measured on this machine; what GPUs and networks
can do is stated, with its source, in scaling_setting.py.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.settings import parse_options
from pretrain.mae_config import MaeConfig
from pretrain.recipes import RECIPES

if TYPE_CHECKING:
    from launch.console import Console

_DISTRIBUTIONS = ("sherd", "torch", "timm", "numpy", "simplejpeg", "nvidia-nvimgcodec-cu13")
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Options:
    """What is computed, and from what."""

    recipe: str = "vit-l16-in1k"
    """A recipe of pretrain/mae.py."""
    gpus: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512, 1024)
    """Sizes of the world."""
    batch_size: int = 0
    """Of all GPUs together; 0: the recipe's."""
    epochs: float = 0.0
    """Passes over the images; 0: so many that as many images are seen as the recipe sees of ImageNet."""
    images: int = 1_000_000_000
    """Of the dataset."""
    shards: int = 100_000
    """Tars that hold them."""
    source: str = "../shared/data/imagenet_samples/train.parquet"
    """Parquet file of images that sizes and decoding times are taken from."""
    work: str = "/tmp"
    """Folder on the disk that a checkpoint is written to."""
    facts: str = ""
    """JSON file of an earlier call: take what was measured then, of the same recipe, images and sizes."""
    seed: int = 0
    """Of the simulations."""
    out: str = ""
    """JSON file for the results; none if empty."""
    document: str = ""
    """Markdown file whose tables are replaced; none if empty."""

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise ValueError(f"--recipe {self.recipe}: expected one of {' '.join(RECIPES)}")
        if not self.gpus or min(self.gpus) < 1:
            raise ValueError(f"--gpus {' '.join(map(str, self.gpus))}: expected numbers of at least 1")
        for name, least in (("batch_size", 0), ("epochs", 0), ("images", 1), ("shards", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}, expected at least {least}")
        if self.images % self.shards:
            raise ValueError(f"--images {self.images} do not fill --shards {self.shards} equally; expected a multiple")


def main(options: Options) -> None:
    """Gather the facts, compute, print the tables, write what was asked for."""
    from machine import describe_machine, machine_line
    from scaling_document import replace_tables
    from scaling_plan import Plan
    from scaling_results import results
    from scaling_setting import IMAGENET_IMAGES
    from scaling_tables import tables

    from launch.atomic import write_atomically, write_json
    from launch.console import Console

    console, config = Console(), RECIPES[options.recipe].config
    described = describe_machine(_DISTRIBUTIONS)
    try:
        facts, measured_by = _facts(options, config, described, console)
        epochs = options.epochs or config.epochs * IMAGENET_IMAGES / options.images
        plan = Plan(
            gpus=options.gpus,
            batch=options.batch_size or config.batch_size,
            positions=epochs * options.images,
            checkpoint_steps=config.checkpoint_steps,
            patience=config.patience_seconds,
            seed=options.seed,
        )
        console.say(machine_line(measured_by))
        found = results(facts, plan)
        shown = tables(found, measured_by)
        if options.document:
            path = Path(options.document)
            write_atomically(path, replace_tables(path.read_text(), shown, options.document))
    except (ValueError, OSError) as error:
        raise SystemExit(f"scaling.py: {error}") from None
    for name, table in shown.items():
        console.say(f"\n{name}\n{table}")
    if options.out:
        content = {**measured_by, "options": asdict(options), "plan": asdict(plan), "facts": facts, "results": found}
        write_json(Path(options.out), content)


def _facts(
    options: Options, config: MaeConfig, described: dict[str, Any], console: "Console"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What sherd's parts say and what was measured, and by which machine and when."""
    import json

    from scaling_facts import flops_check, model_facts, order_facts, shard_bytes, worker_seconds
    from scaling_measure import checkpoint_facts, image_facts, wire_facts

    sizes = {"recipe": options.recipe, "images": options.images, "shards": options.shards}
    if options.facts:
        kept = json.loads(Path(options.facts).read_text())
        facts = kept["facts"]
        of = {name: facts[name] for name in sizes}
        if of != sizes or not {str(gpus) for gpus in options.gpus} <= set(facts["order"]["factor"]):
            raise ValueError(
                f"--facts {options.facts}: these are of {of} and worlds of {' '.join(facts['order']['factor'])}, "
                f"asked for are {sizes} and {' '.join(map(str, options.gpus))}; leave --facts out"
            )
        return facts, {name: kept[name] for name in described}
    console.say("measuring: images and their decoding, a checkpoint, the wire; a minute")
    measured = {
        "images": image_facts(Path(options.source), rounds=3),
        "checkpoint": checkpoint_facts(Path(options.work), rounds=8),
        "wire": {str(world): wire_facts(world) for world in (2, 4)},
    }
    a_sample = shard_bytes(measured["images"]["full"]["bytes"])
    facts = {
        **sizes,
        "model": model_facts(config),
        "order": order_facts(options.images, options.shards, a_sample, config.max_world, options.gpus),
        "worker_seconds": worker_seconds(),
        "flops_check": flops_check(),
        "measured": measured,
    }
    return facts, described


if __name__ == "__main__":
    assert __doc__ is not None
    main(parse_options(__doc__, Options))
