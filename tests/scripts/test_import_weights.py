"""The authors' weights of every system become runs that give what the weights give."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import pytest
import torch

from pyro_sri import load, official
from pyro_sri.inference import explain
from pyro_sri.scripts.main import run
from pyro_sri.scripts.official_runs import OFFICIAL
from pyro_sri.system.errors import UserError
from support.golden import Golden


class Case(NamedTuple):
    """Recorded weights, how they are read, and the options that say so."""

    system: str
    golden: str
    loader: Callable[..., Any]
    setting: dict[str, Any]
    options: str


CASES = (
    Case("sri", "sri_genv2_mog", official.load_sri, {"image_size": 32, "num_slots": 5}, ""),
    Case(
        "sri",
        "sri_genv2_epan",
        official.load_sri,
        {"image_size": 32, "num_slots": 5, "kernel": "epanechnikov", "semiconv": False},
        "--kernel epanechnikov --no-semiconv",
    ),
    Case("genesis_v2", "genesis_v2", official.load_genesis_v2, {"image_size": 32, "num_slots": 4}, ""),
    Case(
        "genesis",
        "genesis",
        official.load_genesis,
        {"image_size": 32, "num_slots": 4, "pixel_std1": 0.75, "pixel_std2": 0.5},
        "",  # the weights say the pixel standard deviations
    ),
    Case(
        "emorl",
        "emorl_gauss_rpp",
        official.load_emorl,
        {"image_size": 32, "num_slots": 3, "num_layers": 2},
        "--num-layers 2",
    ),
    Case(
        "emorl",
        "emorl_plain_gru",
        official.load_emorl,
        {"image_size": 32, "num_slots": 3, "num_layers": 2, "decoder": "small"},
        "--num-layers 2 --decoder small",
    ),
    Case("slot_attention", "slot_attention", official.load_slot_attention, {"image_size": 32, "num_slots": 4}, ""),
)


def weights_file(case: Case, path: Path) -> dict[str, torch.Tensor]:
    """The recorded weights in a file, in single precision as published ones are."""
    state = {n: t.float() if t.is_floating_point() else t for n, t in Golden(case.golden).state().items()}
    torch.save({"model": state, "step": 3}, path)
    return state


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.golden)
def test_a_run_gives_what_the_weights_give(case: Case, tmp_path: Path) -> None:
    state = weights_file(case, tmp_path / "theirs.pth")
    size, slots, out = case.setting["image_size"], case.setting["num_slots"], str(tmp_path / "run")
    words = ["--system", case.system, "--image-size", str(size), "--num-slots", str(slots), "--out", out]
    run(["import-weights", str(tmp_path / "theirs.pth"), *words, *case.options.split()])
    model, guide = case.loader(state, **case.setting)
    loaded = load(tmp_path / "run")
    for ours, theirs in ((loaded.model, model), (loaded.guide, guide)):
        expected = theirs.state_dict()
        assert ours.state_dict().keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.state_dict().items())
    images = torch.rand(2, 3, size, size)
    found = []
    for pair in ((loaded.model, loaded.guide), (model.eval(), guide.eval())):
        pyro.set_rng_seed(3)
        found.append(explain(*pair, images, loaded.objective, imagine=False))
    assert torch.equal(found[0].reconstruction, found[1].reconstruction)
    assert torch.equal(found[0].slot_masks, found[1].slot_masks)
    for name, term in found[0].terms.items():
        assert torch.equal(term, found[1].terms[name]), name
    run(["sample", out, "--num", "2", "--out", str(tmp_path / "samples.png")])
    with pytest.raises(UserError, match="run"):  # which is there already
        run(["import-weights", str(tmp_path / "theirs.pth"), *words, *case.options.split()])


def test_every_system_with_a_loader_is_there() -> None:
    loaders = {name.removeprefix("load_") for name in official.__all__ if name.startswith("load_")}
    assert set(OFFICIAL) == loaders - {"emorl_geco"} == {case.system for case in CASES}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--system emorl --kernel gaussian", "--kernel does not apply to emorl: it is an option of sri, genesis_v2"),
        ("--system genesis --no-semiconv", "--semiconv does not apply to genesis"),
        ("--decoder small", "--decoder does not apply to sri: it is an option of emorl, slot_attention"),
        ("--system genesis --first-pixel-std 0.6", "trained with pixel standard deviations 0.75, 0.5"),
        ("--system slot_attention", "Slot Attention does not have"),
        ("--system air", "air"),
    ],
)
def test_what_does_not_fit_is_refused(options: str, said: str, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.system == "genesis")
    weights_file(case, tmp_path / "theirs.pth")
    words = ["--image-size", "32", "--num-slots", "4", "--out", str(tmp_path / "run"), *options.split()]
    with pytest.raises(UserError, match=said):
        run(["import-weights", str(tmp_path / "theirs.pth"), *words])
    assert not (tmp_path / "run").exists()
