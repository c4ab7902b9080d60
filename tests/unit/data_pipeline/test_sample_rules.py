"""Everyone takes part, and of the chosen ones alone the labels are looked at; the plan's names choose the same anew."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from data_pipeline.label_sets import LabelSets
from data_pipeline.manifest import Manifest
from data_pipeline.order import subset_hash
from data_pipeline.sample_rules import choose_anew, choose_samples
from data_pipeline.subset import read_labels

MakeDataset = Callable[..., Manifest]
UNLABELLED, WITHDRAWN = [4, 17, 51], [0, 33, 17]


@pytest.mark.parametrize("per_class", [None, 5])
@pytest.mark.parametrize("share", [None, 0.2])
@pytest.mark.parametrize("unlabelled", [[], UNLABELLED])
@pytest.mark.parametrize("withdrawn", [[], sorted(WITHDRAWN)])
def test_everyone_is_trained_on_but_those_held_out_and_withdrawn(
    make_dataset: MakeDataset,
    per_class: int | None,
    share: float | None,
    unlabelled: Sequence[int],
    withdrawn: Sequence[int],
):
    data = make_dataset([30, 37], unlabelled=unlabelled, withdrawn=withdrawn)
    chosen = choose_samples(data, "train", seed=5, per_class=per_class, hold_out_share=share, everyone=True)
    alone = choose_samples(data, "train", seed=5, per_class=per_class, hold_out_share=share)
    np.testing.assert_array_equal(chosen.validation, alone.validation)  # type: ignore[arg-type]
    held_out = set() if chosen.validation is None else set(chosen.validation.tolist())
    assert chosen.training is not None
    assert chosen.training.tolist() == sorted(set(range(67)) - set(withdrawn) - held_out)
    # The labels that count are those that would have been trained on alone.
    assert alone.labelled is None
    if chosen.labelled is None:
        assert alone.training is None
        assert (per_class, share, unlabelled, withdrawn) == (None, None, [], [])
    else:
        assert alone.training is not None
        assert chosen.labelled.tolist() == alone.training.tolist()
        assert set(chosen.labelled.tolist()) <= set(chosen.training.tolist())
        assert (read_labels(data, "train")[chosen.labelled] >= 0).all()
    everyone = f"everyone-{subset_hash(chosen.training)}"
    assert chosen.subset == "+".join(filter(None, [alone.subset, everyone]))
    anew = choose_anew(data, "train", chosen.subset, seed=5)
    np.testing.assert_array_equal(anew, chosen.training)  # type: ignore[arg-type]
    if per_class or share:
        with pytest.raises(ValueError, match=r"the plan's subset is '.*\+everyone-\w{16}', chosen anew it is '"):
            choose_anew(data, "train", chosen.subset, seed=6)


def test_without_any_label_in_the_split_all_take_part_without(make_dataset: MakeDataset):
    chosen = choose_samples(make_dataset([12], unlabelled=range(12)), "train", seed=0, everyone=True)
    assert chosen.training is not None
    assert chosen.labelled is not None
    assert (len(chosen.training), len(chosen.labelled)) == (12, 0)


def test_everyone_has_no_class_to_be_balanced_by(make_dataset: MakeDataset):
    data = make_dataset([30])
    with pytest.raises(ValueError, match="samples without a class cannot be balanced by it: choose either everyone or"):
        choose_samples(data, "train", seed=0, balance=0.5, everyone=True)
    digits = "0123456789abcdef"
    for name in (f"balanced-1.0-{digits}everyone-{digits}", f"balanced-1.0-{digits}+everyone-{digits}"):
        with pytest.raises(ValueError, match="is of no rule known here"):
            choose_anew(data, "train", name, seed=0)


def test_samples_with_several_labels_are_not_chosen_by_class(make_dataset: MakeDataset):
    sets = LabelSets("tags", ("a",), np.arange(31), np.zeros(30, np.int32), np.ones(30, np.bool_))
    for options in ({"per_class": 1}, {"balance": 0.5}):
        with pytest.raises(ValueError, match="samples with several labels have no one class: choose neither so many a"):
            choose_samples(make_dataset([30]), "train", seed=0, label_sets=sets, **options)  # type: ignore[arg-type]
