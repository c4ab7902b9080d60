"""The options of finetune/publish.py; imports nothing heavy."""

from dataclasses import dataclass, field, fields
from typing import Literal

from launch.hub_config import HubConfig, check_license, check_repository

Format = Literal["timm", "transformers", "facebook"]


@dataclass(frozen=True)
class PublishConfig:
    """What is published, where to, in whose format, and under what licence; or what is verified.

    Raises:
        ValueError: neither a run nor something to verify, options that contradict each other, a licence that is not
            spelled as the Hub does.
    """

    run: str | None = None
    """Finished run folder: of finetune/classify.py or pretrain/distill.py, whose model is meant, or of pretrain/mae.py
    or pretrain/distill.py without labels, whose encoder is."""
    out: str | None = None
    """Model folder to write. One that publish.py has written is replaced, unless anything in it has changed since."""
    format: Format = "timm"
    """Which library loads it: timm, which can hold every model; transformers, in the layout of version 4, which 5 reads
    too; facebook: a .pth file by the names of the released MAE and DeiT."""
    decoder: bool = False
    """Of a masked autoencoder: with its decoder, as transformers and facebook can hold it."""
    which: Literal["last", "best"] = "last"
    """Of a classifier: the model at the end of training, or that of its best evaluation, which had to be kept."""
    data: str | None = None
    """Dataset folder that the run was trained on, if it has been moved; None: where the run found it."""
    results: tuple[str, ...] = ()
    """Folders of finetune/probe.py, benchmark.py or validate.py that measured this very model: figures for the card."""
    license: str | None = None
    """Licence of the weights, as the Hub spells it: apache-2.0. None: that of what training started from, through any
    number of runs and on the Hub, or else `other`: whoever owns the images and the weights has to say; sherd's licence
    does not. Of weights that may not be used commercially nothing freer can be made. What the licence of a teacher asks
    for is not decided, but the card names the teacher."""
    share_images: bool = True
    """Let images of the dataset go along: a few for `--verify`, and a masked autoencoder's reconstructions.
    --no-share-images: the check goes by random pixels."""
    push: str | None = None
    """Repository of the Hub, user/name, that the folder is uploaded to as well; made where it does not exist."""
    hub: HubConfig = field(default_factory=HubConfig)
    """Of --push."""
    dry_run: bool = False
    """With --push: write the folder, and list what would be uploaded, but upload nothing."""
    verify: str | None = None
    """Instead of all that: check what publish.py has written, a folder or user/name (also user/name@revision) on the
    Hub: every file's hash, and what the library computes from it now."""

    def __post_init__(self) -> None:
        self._check_what()
        if self.decoder and self.format == "timm":
            raise ValueError(
                "--decoder: timm has no decoder of a masked autoencoder; pass --format transformers or --format "
                "facebook, or leave --decoder out: the encoder is what others use"
            )
        if self.push is not None:
            check_repository(self.push)
        elif self.dry_run or self.hub != HubConfig():
            raise ValueError("--dry-run and --hub.* are about an upload, got no --push; add --push user/name")
        if self.license is not None:
            check_license(self.license)

    def _check_what(self) -> None:
        if self.verify is not None:
            plain = {option.name: HubConfig() if option.name == "hub" else option.default for option in fields(self)}
            given = [name for name in plain if name != "verify" and getattr(self, name) != plain[name]]
            if given:
                options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
                raise ValueError(f"--verify checks what was published: drop {options}, or --verify")
        elif self.run is None or self.out is None:
            raise ValueError(
                "expected --run RUN --out MODEL, to publish a finished run, or --verify MODEL, to check a model that "
                f"was published; got {'--run' if self.run else '--out' if self.out else 'neither'}"
                f"{' alone' if self.run or self.out else ''}"
            )
