"""A probe, from a dataset and an encoder to probe.json."""

from typing import Any

from data_pipeline.manifest import read_manifest
from data_pipeline.order import Integers
from data_pipeline.rows import Part
from finetune.feature_probes import probe_features, probe_neighbours
from finetune.frozen_features import Features, extract_features, freeze, labelled
from finetune.linear_probe import train_linear_probe
from finetune.probe_config import MAY_CHANGE_ON_RESUME, LarsProbeConfig, LogisticProbeConfig, ProbeConfig
from launch.console import Console
from launch.redaction import redact
from pretrain.model_folder import find_model
from pretrain.pixels import check_channels
from pretrain.session import loader_workers, session
from pretrain.world import World


def probe(recipe: str, config: ProbeConfig, world: World, console: Console | None = None) -> dict[str, Any]:
    """Probe as the config says; on rank 0 what probe.json then holds, and {} elsewhere or where the run was stopped.

    Raises:
        ValueError: labels or a split are missing, the encoder cannot be used, or anything else that a user can mend.
    """
    assert isinstance(config, LogisticProbeConfig | LarsProbeConfig)
    with session(recipe, config, config.out, MAY_CHANGE_ON_RESUME, world=world, console=console) as own:
        say = own.console.say
        manifest = read_manifest(config.data)
        train = labelled(manifest, config.split, "--split")
        held_out = labelled(manifest, config.held_out, "--held-out")
        encoder = freeze(find_model(config.init, "--init"), config.features, world)
        check_channels(encoder.source.encoder, [Part(manifest, config.split)], config.held_out, init="--init")
        say(f"image_size: {encoder.size[0]} x {encoder.size[1]} (from checkpoint)")
        head = ", its head left out" if encoder.source.classes else ""
        say(f"features of {encoder.source.path}{head}: {encoder.description}, {encoder.width} numbers an image")
        workers = loader_workers(config.workers, world)

        def features_of(split: str, samples: Integers) -> Features:
            part = Part(manifest, split)
            return extract_features(
                encoder, part, samples, crop=config.evaluation_crop, console=own.console, workers=workers
            )

        if isinstance(config, LarsProbeConfig):
            linear = train_linear_probe(config, own, manifest, encoder, workers)
            if linear is None:
                return {}
            learnt = features_of(config.split, train[: config.knn.most_train])
            asked = features_of(config.held_out, held_out[: config.knn.most_held_out])
            results = {"knn": probe_neighbours(learnt, asked, config.knn, own.console), "linear": linear}
        else:
            learnt, asked = features_of(config.split, train), features_of(config.held_out, held_out)
            results = probe_features(learnt, asked, config, own.console) if world.rank == 0 else {}
        if world.rank > 0:
            return {}
        result = {
            "model": str(encoder.source.path),
            "data": redact(config.data),
            "split": config.split,
            "held_out": config.held_out,
            "train_images": results["linear"]["train_images"],
            "held_out_images": results["linear"]["held_out_images"],
            "image_size": list(encoder.size),
            "features": encoder.description,
            **results,
            "seed": config.seed,
        }
        path = own.run.path / "probe.json"
        own.run.write_json(path, result)
        say(f"done: {path}")
        own.close("done", results["linear"].get("steps", 0))
        return result
