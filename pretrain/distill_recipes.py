"""What to distil, and what to train alone in the same way, as Python values, each with the published outcome.

DeiT (Touvron et al. 2021, arXiv:2012.12877, Table 9) and DeiT III (Touvron et al. 2022, arXiv:2204.07118, Table 1) as
the commands and defaults of the released code run them, facebookresearch/deit: README_deit.md, README_revenge.md,
main.py. No dataset of that size is at hand here, so their outcomes are cited and not claimed. What differs from it:

- the learning rate warms up from 0, and the cosine begins after that: at most about 1.5 % of the peak above theirs;
- the class token starts 1e-6 wide, as timm's, and not .02;
- DeiT is evaluated and exported as the average of its weights (DeiT-B: 81.9, and 81.8 without, Table 8).

The colour jitter of the released DeiT's options never happened: timm leaves it out where there is RandAugment.
"""

from dataclasses import replace

from launch.settings import REQUIRED, Recipe
from pretrain.augment_config import AugmentationConfig, MixingConfig
from pretrain.backbone_config import BackboneConfig
from pretrain.config import OptimizerConfig
from pretrain.distill_config import NO_TEACHER, OWN, DistillConfig, OwnTeacherConfig
from pretrain.distillation_config import DistillationConfig

_VIEWS = 3
_REGNET = "regnety_160.deit_in1k"
_ALONE = DistillationConfig("none")


def published_epochs(epochs: float) -> float:
    """Epochs here for so many of the papers': theirs show as many views as there are images, three views each of a
    third of them (Hoffer et al. 2020, arXiv:1901.09335); one here shows every image in all of its views.
    """
    return epochs / _VIEWS


def _deit(name: str, *, teacher: str | None) -> DistillConfig:
    """Of a batch of 1,024: 5e-4 for 512 images is 2.5e-4 for 256."""
    return DistillConfig(
        encoder=BackboneConfig(name, image_size=(224, 224), patch_size=(16, 16)),
        epochs=published_epochs(300.0),
        batch_size=1024,
        optimizer=OptimizerConfig(
            2.5e-4, weight_decay=0.05, betas=(0.9, 0.999), warmup_epochs=published_epochs(5.0), min_lr=1e-5
        ),
        teacher=teacher or NO_TEACHER,
        distillation=DistillationConfig("hard", alpha=0.5) if teacher else _ALONE,
        views=_VIEWS,
        average=0.99996,
        drop_path=0.1,
        max_world=512,
        precision="bf16",
        checkpoint_steps=1000,
    )


def _deit3(name: str, patch: int, *, pixels: int, peak_lr: float, drop: float) -> DistillConfig:
    """Of a batch of 2,048, with layer scales that start at 1e-4, gradients clipped as apex's FusedLAMB does."""
    return DistillConfig(
        encoder=BackboneConfig(
            name, image_size=(pixels, pixels), patch_size=(patch, patch), arguments=("init_values=0.0001",)
        ),
        epochs=published_epochs(800.0),
        batch_size=2048,
        optimizer=OptimizerConfig(
            peak_lr * 256 / 2048,
            weight_decay=0.05,
            betas=(0.9, 0.999),
            warmup_epochs=published_epochs(5.0),
            min_lr=1e-5,
            clip_norm=1.0,
            algorithm="lamb",
        ),
        teacher=NO_TEACHER,
        distillation=_ALONE,
        views=_VIEWS,
        loss="bce-any",
        drop_path=drop,
        drop_path_rule="even",
        augmentation=AugmentationConfig(rand_augment=None, erasing=0.0, three_augment=True, colour_jitter=0.3),
        mixing=MixingConfig(label_smoothing=0.0),
        evaluation_crop=1.0,
        max_world=512,
        precision="bf16",
        checkpoint_steps=1000,
    )


def _deit3_at_224(of: DistillConfig, *, drop: float) -> DistillConfig:
    """DeiT III's last 20 epochs, of a batch of 512: 1e-5 throughout once it is reached, as the smallest rate is 1e-5
    too; RandAugment, smoothed labels, each image shown once.
    """
    return replace(
        of,
        encoder=replace(of.encoder, image_size=(224, 224)),
        init=REQUIRED,
        image_size=(224, 224),
        head="keep",
        epochs=20.0,
        batch_size=512,
        optimizer=OptimizerConfig(5e-6, weight_decay=0.1, betas=(0.9, 0.999), warmup_epochs=5.0, min_lr=1e-5),
        views=1,
        loss="cross-entropy",
        drop_path=drop,
        augmentation=AugmentationConfig(erasing=0.0),
        mixing=MixingConfig(),
    )


_DEIT3_B = _deit3("deit3_base_patch16_224", 16, pixels=192, peak_lr=3e-3, drop=0.2)
_DEIT3_L = _deit3("deit3_large_patch16_224", 16, pixels=192, peak_lr=3e-3, drop=0.45)
# The command says 160 pixels, of which 11 patches of 14 cover 154: its convolution leaves the others out.
_DEIT3_H = _deit3("deit3_huge_patch14_224", 14, pixels=154, peak_lr=3e-3, drop=0.6)
_DISTILLED_B = _deit("deit_base_distilled_patch16_224", teacher=_REGNET)
_DISTILLED_TI = _deit("deit_tiny_distilled_patch16_224", teacher=_REGNET)

# A transformer for 16 patches of 2 x 2 pixels, and a small CNN that sees them at 32 x 32. Soft: which digits look alike
# tells more than which one is likeliest. Begun as masked autoencoders are: with 50 labels a class (seed 0) the student
# alone came to 95.6 % so, and to 91.7 % begun as DeiT's are.
_DIGITS = DistillConfig(
    encoder=BackboneConfig("deit_tiny_patch16_224", image_size=(8, 8), patch_size=(2, 2), width=64, depth=4, heads=4),
    epochs=30.0,
    batch_size=32,
    optimizer=OptimizerConfig(1.6e-2, betas=(0.9, 0.999), warmup_epochs=3.0),
    pool="mean",
    head_std=2e-5,
    initialization="mae",
    teacher=OWN,
    own_teacher=OwnTeacherConfig(
        encoder=BackboneConfig("resnet10t", image_size=(32, 32)),
        epochs=10.0,
        batch_size=32,
        optimizer=OptimizerConfig(8e-3, betas=(0.9, 0.999), warmup_epochs=1.0),
    ),
    distillation=DistillationConfig("soft", alpha=0.5),
    drop_path=0.0,
    augmentation=AugmentationConfig(crop_scale=(0.8, 1.0), mirror=0.0, rand_augment=None, erasing=0.0),
    mixing=MixingConfig(mixup=0.0, cutmix=0.0),
    evaluation_crop=1.0,
    normalization="dataset",
    evaluate_epochs=0.0,
    log_every=50,
)

RECIPES: dict[str, Recipe[DistillConfig]] = {
    # python benchmarks/distillation.py --out benchmarks/distillation.json, which runs this recipe with --labels N
    # --unlabelled and alone; seeds 0, 1, 2; one thread each; 2026-11-26, 2 AMD EPYC cores.
    "digits-distill": Recipe(
        _DIGITS,
        "measured: 92.8, 91.9, 92.8 % with 10 labels a class (alone 84.4, 83.3, 85.8), 94.2, 94.4, 94.2 % with 20 "
        "(alone 90.8, 89.2, 88.6), seeds 0, 1, 2",
    ),
    "deit-ti-in1k": Recipe(
        _deit("deit_tiny_patch16_224", teacher=None), "published: 72.2 top-1 (facebookresearch/deit; not run here)"
    ),
    "deit-s-in1k": Recipe(
        _deit("deit_small_patch16_224", teacher=None), "published: 79.9 top-1 (facebookresearch/deit; not run here)"
    ),
    "deit-b-in1k": Recipe(
        _deit("deit_base_patch16_224", teacher=None), "published: 81.8 top-1 (facebookresearch/deit; not run here)"
    ),
    "deit-ti-distilled-in1k": Recipe(
        _DISTILLED_TI, "published: 74.5 top-1, from a RegNetY-16GF of 82.9 (facebookresearch/deit; not run here)"
    ),
    "deit-s-distilled-in1k": Recipe(
        _deit("deit_small_distilled_patch16_224", teacher=_REGNET),
        "published: 81.2 top-1, from a RegNetY-16GF of 82.9 (facebookresearch/deit; not run here)",
    ),
    "deit-b-distilled-in1k": Recipe(
        _DISTILLED_B, "published: 83.4 top-1, from a RegNetY-16GF of 82.9 (facebookresearch/deit; not run here)"
    ),
    # `--init` is a run of deit-b-distilled-in1k, or a folder or hf:// of timm's deit_base_distilled_patch16_224. 5e-6
    # throughout at a batch of 512, and no paths dropped: the released code fine-tunes in evaluation mode. It does that
    # without a teacher; the distilled one is the paper's, section 4, whose teacher was fine-tuned at 384 pixels too.
    "deit-b-384-in1k": Recipe(
        replace(
            _DISTILLED_B,
            encoder=BackboneConfig("deit_base_distilled_patch16_384", image_size=(384, 384), patch_size=(16, 16)),
            epochs=published_epochs(30.0),
            batch_size=512,
            optimizer=OptimizerConfig(
                2.5e-6, weight_decay=1e-8, betas=(0.9, 0.999), warmup_epochs=published_epochs(5.0), min_lr=5e-6
            ),
            init=REQUIRED,
            image_size=(384, 384),
            head="keep",
            drop_path=0.0,
        ),
        "published: 84.5 top-1 from 300 epochs at 224, 85.2 from 1000 (the paper's Tables 3 and 5; not run here)",
    ),
    "deit3-s-in1k": Recipe(
        _deit3("deit3_small_patch16_224", 16, pixels=224, peak_lr=4e-3, drop=0.05),
        "published: 81.4 top-1 (facebookresearch/deit; not run here)",
    ),
    "deit3-b-in1k": Recipe(
        _DEIT3_B, "published: 83.8 top-1 after deit3-b-224-in1k (facebookresearch/deit; not run here)"
    ),
    "deit3-b-224-in1k": Recipe(
        _deit3_at_224(_DEIT3_B, drop=0.2),
        "published: 83.8 top-1, from deit3-b-in1k (facebookresearch/deit; not run here)",
    ),
    "deit3-l-in1k": Recipe(
        _DEIT3_L, "published: 84.9 top-1 after deit3-l-224-in1k (facebookresearch/deit; not run here)"
    ),
    "deit3-l-224-in1k": Recipe(
        _deit3_at_224(_DEIT3_L, drop=0.45),
        "published: 84.9 top-1, from deit3-l-in1k (facebookresearch/deit; not run here)",
    ),
    "deit3-h-in1k": Recipe(
        _DEIT3_H, "published: 85.2 top-1 after deit3-h-224-in1k (facebookresearch/deit; not run here)"
    ),
    "deit3-h-224-in1k": Recipe(
        _deit3_at_224(_DEIT3_H, drop=0.55),
        "published: 85.2 top-1, from deit3-h-in1k (facebookresearch/deit; not run here)",
    ),
    # DeiT's bag for the encoder of finetune/classify.py's vit-ti4-cifar10. To train it alone: --encoder.name
    # deit_tiny_patch16_224 --teacher none --distillation.kind none.
    "deit-ti4-cifar10": Recipe(
        replace(
            _DISTILLED_TI,
            encoder=BackboneConfig(
                "deit_tiny_distilled_patch16_224", image_size=(32, 32), patch_size=(4, 4), width=192, depth=9, heads=3
            ),
            teacher=REQUIRED,
            augmentation=AugmentationConfig(crop_scale=(0.6, 1.0)),
            evaluation_crop=1.0,
            normalization="dataset",
            average=0.999,  # of 14,600 steps: DeiT's, over 375,000, would still be of where it began
            max_world=16,
            checkpoint_steps=500,
        ),
        "no published figure: DeiT's bag at 32 pixels, with any teacher (not run here)",
    ),
}
