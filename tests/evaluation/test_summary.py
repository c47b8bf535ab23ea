"""Seeds put together: which runs are repetitions, and their spread, by hand and against NumPy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyro_sri.config import GenesisV2Config, SRIConfig
from pyro_sri.evaluation.summary import differing_conditions, group_runs, summaries, summarise
from pyro_sri.runs import Run
from pyro_sri.system.errors import UserError

EVALUATION = {"ari_fg": 0.5, "split": "test", "data": "rooms.h5", "num_images": 10, "seed": 0, "step": 7}


def sri_run(name: str, **fields: Any) -> Run:
    return Run(Path(name), SRIConfig(**{"preset": "sri-rooms", "dataset": "rooms"} | fields))


def evaluation(seed: int, **metrics: Any) -> dict[str, Any]:
    return EVALUATION | {"training_seed": seed} | metrics


def test_runs_that_differ_in_seed_and_paths_only_are_a_group() -> None:
    runs = [sri_run("a", seed=0, data=Path("x.h5")), sri_run("b", seed=1, data=Path("y.h5")), sri_run("c", seed=2)]
    (group,) = group_runs(runs)
    assert group.name == "sri-rooms"
    assert group.runs == tuple(runs)
    assert group.differences == {}


def test_data_of_one_content_may_have_two_names() -> None:
    fields = {"data_hash": "0123456789abcdef", "seed": 1, "dataset": "own"}
    assert len(group_runs([sri_run("a", data_hash=fields["data_hash"]), sri_run("b", **fields)])) == 1
    assert len(group_runs([sri_run("a"), sri_run("b", seed=1, dataset="own")])) == 2


def test_summaries_are_of_configurations_or_say_why_not() -> None:
    runs = [sri_run("a"), sri_run("b", seed=1), sri_run("c", num_slots=5)]
    metrics = [evaluation(0), evaluation(1, ari_fg=0.7), evaluation(0)]
    together, alone = summaries(runs, ["a", "b", "c"], metrics)
    assert (together.name, together.runs, together.problem) == ("sri-rooms, num_slots 9", ("a", "b"), None)
    assert together.spreads["ari_fg"].mean == pytest.approx(0.6)
    assert (alone.name, alone.runs, alone.spreads["ari_fg"].std) == ("c", ("c",), None)
    apart = summaries(runs[:2], ["a", "b"], [evaluation(0), evaluation(1, num_images=3)])
    assert [summary.name for summary in apart] == ["a", "b"]
    assert all("num_images is 10 and 3" in str(summary.problem) for summary in apart)


def test_runs_that_differ_elsewhere_stand_apart() -> None:
    runs = [
        sri_run("a", num_slots=5),
        sri_run("b", num_slots=7),
        sri_run("c", num_slots=5, seed=1),
        sri_run("d", num_slots=5, data_hash="0123456789abcdef"),
    ]
    groups = group_runs(runs)
    assert [[run.path.name for run in group.runs] for group in groups] == [["a", "c"], ["b"], ["d"]]
    assert [group.name for group in groups] == [
        "sri-rooms, data_hash none, num_slots 5",
        "sri-rooms, data_hash none, num_slots 7",
        "sri-rooms, data_hash 01234567, num_slots 5",
    ]
    assert groups[1].differences == {"data_hash": None, "num_slots": 7}


def test_systems_are_told_apart_by_preset() -> None:
    other = Run(Path("b"), GenesisV2Config(preset="genesis_v2-rooms", dataset="rooms"))
    groups = group_runs([sri_run("a"), other, sri_run("c", seed=1)])
    assert [group.name for group in groups] == ["sri-rooms", "genesis_v2-rooms"]
    assert groups[0].differences["system"] == "sri"
    assert "matching" in groups[0].differences
    assert "matching" not in groups[1].differences


def test_no_runs_no_groups() -> None:
    assert group_runs([]) == []


def test_spread_by_hand_and_against_numpy() -> None:
    found = summarise([evaluation(0, ari_fg=0.5), evaluation(1, ari_fg=0.8), evaluation(4, ari_fg=0.2)])
    assert list(found) == ["ari_fg"]  # conditions have no spread
    spread = found["ari_fg"]
    assert spread.mean == pytest.approx(0.5)
    assert spread.std == pytest.approx(0.3)  # sqrt((0 + 0.09 + 0.09) / 2)
    assert (spread.values, spread.seeds, spread.missing) == ((0.5, 0.8, 0.2), (0, 1, 4), 0)
    assert str(spread) == "0.5 ± 0.3"
    values = np.random.default_rng(0).normal(-1e4, 3, 9)
    many = summarise([evaluation(seed, nll=float(value)) for seed, value in enumerate(values)])["nll"]
    assert many.mean == pytest.approx(values.mean())
    assert many.std == pytest.approx(values.std(ddof=1))


def test_one_value_has_no_deviation() -> None:
    spread = summarise([evaluation(3)])["ari_fg"]
    assert (spread.mean, spread.std, spread.seeds) == (0.5, None, (3,))
    assert str(spread) == "0.5"


def test_what_is_not_computed_is_skipped_and_counted() -> None:
    without = evaluation(1, ari_fg=None, ari_fg_reason="no masks", note="text", flag=True, nll=float("nan"), only=2)
    spreads = summarise([evaluation(0), without, evaluation(2, ari_fg=0.7)])
    assert list(spreads) == ["ari_fg", "only"]
    assert (spreads["ari_fg"].seeds, spreads["ari_fg"].missing) == ((0, 2), 1)
    assert (spreads["only"].values, spreads["only"].missing) == ((2.0,), 2)


@pytest.mark.parametrize("condition", [{"split": "val"}, {"num_images": 20}, {"data": "other.h5"}])
def test_evaluations_that_do_not_compare_are_refused(condition: dict[str, Any]) -> None:
    (name,) = condition
    metrics = [evaluation(0), evaluation(1, **condition)]
    with pytest.raises(UserError, match=f"{name} is {EVALUATION[name]} and {condition[name]}"):
        summarise(metrics)
    assert differing_conditions(metrics) == [name]


def test_a_seed_counts_once() -> None:
    with pytest.raises(UserError, match="seed 5 occurs twice"):
        summarise([evaluation(5), evaluation(1), evaluation(5)])


def test_metrics_with_conditions_of_their_own() -> None:
    first = evaluation(0, iwae_bpd=3.0, iwae_samples=64, frechet=1.0, frechet_features="a")
    second = evaluation(1, iwae_bpd=4.0, iwae_samples=8, frechet=None, frechet_features="b")
    assert differing_conditions([first, second], "iwae_bpd") == ["iwae_samples"]
    assert differing_conditions([first, second], "ari_fg") == []
    assert list(summarise([first, second])) == [
        "ari_fg",
        "frechet",
    ]  # the only value of frechet needs no other's features
