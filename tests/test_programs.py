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

from pyro_sri.guides.segregation import Segregation, SegregationPair
from pyro_sri.guides.sri import SRIGuide
from pyro_sri.models.air import AIRModel
from pyro_sri.models.scene import SceneModel
from pyro_sri.objectives import SRI_ELBO
from pyro_sri.programs import Program, record_of


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


def test_handlers_do_not_hide_a_record() -> None:
    model = AIRModel(image_size=32, num_slots=2, window_size=8, code_size=4)
    with_data = poutine.condition(poutine.block(model, hide=["image"]), data={"z_pres_0": torch.ones(1)})
    assert record_of(with_data) is AIRModel.record
    assert record_of(lambda images: None).term("slot_3") == "kl_slots"
    assert record_of(OwnGuide()).term("weather") == "kl_weather"
    assert AIRModel.record.term("z_where_1") == "kl_where"
    assert AIRModel.record.sequence is None
