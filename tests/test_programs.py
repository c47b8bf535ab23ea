import copy
from collections import Counter
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import Normal
from pyro.infer import SVI
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_sri.guides.recurrent import RecurrentGuide
from pyro_sri.guides.segregation import Segregation, SegregationPair
from pyro_sri.guides.sri import SRIGuide
from pyro_sri.models.air import AIRModel
from pyro_sri.models.scene import SceneModel
from pyro_sri.objectives import SRI_ELBO, GenesisGECO, SlotELBO, Terms
from pyro_sri.programs import Program, record_of
from support.programs import build_pair


@pytest.mark.parametrize("local", [False, True])
def test_weights_are_sites_for_the_parameter_store_alone(local: bool) -> None:
    model = SceneModel(image_size=32, num_slots=2, slot_size=8, scene_size=4)
    with pyro.settings.context(module_local_params=local):
        trace = poutine.trace(model).get_trace()
    kinds = Counter(site["type"] for site in trace.nodes.values())
    assert kinds["param"] == (0 if local else len(list(model.parameters())))
    assert set(pyro.get_param_store()) == {name for name, site in trace.nodes.items() if site["type"] == "param"}


class OwnModel(Program):
    """Has no `__init__`: nothing says where its parameters belong."""

    def forward(self, images: Tensor | None = None, **_: Any) -> None:
        with pyro.plate("scenes", len(images)):
            slots = pyro.sample("segregated_slots", Normal(0.0, 1.0).expand([3, 8]).to_event(2))
            rgb = slots[:, :, :3, None, None].sigmoid().expand(-1, -1, -1, 32, 32).mean(1)
            pyro.sample("image", Normal(rgb, 0.1).to_event(3), obs=images)


class OwnGuide(PyroModule):
    """A plain `PyroModule`, made without any setting."""

    def __init__(self) -> None:
        super().__init__("own_guide")
        self.head = nn.Linear(3, 2 * 3 * 8)

    def infer(self, images: Tensor, num_slots: int | None = None) -> Segregation:
        loc, raw = self.head(images.mean((2, 3))).unflatten(1, (3, 16)).chunk(2, -1)
        scale = raw.exp()
        return Segregation(loc, scale, pyro.sample("segregated_slots", Normal(loc, scale).to_event(2)))

    def forward(self, images: Tensor, **_: Any) -> None:
        with pyro.plate("scenes", len(images)):
            self.infer(images)


class OwnPair(SegregationPair):
    """With an `__init__` of its own, and no decorator."""

    def __init__(self) -> None:
        super().__init__(OwnModel(), OwnGuide())


@pytest.mark.parametrize("local", [False, True])
def test_an_own_segregation_pair_needs_no_decorator(local: bool, images: Tensor) -> None:
    model = SceneModel(image_size=32, num_slots=3, slot_size=8, scene_size=4)
    guide = SRIGuide(model, OwnPair())
    if not local:
        assert SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), SRI_ELBO()).step(images) > 0
        return
    with pyro.settings.context(module_local_params=True):
        module = SRI_ELBO()(model, guide)
        module(images).backward()
    assert all(parameter.grad is not None for parameter in guide.segregation.parameters())
    assert len(torch.cat([p.flatten() for p in guide.segregation.parameters()])) == 4 * 48


def test_a_store_with_other_tensors_is_told(images: Tensor, tmp_path: Any) -> None:
    """Those of another instance, of a copy's original, or read from a file."""
    pair = build_pair("recurrent")
    SVI(*pair, pyro.optim.Adam({"lr": 1e-3}), SlotELBO()).step(images)
    store = pyro.get_param_store()
    store.save(tmp_path / "store.pt")
    for strangers in (build_pair("recurrent"), copy.deepcopy(pair)):
        svi = SVI(*strangers, pyro.optim.Adam({"lr": 1e-3}), SlotELBO())
        with pytest.warns(UserWarning, match="other tensors under 'scene_model' and 'recurrent_guide'"):
            svi.step(images)
        with pytest.warns(UserWarning, match="state_dict"):
            svi.evaluate_loss(images)
    pyro.clear_param_store()
    store.load(tmp_path / "store.pt")
    with pytest.warns(UserWarning, match="clear_param_store"):
        SVI(*pair, pyro.optim.Adam({"lr": 1e-3}), SlotELBO()).evaluate_loss(images)


def test_a_store_of_its_own_tensors_is_not(images: Tensor) -> None:
    """Twice the same pair, another pair under other names, and own parameters beside them: warnings are errors here."""
    first = build_pair("recurrent")
    model = SceneModel(image_size=32, num_slots=3, slot_size=16, scene_size=12, name="another_model")
    second = model, RecurrentGuide(model, image_size=32, features=16, hidden=16, name="another_guide")

    def weighed(*args: Any, **kwargs: Any) -> None:
        with poutine.scale(scale=pyro.param("weight", torch.tensor(2.0)).detach()):
            first[0](*args, **kwargs)

    for pair in (first, second, first, (weighed, first[1])):
        before = [parameter.clone() for parameter in pair[1].parameters()]
        SVI(*pair, pyro.optim.Adam({"lr": 1e-3}), SlotELBO()).step(images)
        assert any(not torch.equal(a, b) for a, b in zip(before, pair[1].parameters(), strict=True))


class OwnObjective(SlotELBO):
    """Ten times the bound, without its KL; the later stages see means alone."""

    def objective(self, terms: Terms) -> Tensor:
        return 10 * terms["nll"].mean()

    def segregated(self, traces: Any) -> Segregation:
        means, scales, _ = super().segregated(traces)
        return Segregation(means, scales, means)


def test_a_segregation_pair_brings_its_own_objective(images: Tensor) -> None:
    model = SceneModel(image_size=32, num_slots=3, slot_size=8, scene_size=4)
    guide = SRIGuide(model, SegregationPair(OwnModel(), OwnGuide(), objective=OwnObjective))
    elbo = SRI_ELBO()
    traces = elbo.trace(model, guide, images)
    nodes, terms = traces.guide.nodes, elbo.read(traces)
    assert nodes["segregated_slots"]["mask"] is False
    torch.testing.assert_close(terms["segregation_nll"], -traces.segregation.nodes["image"]["fn"].log_prob(images))
    assert (terms["segregation_kl"] == terms["segregation_kl_segregated_slots"]).all()
    of_sri = sum(terms[name].mean() for name in ("nll", "kl_scene", "kl_slots", "kl_cross"))
    torch.testing.assert_close(elbo.objective(terms), of_sri + 10 * terms["segregation_nll"].mean())
    seen = []
    guide.scene_encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    traces = elbo.trace(model, guide, images)
    assert torch.equal(seen[0], traces.guide.nodes["segregated_slots"]["fn"].mean)
    assert not seen[0].requires_grad


def test_what_goes_with_an_own_objective(images: Tensor) -> None:
    model = SceneModel(image_size=32, num_slots=3, slot_size=8, scene_size=4)
    guide = SRIGuide(model, SegregationPair(OwnModel(), OwnGuide(), objective=OwnObjective))
    with pytest.raises(ValueError, match="needs a guide with a site 'attention_masks'"):
        SRI_ELBO(mask_kl="decoder").terms(model, guide, images)
    geco = GenesisGECO(target=0.0, image_size=32)
    with pytest.raises(ValueError, match="pass the controller to that"):
        SRI_ELBO(segregation=OwnObjective(), segregation_geco=geco)
    given = SRI_ELBO(segregation=OwnObjective(geco=geco))
    assert given.controllers() == {"beta_segregation": geco}
    assert "elbo.segregation.geco.beta" in given(model, guide).state_dict()
    given.step = 7
    given.eval().terms(model, guide, images)
    assert (given.segregation.step, given.segregation.training) == (7, False)


def test_handlers_do_not_hide_a_record() -> None:
    model = AIRModel(image_size=32, num_slots=2, window_size=8, code_size=4)
    with_data = poutine.condition(poutine.block(model, hide=["image"]), data={"z_pres_0": torch.ones(1)})
    assert record_of(with_data) is AIRModel.record
    assert record_of(lambda images: None).term("slot_3") == "kl_slots"
    assert record_of(OwnGuide()).term("weather") == "kl_weather"
    assert AIRModel.record.term("z_where_1") == "kl_where"
    assert AIRModel.record.sequence is None
