from collections import Counter

import pyro
import pytest
from pyro import poutine

from pyro_sri.models.scene import SceneModel


@pytest.mark.parametrize("local", [False, True])
def test_weights_are_sites_for_the_parameter_store_alone(local: bool) -> None:
    model = SceneModel(image_size=32, num_slots=2, slot_size=8, scene_size=4)
    with pyro.settings.context(module_local_params=local):
        trace = poutine.trace(model).get_trace()
    kinds = Counter(site["type"] for site in trace.nodes.values())
    assert kinds["param"] == (0 if local else len(list(model.parameters())))
    assert set(pyro.get_param_store()) == {name for name, site in trace.nodes.items() if site["type"] == "param"}
