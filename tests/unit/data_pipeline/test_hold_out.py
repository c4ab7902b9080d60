"""A share of each class is held out, the same one everywhere; the rest and the rules' names make a plan."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from data_pipeline import subset
from data_pipeline.manifest import NO_LABEL, Manifest
from data_pipeline.sample_rules import choose_anew, choose_samples
from data_pipeline.subset import hold_out, labelled_samples, read_labels


@pytest.fixture
def digits(make_dataset: Callable[..., Manifest]) -> Manifest:
    """22 or 23 images of each of ten classes."""
    return make_dataset([100, 127])


@pytest.mark.parametrize("share", [0.1, 0.25])
def test_a_share_of_each_class_is_held_out(digits: Manifest, share: float):
    labels = read_labels(digits, "train")
    training, validation, _ = hold_out(digits, "train", None, share, seed=0)
    assert sorted([*training, *validation]) == list(range(len(labels)))
    assert (np.diff(training) > 0).all()
    assert (np.diff(validation) > 0).all()
    counts = np.bincount(labels)
    assert np.bincount(labels[validation]).tolist() == [int(count * share + 0.5) for count in counts]


def test_it_is_the_same_every_time_and_follows_the_seed(digits: Manifest):
    one, same, other = (hold_out(digits, "train", None, 0.1, seed) for seed in (0, 0, 1))
    assert one[1].tolist() == same[1].tolist() != other[1].tolist()
    assert one[2] == same[2] != other[2]


def test_the_choice_never_changes(digits: Manifest):
    """Frozen: a plan records its hash, and a run that is resumed must find the same."""
    assert hold_out(digits, "train", None, 0.1, seed=3)[2] == "hold-out-0.1-42236592b165a087"


def test_members_are_shared_out_among_themselves(digits: Manifest):
    members, _ = labelled_samples(digits, "train", 10, seed=0)
    assert members is not None
    training, validation, _ = hold_out(digits, "train", members, 0.2, seed=0)
    assert sorted([*training, *validation]) == members.tolist()
    labels = read_labels(digits, "train")
    assert np.bincount(labels[validation]).tolist() == [2] * 10


def test_images_without_labels_are_one_class(digits: Manifest, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(subset, "read_labels", lambda *_: np.full(227, NO_LABEL))
    training, validation, _ = hold_out(replace(digits, classes=None), "train", np.arange(40), 0.25, seed=0)
    assert (len(training), len(validation)) == (30, 10)


def test_shares_that_leave_a_class_empty_are_refused(digits: Manifest):
    labels = read_labels(digits, "train")
    few = np.sort(np.concatenate([np.flatnonzero(labels == 3)[:2], np.flatnonzero(labels == 7)[:20]]))
    with pytest.raises(ValueError, match=r"holding out 0\.8 of .* \[train\] would take all 2 images of '3'; hold"):
        hold_out(digits, "train", few, 0.8, seed=0)
    with pytest.raises(
        ValueError, match=r"would take no image at all: the largest class has 20; hold out at least 0\.025"
    ):
        hold_out(digits, "train", few, 0.01, seed=0)
    for share in (0, 1, -0.5):
        with pytest.raises(ValueError, match=rf"a share of {share} is to be held out; expected more than 0 and less"):
            hold_out(digits, "train", None, share, seed=0)


@pytest.mark.parametrize("per_class", [None, 20])
@pytest.mark.parametrize("share", [None, 0.1])
@pytest.mark.parametrize("balance", [None, 1, 1 / 3])
def test_the_rules_are_applied_in_turn_and_anew_by_their_names(
    digits: Manifest, per_class: int | None, share: float | None, balance: float | None
):
    chosen = choose_samples(digits, "train", seed=5, per_class=per_class, hold_out_share=share, balance=balance)
    assert (chosen.training is None) == (per_class == share == balance)
    assert (chosen.validation is None) == (share is None)
    if chosen.validation is not None:
        assert not np.isin(chosen.validation, chosen.training).any()
    anew = choose_anew(digits, "train", chosen.subset, seed=5)
    np.testing.assert_array_equal(anew, chosen.training)  # type: ignore[arg-type]
    if chosen.training is not None and (share or per_class):
        with pytest.raises(ValueError, match=r"the plan's subset is '.*', chosen anew it is '"):
            choose_anew(digits, "train", chosen.subset, seed=6)


def test_names_of_no_rule_are_refused(digits: Manifest):
    for name in ("prettiest-0123456789abcdef", "balanced-1.0-0123456789abcdef+labelled-0123456789abcdef"):
        with pytest.raises(ValueError, match="is of no rule known here: give its sample numbers: --members FILE"):
            choose_anew(digits, "train", name, seed=0)
