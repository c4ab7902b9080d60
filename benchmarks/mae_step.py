"""A training step of the masked autoencoder against Transformers' ViTMAEForPreTraining: time, memory, MFU.

python benchmarks/mae_step.py --out benchmarks/mae_step.json

python benchmarks/mae_step.py --models vit_base_patch16_224 --precision bf16 --only transformers sherd --rounds 3

Same weights, images, masks, precision and optimizer (AdamW, fused); a step is forward, backward, update, gradients
forgotten. Theirs has scaled-dot-product attention. That both compute the same is checked before anything is timed. What
counts are medians of ratios within a round. Peak memory is measured of each in a process of its own.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mae_step_contenders import BASE, CONTENDERS, Setting

from launch.settings import parse_options

if TYPE_CHECKING:
    from launch.console import Console

_DISTRIBUTIONS = ("sherd", "torch", "timm", "transformers", "triton", "numpy")


@dataclass(frozen=True)
class Options:
    """What is measured. Empty and 0: as fits the device."""

    models: tuple[str, ...] = ()
    """timm's names of encoders, at 224 px: vit_base_patch16_224; on a GPU also vit_large_patch16_224."""
    precision: tuple[Literal["fp32", "bf16"], ...] = ()
    """fp32 and bf16, by autocast; on a GPU bf16."""
    batch: int = 0
    """Images of a step: 16, on a GPU 256."""
    rounds: int = 5
    """In each all contenders run, every other time in reverse."""
    steps: int = 0
    """Of each contender in a round, one after another: 2, on a GPU 10."""
    device: str = ""
    """cpu or cuda: the GPU where there is one."""
    threads: int = 2
    """On a CPU."""
    only: tuple[str, ...] = ()
    """Only these contenders, transformers always among them."""
    out: str = ""
    """JSON file for the results; none if empty."""

    def __post_init__(self) -> None:
        names = [contender.name for contender in CONTENDERS]
        unknown = [name for name in self.only if name not in names]
        if unknown:
            raise ValueError(f"--only {' '.join(unknown)}: expected some of {' '.join(names)}")
        if self.device not in ("", "cpu", "cuda"):
            raise ValueError(f"--device is {self.device}, expected cpu or cuda")
        for name, least in (("batch", 0), ("rounds", 1), ("steps", 0), ("threads", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} is {getattr(self, name)}, expected at least {least}")


def settings(options: Options, device: str) -> list[Setting]:
    """What is measured on this device, one after another."""
    gpu = device == "cuda"
    models = options.models or ("vit_base_patch16_224", *(["vit_large_patch16_224"] if gpu else []))
    precisions = options.precision or (("bf16",) if gpu else ("fp32", "bf16"))
    batch = options.batch or (256 if gpu else 16)
    return [Setting(model, precision, batch, device, options.threads) for model in models for precision in precisions]


def main(options: Options) -> None:
    """Measure, print the tables, write the JSON."""
    import torch
    from machine import describe_machine, machine_line
    from mae_step_rounds import DisagreementError
    from mae_step_tables import measured_table, target_rows, target_table

    from launch.atomic import write_json
    from launch.console import Console

    console = Console()
    described = describe_machine(_DISTRIBUTIONS)  # before the work of this benchmark is part of the load
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    names = [one.name for one in CONTENDERS if not options.only or one.name in (*options.only, BASE)]
    console.say(machine_line(described))
    results = []
    for setting in settings(options, device):
        try:
            results.append(_measure(setting, names, options, console))
        except (DisagreementError, ValueError) as error:
            raise SystemExit(f"mae_step.py: {error}") from None
        console.say(f"\n{measured_table(results[-1])}")
    if targets := target_table(results):
        console.say(f"\n{targets}")
    if options.out:
        write_json(
            Path(options.out),
            {**described, "options": asdict(options), "targets": target_rows(results), "results": results},
        )


def _measure(setting: Setting, names: list[str], options: Options, console: "Console") -> dict[str, Any]:
    """All there is to say of a model in a precision, for JSON."""
    from mae_step_memory import peak_memory
    from mae_step_rounds import time_rounds

    steps = options.steps or (10 if setting.device == "cuda" else 2)
    with console.progress((1 + options.rounds) * len(names), unit="turns", label=setting.title) as progress:
        timed = time_rounds(setting, names, options.rounds, steps, lambda name: progress.advance(last=name))
    memory = {name: peak_memory(name, setting) for name in names}
    return {**asdict(setting), "steps": steps, **timed, "memory": memory}


if __name__ == "__main__":
    assert __doc__ is not None
    main(parse_options(__doc__, Options))
