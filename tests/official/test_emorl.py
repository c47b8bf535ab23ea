"""The authors' EMORL and Slot Attention weights: what is read, what is refused."""

from typing import Any

import pytest
import torch

from pyro_sri.nn import DualGRU, JointGRU
from pyro_sri.objectives import EmorlGECO
from pyro_sri.official import load_emorl, load_emorl_geco, load_slot_attention
from pyro_sri.system.errors import UserError
from support.golden import Golden

State = dict[str, torch.Tensor]
SETTING = {"image_size": 32, "num_slots": 3, "num_layers": 2, "decoder": "iodine"}


@pytest.fixture(scope="module")
def state() -> State:
    return Golden("emorl_gauss_rpp").state()


def test_every_weight_arrives_in_its_dtype(state: State) -> None:
    for dtype in (torch.float32, torch.float64):
        model, guide = load_emorl({name: tensor.to(dtype) for name, tensor in state.items()}, **SETTING)
        parameters = [*model.parameters(), *guide.parameters()]
        assert {p.dtype for p in parameters} == {dtype}
        assert sum(p.numel() for p in parameters) == sum(t.numel() for t in state.values()) - 2  # GECO's numbers
    assert guide.refinement_steps == 0


def test_the_kind_of_gru_is_read_from_the_weights(state: State) -> None:
    assert isinstance(load_emorl(state, **SETTING)[1].gru, DualGRU)
    plain = Golden("emorl_plain_gru").state()
    assert isinstance(load_emorl(plain, **SETTING | {"decoder": "small"})[1].gru, JointGRU)


def test_weights_without_the_objectives_state(state: State) -> None:
    bare = {name: tensor for name, tensor in state.items() if not name.startswith("geco_")}
    load_emorl(bare, **SETTING)
    geco = EmorlGECO(target=0.0, image_size=32).double()
    with pytest.raises(UserError, match="have no number 'geco_C_ema'"):
        load_emorl_geco(bare, geco)
    load_emorl_geco(state, geco)
    assert torch.equal(geco.beta, state["geco_beta"])
    assert torch.equal(geco.slack_ema, state["geco_C_ema"])
    assert geco.started


@pytest.mark.parametrize(
    "name", ["discriminator.weight", "hvae_networks.gru.cell.weight_ih_3", "hvae_networks.encoder_pt_1.8.weight"]
)
def test_unknown_name(state: State, name: str) -> None:
    with pytest.raises(UserError, match=f"the weights hold '{name}'"):
        load_emorl(state | {name: torch.zeros(2)}, **SETTING)


@pytest.mark.parametrize(
    "name",
    ["refinenet.loc.bias", "hvae_networks.to_q.weight", "hvae_networks.gru.cell.bias_in", "refinenet.loc.weight"],
)
def test_missing_name(state: State, name: str) -> None:
    with pytest.raises(UserError, match="lack"):
        load_emorl({n: t for n, t in state.items() if n != name}, **SETTING)


@pytest.mark.parametrize(
    "name", ["hvae_networks.gru.cell.weight_hn_2", "refinenet.loc.bias", "hvae_networks.to_q.weight"]
)
def test_wrong_shape(state: State, name: str) -> None:
    with pytest.raises(UserError, match="shape"):
        load_emorl(state | {name: torch.zeros(3)}, **SETTING)


def test_wrong_decoder(state: State) -> None:
    with pytest.raises(UserError, match=r"image_decoder\.decode"):
        load_emorl(state, **SETTING | {"decoder": "small"})


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ({"likelihood": "foo"}, "likelihood"),
        ({"pixel_std": -1.0}, "standard deviation"),
        ({"num_slots": 0}, "slots"),
        ({"num_layers": 0}, "layers"),
        ({"prior": "foo"}, "prior"),
        ({"decoder": "foo"}, "decoder"),
        ({"decoder": "big", "image_size": 40}, "multiples of 16"),
        ({"refinement_steps": -1}, "refinement_steps"),
        ({"image_size": 0}, "image size"),
    ],
)
def test_impossible_settings(state: State, setting: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word) as caught:
        load_emorl(state, **SETTING | setting)
    assert "\n" not in str(caught.value)


def test_values_that_are_no_weights(state: State) -> None:
    with pytest.raises(UserError, match="not finite"):
        load_emorl(state | {"refinenet.loc.bias": torch.full((10,), float("nan"))}, **SETTING)


def test_slot_attention() -> None:
    state = Golden("slot_attention").state()
    setting = {"image_size": 32, "num_slots": 4}
    parameters = [p for program in load_slot_attention(state, **setting) for p in program.parameters()]
    assert sum(p.numel() for p in parameters) == sum(t.numel() for t in state.values())
    with pytest.raises(UserError, match="'prior'"):
        load_slot_attention(state | {"prior": torch.zeros(2)}, **setting)
    with pytest.raises(UserError, match="lack"):
        load_slot_attention({n: t for n, t in state.items() if n != "mlp.0.bias"}, **setting)
    with pytest.raises(UserError, match="lack 'to_q"):
        load_slot_attention({n: t for n, t in state.items() if n != "to_q.weight"}, **setting)
    with pytest.raises(UserError, match="shape"):
        load_slot_attention(state, **setting, decoder="iodine")
    with pytest.raises(UserError, match="unknown decoder"):
        load_slot_attention(state, **setting, decoder="foo")
    with pytest.raises(UserError, match="0 slots"):
        load_slot_attention(state, image_size=32, num_slots=0)
