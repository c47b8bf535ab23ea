"""Mutations by name: which one a case draws, and that it does the same each time."""

from collections import Counter
from pathlib import Path

import pytest

from support.fuzz.kinds import KINDS
from support.fuzz.tables import chosen, part
from support.fuzz.workers import damaged_copy

TABLE = {"rare": (1.0, None), "common": (8.0, None), **part("some ", 3, {"a": (1, None), "b": (2, None)})}


def test_mutations_are_drawn_by_weight() -> None:
    counts = Counter(chosen(TABLE, [0, case]) for case in range(1200))
    for name, (weight, _) in TABLE.items():
        assert abs(counts[name] - 100 * weight) < 50, name


def test_a_new_mutation_changes_no_case_of_the_others() -> None:
    before = [chosen(TABLE, [0, case]) for case in range(300)]
    after = [chosen({"new": (4.0, None), **TABLE}, [0, case]) for case in range(300)]
    assert {new for old, new in zip(before, after, strict=True) if new != old} == {"new"}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["TFRecords structure", "ShapeStacks", "pictures", "metrics"])
def test_a_drawn_mutation_can_be_tried_alone(kind: str, tmp_path: Path) -> None:
    for case in range(3):
        mutation = chosen(KINDS[kind].mutations, [0, case])
        first = damaged_copy(KINDS[kind], [0, case], tmp_path / "first")
        alone = damaged_copy(KINDS[kind], [0, case], tmp_path / "alone", only=mutation)
        assert contents(first) == contents(alone)


def test_the_mutation_that_is_named_is_the_one_that_is_done(tmp_path: Path) -> None:
    emptied = damaged_copy(KINDS["dataset"], [0, 0], tmp_path, only="bytes: emptied")
    assert contents(emptied) == {"scenes.h5": b""}


def test_every_mutation_has_a_name_that_can_be_typed() -> None:
    for name in (name for kind in KINDS.values() for name in kind.mutations):
        assert name.isascii()
        assert name.isprintable()
        assert len(name) < 60
