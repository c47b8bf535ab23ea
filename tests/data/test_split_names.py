"""Names of folders and groups that are splits."""

import pytest

from pyro_sri.data.split_names import is_held_out, may_be_split, split_names


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("Train VAL Test", "train val test"),
        ("training validation testing", "train val test"),
        ("trainset Development TST", "train val test"),
        ("TRAIN_images dev test-set", "train val test"),
        ("images_train images-val imagesTest", "train val test"),
        ("imagesTr imagesTs", "train test"),
        ("train2017 val2017", "train val"),
        ("my_train my_test other", "train test -"),
        ("train_clevr val_clevr", "train val"),
        ("my_train your_test", "- -"),
        ("train_station test_tube dev_board", "- - -"),
        ("train eval holdout trainval", "train - - -"),
        ("train_val test", "- test"),
        ("strain contest tests_", "- - -"),
        ("cats 0 塔", "- - -"),
    ],
)
def test_splits_of_names(names, expected):
    found = split_names(names.split())
    assert [found.get(name, "-") for name in names.split()] == expected.split()


@pytest.mark.parametrize("name", ["eval", "Evaluation", "hold_out", "heldout_images", "train_val", "trainval2012"])
def test_names_of_images_that_are_held_out(name):
    assert is_held_out(name)
    assert may_be_split(name)


@pytest.mark.parametrize("name", ["train", "out", "medieval", "cats"])
def test_other_names(name):
    assert not is_held_out(name)
