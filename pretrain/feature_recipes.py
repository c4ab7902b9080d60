"""What to run to learn a frozen model's features, as Python values, each with its outcome: measured, or published.

The ImageNet recipes run as Proteus does (Zhang et al. 2024, arXiv:2407.10366), whose released code,
BeSpontaneous/Proteus-pytorch, has DeiT's defaults without what mixes or names images. What differs from it: cosines in
place of its squared errors, no third objective on masked tokens, no layer norm before a projection. No dataset of that
size is at hand here, so its outcome is cited and not claimed.
"""

from launch.settings import Recipe
from pretrain.augment_config import AugmentationConfig
from pretrain.config import EncoderConfig, OptimizerConfig
from pretrain.distill_recipes import published_epochs
from pretrain.feature_distill_config import FeatureDistillConfig


def _imagenet(patch: int, teacher: str) -> FeatureDistillConfig:
    """Of a batch of 1,024: 5e-4 for 512 images is 2.5e-4 for 256. The teacher sees the views at their own size."""
    return FeatureDistillConfig(
        encoder=EncoderConfig("vit_small_patch16_224", image_size=(224, 224), patch_size=(patch, patch)),
        epochs=published_epochs(300.0),
        batch_size=1024,
        teacher=teacher,
        teacher_image_size=(224, 224),
        views=3,
        optimizer=OptimizerConfig(
            2.5e-4, weight_decay=0.05, betas=(0.9, 0.999), warmup_epochs=published_epochs(5.0), min_lr=1e-5
        ),
        augmentation=AugmentationConfig(crop_scale=(0.08, 1.0), rand_augment="rand-m9-mstd0.5-inc1", erasing=0.25),
        max_world=512,
        precision="bf16",
        evaluate_epochs=10.0,
        checkpoint_steps=1000,
    )


# Half as deep as its teacher.
_DIGITS = FeatureDistillConfig(
    encoder=EncoderConfig("vit_tiny_patch16_224", image_size=(8, 8), patch_size=(2, 2), width=64, depth=2, heads=4),
    optimizer=OptimizerConfig(base_lr=8e-3, warmup_epochs=2.0),
    epochs=40.0,
    batch_size=64,
    augmentation=AugmentationConfig(crop_scale=(0.8, 1.0), mirror=0.0, rand_augment=None, erasing=0.0),
    normalization="dataset",
    evaluate_epochs=10.0,
    log_every=50,
    checkpoint_steps=500,
)

RECIPES: dict[str, Recipe[FeatureDistillConfig]] = {
    # python pretrain/distill.py digits-features --data D --teacher T --out R --seed S, S = 0, 1, 2, where T is the run
    # of pretrain/mae.py digits with the same seed; one thread; 2026-11-26, 2 AMD EPYC cores. The same student by
    # pretrain/mae.py digits --encoder.depth 2 --epochs 40 --evaluate-epochs 0: 75.6, 80.3, 75.0 %.
    "digits-features": Recipe(
        _DIGITS,
        "measured: k-NN 91.7, 93.6, 91.4 % on the last 360 digits, seeds 0, 1, 2; its teachers, twice as deep: 91.1, "
        "91.9, 93.9 %",
    ),
    "vit-s14-features-in1k": Recipe(
        _imagenet(14, "vit_base_patch14_dinov2.lvd142m"),
        "published: 81.8 top-1 linear, S/14 of DINOv2 B/14, by Proteus, which has squared errors (Zhang et al. 2024, "
        "README of its code; not run here)",
    ),
    "vit-s16-features-in1k": Recipe(
        _imagenet(16, "vit_base_patch16_dinov3.lvd1689m"),
        "no published figure: as vit-s14-features-in1k, with DINOv3 B/16 as the teacher (not run here)",
    ),
}
