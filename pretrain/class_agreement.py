"""Whether a model that exists speaks of the classes that a dataset has, and sees the channels of its images."""

from pretrain.model_source import ModelSource

_TRAINED_ELSEWHERE = "give a model that was trained on these classes: finetune/classify.py makes one of it"


def check_classes(
    source: ModelSource, names: tuple[str, ...], option: str, *, fix: str = _TRAINED_ELSEWHERE
) -> str | None:
    """What to tell the user where only the number of classes could be compared; None where their names agree.

    Args:
        names: of the data's classes, in order.
        option: what the messages begin with.
        fix: what they end with.

    Raises:
        ValueError: the model has no head, one for another number of classes, or for the same in another order.
    """
    if source.classes == 0:
        raise ValueError(f"{option}: {source.name} has no head, expected one for {len(names):,} classes; {fix}")
    if source.classes != len(names):
        raise ValueError(
            f"{option}: the head of {source.name} is for {source.classes:,} classes, the data have {len(names):,}; "
            f"{fix}"
        )
    theirs = source.class_names
    if theirs is None:
        return (
            f"{option}: {source.name} does not name its {len(names):,} classes: only their number could be compared "
            "with the data's, not their order"
        )
    ours, known = set(names), set(theirs)
    others = [number for number, pair in enumerate(zip(theirs, names, strict=True)) if len(set(pair)) > 1]
    for number in others:
        if theirs[number] in ours and names[number] in known:
            raise ValueError(
                f"{option}: the head of {source.name} has classes of the data in another order: its number {number} is "
                f"{theirs[number]!r}, that of the data {names[number]!r}; {fix}, or shard the images with classes in "
                "the head's order"
            )
    if not others:
        return None
    return (
        f"{option}: {source.name} names {len(others):,} of {len(names):,} classes otherwise than the data, such as "
        f"{theirs[others[0]]!r} for {names[others[0]]!r}: of these only the number could be compared, not the order"
    )


def check_channels(source: ModelSource, channels: int, option: str) -> None:
    """Raise ValueError, beginning with `option`, unless the model's images have so many channels as the data's."""
    if source.backbone.channels != channels:
        raise ValueError(
            f"{option}: {source.name} is for images of {source.backbone.channels} channels, the data's have "
            f"{channels}; give a model that was trained on such images"
        )
