from typing import Any

import pytest
import torch

from pyro_sri.official import load_sri
from pyro_sri.system.errors import UserError
from support.golden import Golden

SETTING = {"image_size": 32, "num_slots": 5, "kernel": "gaussian"}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return Golden("sri_genv2_mog").state()


def test_every_weight_arrives_in_its_dtype(state: dict[str, torch.Tensor]) -> None:
    model, guide = load_sri({name: tensor.float() for name, tensor in state.items()}, **SETTING)
    parameters = [*model.parameters(), *guide.parameters()]
    assert all(p.dtype == torch.float32 for p in parameters)
    assert sum(p.numel() for p in parameters) == sum(t.numel() for t in state.values())
    assert next(load_sri(state, **SETTING)[0].parameters()).dtype == torch.float64


def test_float32_is_close_enough(state: dict[str, torch.Tensor]) -> None:
    """Casting afterwards gives the float64 networks, coordinates included."""
    model, guide = load_sri({name: tensor.float() for name, tensor in state.items()}, **SETTING)
    exact_model, exact_guide = load_sri(state, **SETTING)
    model.double(), guide.double()
    images = Golden("sri_genv2_mog")["in/x"]
    features = guide.segregation.guide.encoder(images)
    torch.testing.assert_close(features, exact_guide.segregation.guide.encoder(images), rtol=1e-6, atol=1e-6)
    slots = torch.randn(1, 2, 16, dtype=torch.float64)
    torch.testing.assert_close(model.decoder(slots).rgb, exact_model.decoder(slots).rgb, rtol=1e-6, atol=1e-6)


def test_unknown_name(state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(UserError, match=r"'discriminator\.weight'"):
        load_sri(state | {"discriminator.weight": torch.zeros(2)}, **SETTING)


def test_name_of_a_bigger_network(state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(UserError, match=r"'genesisv2.encoder.down.9.0.weight'"):
        load_sri(state | {"genesisv2.encoder.down.9.0.weight": torch.zeros(2)}, **SETTING)


@pytest.mark.parametrize("name", ["decoder.13.bias", "scene_encoder.project_to_scene_dim.0.weight"])
def test_missing_name(state: dict[str, torch.Tensor], name: str) -> None:
    with pytest.raises(UserError, match="lack"):
        load_sri({n: t for n, t in state.items() if n != name}, **SETTING)


def test_wrong_size(state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(UserError, match=r"(?s)image size|lack|not have") as caught:
        load_sri(state, **SETTING | {"image_size": 64})
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="take 32, 64, 96 or 128"):
        load_sri(state, **SETTING | {"image_size": 40})


def test_wrong_semiconv(state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(UserError, match=r"colour_head\.gate"):
        load_sri(state, **SETTING, semiconv=False)


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ({"likelihood": "foo"}, "likelihood"),
        ({"pixel_std": -1.0}, "standard deviation"),
        ({"pixel_std": float("inf")}, "standard deviation"),
        ({"num_slots": 0}, "slots"),
        ({"kernel": "foo"}, "kernel"),
    ],
)
def test_impossible_settings(state: dict[str, torch.Tensor], setting: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word):
        load_sri(state, **SETTING | setting)


@pytest.mark.parametrize("tensor", [torch.tensor(float("nan")), torch.tensor(1), "text"])
def test_values_that_are_no_weights(state: dict[str, torch.Tensor], tensor: Any) -> None:
    with pytest.raises(UserError, match="log_sigma"):
        load_sri(state | {"genesisv2.att_process.log_sigma": tensor}, **SETTING)
