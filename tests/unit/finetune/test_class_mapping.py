"""Classes are found by name, in any order; where that cannot be it is refused with both counts."""

import io
import re

import pytest

from finetune.class_mapping import ClassMapping, map_classes
from launch.console import Console


def mapped(dataset: str, model: str | None, count: int | None = None, by: str = "name") -> tuple[ClassMapping, str]:
    said = io.StringIO()
    names = None if model is None else tuple(model.split())
    count = count if names is None else len(names)
    assert count is not None
    found = map_classes(tuple(dataset.split()), names, count, by, Console(stream=said))  # type: ignore[arg-type]
    return found, said.getvalue()


def numbers(found: ClassMapping) -> list[int] | None:
    return None if found.numbers is None else found.numbers.tolist()


def test_the_same_classes_need_no_word():
    found, said = mapped("cat dog", "cat dog")
    assert (found.names, numbers(found), said) == (("cat", "dog"), None, "")


def test_another_order_is_matched_by_name():
    found, said = mapped("cat dog emu", "emu cat dog")
    assert (found.names, numbers(found)) == (("emu", "cat", "dog"), [1, 2, 0])
    assert said == "the dataset has the model's 3 classes in another order: they are matched by name\n"


def test_some_of_the_model_s_classes():
    found, said = mapped("dog cat", "emu cat dog")
    assert (found.names, numbers(found)) == (("emu", "cat", "dog"), [2, 1])
    assert said == "the dataset has 2 of the model's 3 classes, matched by name; predictions are among all 3\n"


def test_by_number():
    found, said = mapped("cat dog", None, 2)
    assert (found.names, numbers(found)) == (("cat", "dog"), None)
    assert said.endswith("is taken for class k of the model (the model does not name its classes)\n")
    found, said = mapped("cat dog", "n01 n02", by="number")
    assert (found.names, numbers(found)) == (("cat", "dog"), None)
    assert said.endswith("(as asked for)\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("cat dog", None, 3),
            "--model has 3 classes and the dataset 2, and the model does not name its own: expected",
        ),
        (("cat dog", "a b c", None, "number"), "--model has 3 classes and the dataset 2: expected as many; give a "),
        (
            ("cat dog emu fox", "cat dog"),
            "--model has 2 classes (cat, dog) and the dataset 4 (cat, dog, emu, ...): expected all of the dataset's "
            "among the model's, which has no 'emu'; give a model or a dataset of the same classes",
        ),
        (
            ("cat dog", "n01 n02"),
            "which has no 'cat' (if they are the same classes in the same order: --classes number)",
        ),
        (
            ("crane dog", "crane dog crane"),
            "--model has several classes of the name 'crane', so names do not tell which is which; where the dataset's "
            "are in the same order: --classes number",
        ),
    ],
)
def test_what_does_not_fit_is_refused(arguments: tuple[str, ...], message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        mapped(*arguments)  # type: ignore[arg-type]
