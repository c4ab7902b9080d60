"""A probe, from a dataset and an encoder to probe.json."""

from typing import Any

from data_pipeline.manifest import read_manifest
from data_pipeline.order import Integers
from data_pipeline.rows import Part
from finetune.extraction import Features, evaluation_view, extract_features, labelled, open_feature_cache
from finetune.feature_probes import probe_linearly
from finetune.few_shot import probe_few_shot
from finetune.frozen_features import FrozenEncoder, freeze
from finetune.linear_probe import train_linear_probe
from finetune.linear_sweep import probe_by_sweep
from finetune.neighbours import probe_neighbours
from finetune.probe_config import (
    MAY_CHANGE_ON_RESUME,
    LarsProbeConfig,
    LogisticProbeConfig,
    ProbeConfig,
    SweepProbeConfig,
)
from launch.console import Console
from launch.redaction import redact
from pretrain.model_source import find_source
from pretrain.pixels import check_channels
from pretrain.session import loader_workers, session
from pretrain.world import World


def probe(recipe: str, config: ProbeConfig, world: World, console: Console | None = None) -> dict[str, Any]:
    """Probe as the config says; on rank 0 what probe.json then holds, and {} elsewhere or where the run was stopped.

    Raises:
        ValueError: labels or a split are missing, the model cannot be used, or anything else that a user can mend.
    """
    assert isinstance(config, LogisticProbeConfig | SweepProbeConfig | LarsProbeConfig)
    blocks = config.sweep.blocks if isinstance(config, SweepProbeConfig) else ()
    with session(recipe, config, config.out, MAY_CHANGE_ON_RESUME, world=world, console=console) as own:
        say = own.console.say
        manifest = read_manifest(config.data)
        train = labelled(manifest, config.split, "--split")
        held_out = labelled(manifest, config.held_out, "--held-out")
        assert manifest.classes is not None
        source = find_source(config.init, "--init")
        check_channels(source.backbone.channels, [Part(manifest, config.split)], config.held_out, init="--init")
        encoder = freeze(source, config.features, world, blocks=blocks)
        view = evaluation_view(source, config.evaluation_crop, manifest.split(config.split))
        say(f"image_size: {encoder.size[0]} x {encoder.size[1]} (from checkpoint)")
        head = ", its head left out" if source.classes else ""
        also = f", {encoder.width} with those that layers are compared on" if len(encoder.pieces) > 1 else ""
        numbers = encoder.features.columns.stop - encoder.features.columns.start
        say(f"features of {source.path}{head}: {encoder.features.name}, {numbers} numbers an image{also}")
        workers = loader_workers(config.workers, world)
        cache = open_feature_cache(config.feature_cache, own.run.path, own.console)

        def features_of(split: str, samples: Integers) -> Features | None:
            part, asked = Part(manifest, split), own.console
            return extract_features(encoder, part, samples, view=view, console=asked, workers=workers, cache=cache)

        results: dict[str, Any] = {}
        if isinstance(config, LarsProbeConfig):
            linear = train_linear_probe(config, own, manifest, encoder, view=view, workers=workers)
            if linear is None:
                return {}
            results["linear"] = linear
            train, held_out = train[: config.knn.most_train], held_out[: config.knn.most_held_out]
        learnt, asked = features_of(config.split, train), features_of(config.held_out, held_out)
        if learnt is None or asked is None:
            return {}
        results |= _measure(config, encoder, learnt, asked, own.console, classes=manifest.classes)
        result = {
            "model": str(source.path),
            "model_sha256": source.sha256,
            "data": redact(config.data),
            "split": config.split,
            "held_out": config.held_out,
            "train_images": results["linear"]["train_images"],
            "held_out_images": results["linear"]["held_out_images"],
            "image_size": list(encoder.size),
            "view": repr(view),
            "features": encoder.features.name,
            **{name: results[name] for name in ("knn", "linear", "few_shot") if name in results},
            "seed": config.seed,
        }
        path = own.run.path / "probe.json"
        own.run.write_json(path, result)
        say(f"done: {path}")
        own.close("done", results["linear"].get("steps", 0))
        return result


def _measure(
    config: ProbeConfig,
    encoder: FrozenEncoder,
    learnt: Features,
    asked: Features,
    console: Console,
    *,
    classes: tuple[str, ...],
) -> dict[str, Any]:
    """What is learnt from features in memory and measured on others, by its name in probe.json."""
    train, held_out = learnt.of(encoder.features), asked.of(encoder.features)
    device = encoder.world.device
    results = {"knn": probe_neighbours(train, held_out, config.knn, console, device=device)}
    if isinstance(config, LogisticProbeConfig):
        results["linear"] = probe_linearly(train, held_out, config.logistic, console, seed=config.seed)
        if config.few_shot.shots:
            how = config.few_shot
            results["few_shot"] = probe_few_shot(train, held_out, how, console, classes=classes, seed=config.seed)
    elif isinstance(config, SweepProbeConfig):
        choices = encoder.choices(config.sweep.blocks)
        results["linear"] = probe_by_sweep(
            learnt, asked, choices, config.sweep, console, seed=config.seed, device=device
        )
    return results
