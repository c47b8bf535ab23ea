"""What `evaluate` prints: the metrics that matter in groups, all of them on demand, and nothing cut."""

import re
from typing import Any

import pytest

from pyro_sri.evaluation import MEANINGS, METRICS
from pyro_sri.evaluation.summary import BELOW_0, Summary, summarise
from pyro_sri.scripts.metric_tables import check_names, chosen, print_metrics, print_seeds
from pyro_sri.system.errors import UserError

Capture = pytest.CaptureFixture[str]
CONDITIONS = {"num_images": 320, "data": "generated: towers.h5", "split": "test", "step": 7, "training_seed": 0}
FULL: dict[str, Any] = CONDITIONS | {
    **dict.fromkeys(MEANINGS, -1.2345678e-10),
    "ari_fg_stderr": 0.5,
    "ppc_roughness_surprising": 1.0,
    "nll": None,
    "nll_reason": "no likelihood here",
    "brand_new": 3,
    "count_0_found_1": 4,
}


def shown(out: str) -> list[str]:
    """The metrics that have a line."""
    return [line.split()[0] for line in out.splitlines() if line and line.split()[0] in FULL]


def test_the_metrics_that_matter_stand_in_groups(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_metrics("runs/a", FULL, (), False)
    out = capsys.readouterr().out
    assert len(out.splitlines()) < 60
    assert max(map(len, out.splitlines()[:-3])) <= 80
    named = shown(out)
    assert {"ari_fg", "mse", "iwae_bpd", "frechet", "structure_accuracy", "brand_new"} <= set(named)
    assert not any(MEANINGS[name].detail for name in named if name in MEANINGS)
    assert out.index("SEGMENTATION") < out.index("ari_fg") < out.index("RECONSTRUCTION") < out.index("mse")
    assert "no likelihood here" in " ".join(out.split())
    assert "--all" in out
    assert BELOW_0 in out


def test_all_of_them(capsys: Capture) -> None:
    print_metrics("runs/a", FULL, (), True)
    out = capsys.readouterr().out
    assert set(shown(out)) == {*MEANINGS, "brand_new"}
    surprise = next(line for line in out.splitlines() if line.startswith("ppc_roughness_surprising"))
    assert "not a failure" in surprise
    assert "--all" not in out
    assert "1 found" in out


def test_only_some(capsys: Capture) -> None:
    print_metrics("runs/a", FULL, ("mse", "ppc_contrast"), False)
    assert shown(capsys.readouterr().out) == ["mse", "ppc_contrast"]


def test_a_positive_bound_needs_no_explanation(capsys: Capture) -> None:
    print_metrics("runs/a", CONDITIONS | {"bpd": 2.5}, (), False)
    assert BELOW_0 not in capsys.readouterr().out


@pytest.mark.parametrize("columns", ["60", "80", None])
def test_seeds_are_whole(columns: str | None, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    else:
        monkeypatch.delenv("COLUMNS", raising=False)
    found = [FULL | {"training_seed": seed, "mse": -1.2345e-17 * (seed + 1)} for seed in range(12)]
    print_seeds(Summary("sri-mog-shapestacks, num_slots 9", (), tuple(found), summarise(found)), (), True)
    out = capsys.readouterr().out
    for seed in range(12):
        assert re.search(rf"\bseed {seed}\b", out)
        assert f"{found[seed]['mse']:.4g}" in out.split()
    names = set(out.split())
    assert set(MEANINGS) - {"nll"} <= names
    if columns:
        assert max(map(len, out.splitlines())) <= int(columns)


def test_a_wrong_name_is_told_the_nearest() -> None:
    check_names(MEANINGS)
    with pytest.raises(UserError, match="there is no metric 'arifg': did you mean 'ari_fg'"):
        check_names(["mse", "arifg"])


def test_every_group_has_metrics_that_are_shown_or_is_about_details() -> None:
    groups = chosen(MEANINGS, (), False)
    assert set(METRICS) - set(groups) == {"posterior predictive checks"}
    assert sum(map(len, groups.values())) < 20
