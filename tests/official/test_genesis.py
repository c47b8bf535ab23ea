"""Loading the authors' GENESIS and GENESIS-v2: what is read from the weights, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pyro_sri.official import load_genesis, load_genesis_v2
from pyro_sri.system.errors import UserError
from support.golden import Golden

LOADERS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "genesis_v2": (load_genesis_v2, {"image_size": 32, "num_slots": 4}),
    "genesis": (load_genesis, {"image_size": 32, "num_slots": 4, "pixel_std1": 0.75, "pixel_std2": 0.5}),
}
systems = pytest.mark.parametrize("system", LOADERS)


def load(system: str, changes: dict[str, Any] | None = None, without: str = "", **setting: Any) -> tuple[Any, Any]:
    loader, fields = LOADERS[system]
    state = {name: tensor for name, tensor in Golden(system).state().items() if name != without}
    return loader(state | (changes or {}), **fields | setting)


@systems
def test_every_weight_arrives_in_its_dtype(system: str) -> None:
    state = {n: t.float() if t.is_floating_point() else t for n, t in Golden(system).state().items() if n != "std"}
    model, guide = load(system, state)
    arrived = [*model.state_dict().values(), *guide.state_dict().values()]
    assert sum(t.numel() for t in arrived) == sum(t.numel() for t in state.values())
    assert all(p.dtype == torch.float32 for p in (*model.parameters(), *guide.parameters()))
    assert next(load(system)[0].parameters()).dtype == torch.float64


def test_statistics_of_batch_normalisation_arrive() -> None:
    state, (model, guide) = Golden("genesis").state(), load("genesis")
    ours, theirs = guide.mask_encoder[2].g_norm, "att_process.core.q_z_nn.2.g_norm"
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(ours, name), state[f"{theirs}.{name}"])
        missing = f"att_process.core.p_x_nn.1.h_norm.{name}"
        with pytest.raises(UserError, match=r"lack 1 .*" + name):
            load("genesis", without=missing)
    assert model.mask_decoder.layers[1].h_norm.num_batches_tracked.dtype == torch.long


@systems
@pytest.mark.parametrize("name", ["discriminator.weight", "prior_linear.scale", "prior_lstm.weight_ih_l1"])
def test_unknown_name(system: str, name: str) -> None:
    with pytest.raises(UserError, match=rf"'{name}'"):
        load(system, {name: torch.zeros(2)})


@pytest.mark.parametrize(
    ("system", "name"),
    [
        ("genesis_v2", "decoder_module.13.bias"),
        ("genesis_v2", "prior_lstm.weight_ih_l0"),
        ("genesis", "std"),
        ("genesis", "prior_mlp.4.weight"),
        ("genesis", "comp_vae.decoder_module.seq.9.weight"),
        ("genesis", "comp_vae.decoder_module.seq.1.weight"),
        ("genesis", "att_process.core.q_z_mean.bias"),
    ],
)
def test_missing_name(system: str, name: str) -> None:
    with pytest.raises(UserError, match="lack") as caught:
        load(system, without=name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("system", "setting", "word"),
    [
        ("genesis_v2", {"image_size": 40}, "take 32, 64, 96 or 128"),
        ("genesis_v2", {"image_size": 64}, "not have|image size|lack"),
        ("genesis_v2", {"num_slots": 0}, "slots"),
        ("genesis_v2", {"kernel": "foo"}, "kernel"),
        ("genesis_v2", {"likelihood": "foo"}, "likelihood"),
        ("genesis_v2", {"pixel_std": -1.0}, "standard deviation"),
        ("genesis_v2", {"semiconv": False}, r"colour_head\.gate"),
        ("genesis", {"image_size": 96}, "take 32 or 64"),
        ("genesis", {"image_size": 64}, "image size"),
        ("genesis", {"num_slots": 0}, "slots"),
        ("genesis", {"num_slots": 5}, "4 values for 5 slots"),
        ("genesis", {"pixel_std1": 0.7}, r"trained with pixel standard deviations 0\.75, 0\.5, 0\.5, 0\.5"),
        ("genesis", {"pixel_std2": float("nan")}, "standard deviation"),
    ],
)
def test_settings_that_do_not_fit(system: str, setting: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word) as caught:
        load(system, **setting)
    assert "\n" not in str(caught.value)


@systems
@pytest.mark.parametrize("tensor", [torch.full((), float("nan")), torch.tensor(1), torch.zeros(3), "text"])
def test_values_that_are_no_weights(system: str, tensor: Any) -> None:
    with pytest.raises(UserError, match=r"prior_linear\.weight|prior_mlp\.4\.weight|has shape"):
        load(system, {"prior_linear.weight" if system == "genesis_v2" else "prior_mlp.4.weight": tensor})
