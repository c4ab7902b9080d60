"""Where the time of a training step goes, by operator: what binds a contender of mae_step.py.

python benchmarks/mae_step_profile.py --contender sherd --precision bf16

python benchmarks/mae_step_profile.py --contender transformers --shapes
"""

from dataclasses import dataclass
from typing import Literal

from mae_step_contenders import Setting, contender_named, set_up

from launch.settings import parse_options


@dataclass(frozen=True)
class Options:
    """What is looked at."""

    contender: str = "sherd"
    """transformers, sherd, or either with -compiled."""
    model: str = "vit_base_patch16_224"
    """timm's name of the encoder, at 224 px."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """By autocast."""
    batch: int = 16
    """Images of a step."""
    steps: int = 5
    """Of each operator the fastest step counts, since others at work only slow it down."""
    device: Literal["cpu", "cuda"] = "cpu"
    """On a GPU the time is that of its kernels."""
    threads: int = 2
    """On a CPU."""
    shapes: bool = False
    """Each operator apart by the shapes of what it works on."""
    most: int = 25
    """Rows of the table."""

    def __post_init__(self) -> None:
        contender_named(self.contender)
        for name in ("batch", "steps", "threads", "most"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}, expected at least 1")


def main(options: Options) -> None:
    """Run, print the table."""
    import torch

    from data_pipeline.text_table import text_table

    torch.set_num_threads(options.threads)
    setting = Setting(options.model, options.precision, options.batch, options.device, options.threads)
    running = set_up(options.contender, setting)
    for _ in range(2):
        running.step().item()
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if options.device == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    fastest: dict[tuple[str, str], tuple[float, int]] = {}
    for _ in range(options.steps):
        with torch.profiler.profile(activities=kinds, record_shapes=options.shapes) as profile:
            running.step().item()
        for event in profile.key_averages(group_by_input_shape=options.shapes):
            own = event.self_device_time_total if options.device == "cuda" else event.self_cpu_time_total
            key = (event.key, str(event.input_shapes) if options.shapes else "")
            fastest[key] = min(fastest.get(key, (own, event.count)), (own, event.count))
    whole = sum(time for time, _ in fastest.values())
    rows = [
        [time / 1e3, f"{time / whole:.1%}", count, name, shapes[:80]]
        for (name, shapes), (time, count) in sorted(fastest.items(), key=lambda one: -one[1][0])[: options.most]
    ]
    print(f"{options.contender}, {setting.title}, batch {options.batch}: {whole / 1e3:,.1f} ms in operators")
    print(text_table(["ms", "share", "calls", "operator", "shapes" if options.shapes else ""], rows))


if __name__ == "__main__":
    assert __doc__ is not None
    main(parse_options(__doc__, Options))
