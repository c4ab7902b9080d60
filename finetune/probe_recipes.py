"""How to probe, as Python values, each with the outcome measured with it or the published one.

The ImageNet recipes are linear probing as He et al. 2022 (arXiv:2111.06377, appendix A.1, Table 10) and the released
code run it: a batch norm without parameters before the layer, random crops of 8 to 100 % of the area, no colour. Their
outcomes are the repository's. Here batch statistics are those of the whole batch, there those of each GPU's 512 images.
`sweep` is linear probing as Oquab et al. 2023 (arXiv:2304.07193) run it, on features computed once. No dataset of that
size is at hand here, so the outcomes are cited and not claimed.
"""

from dataclasses import replace

from finetune.feature_probe_config import SweepConfig
from finetune.probe_config import LarsConfig, LarsProbeConfig, LogisticProbeConfig, ProbeConfig, SweepProbeConfig
from launch.settings import Recipe

_IMAGENET = LarsProbeConfig(
    evaluation_crop=0.875,
    precision="bf16",
    max_world=512,
)

# Few steps need long ones, and biases shorter ones than weights: of rates 1 to 40 and trusts .001 to .1 that were tried
# on one encoder of 96 x 4 this left the smallest training loss.
_DIGITS = LarsProbeConfig(
    optimizer=LarsConfig(base_lr=2.0, trust=0.02, warmup_epochs=5.0),
    epochs=40.0,
    batch_size=256,
    crop_scale=(0.8, 1.0),
    mirror=0.0,
    evaluate_epochs=0.0,
)

RECIPES: dict[str, Recipe[ProbeConfig]] = {
    # python pretrain/mae.py digits --data D --out R --seed S; python finetune/probe.py RECIPE --data D --init R --out P
    # --seed S; S = 0, 1, 2; one thread; 2026-11-26, 2 AMD EPYC cores.
    "small": Recipe(
        LogisticProbeConfig(),
        "measured: k-NN 91.1, 91.9, 93.9 %, linear 93.6, 91.9, 93.9 %, 10 a class 84.2, 86.9, 88.0 % on the digits, "
        "seeds 0, 1, 2; seconds",
    ),
    "digits-lars": Recipe(
        _DIGITS, "measured: linear 92.2, 91.9, 93.9 % on the class token, seeds 0, 1, 2; half a minute"
    ),
    "digits-sweep": Recipe(
        SweepProbeConfig(sweep=SweepConfig(iterations=500, batch_size=256)),
        "measured: linear 92.8, 92.2, 92.2 % on the digits, seeds 0, 1, 2; half a minute",
    ),
    "sweep": Recipe(
        SweepProbeConfig(),
        "published: 84.5 top-1 of DINOv2's ViT-B/14, from random crops (facebookresearch/dinov2; not run here)",
    ),
    "vit-b16-in1k": Recipe(
        _IMAGENET, "published: 67.8 top-1 after 1600 epochs of MAE (facebookresearch/mae; not run here)"
    ),
    "vit-l16-in1k": Recipe(
        replace(_IMAGENET, epochs=50.0),
        "published: 76.0 top-1 after 1600 epochs of MAE (facebookresearch/mae; not run here)",
    ),
    "vit-h14-in1k": Recipe(
        replace(_IMAGENET, epochs=50.0),
        "published: 77.2 top-1 after 1600 epochs of MAE (facebookresearch/mae; not run here)",
    ),
}
