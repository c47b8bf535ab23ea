import torch
from torch import nn

from pyro_sri.training.averaging import WeightAverage


def network() -> nn.Module:
    """Two layers that share a weight, with a buffer."""
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.BatchNorm1d(2))
    module[1].weight = module[0].weight
    return module


def move(module: nn.Module, value: float) -> None:
    with torch.no_grad():
        for tensor in (*module.parameters(), module[2].running_mean):
            tensor.fill_(value)


def test_it_is_the_average_by_hand() -> None:
    module = network()
    move(module, 1.0)
    average = WeightAverage(module, 0.3)
    expected = 1.0
    for step, (value, decay) in enumerate([(2.0, 1 / 10), (5.0, 2 / 11), (-1.0, 3 / 12), (4.0, 0.3), (3.0, 0.3)]):
        move(module, value)
        average.update(step)
        expected = decay * expected + (1 - decay) * value
    state = average.state_dict()
    assert list(state) == list(module.state_dict())
    for name, tensor in state.items():
        if name == "2.running_mean":
            assert (tensor == 3.0).all()  # no parameter: as it is
        elif "running" not in name and "num" not in name:
            torch.testing.assert_close(tensor, torch.full_like(tensor, expected))
    assert state["0.weight"] is state["1.weight"]


def test_it_stands_in_for_the_parameters_and_leaves_no_trace() -> None:
    module = network()
    average = WeightAverage(module, 0.9)
    places = [parameter.data_ptr() for parameter in module.parameters()]
    move(module, 2.0)
    average.update(0)
    trained = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with average.in_place():
        assert all(torch.equal(tensor, module.state_dict()[name]) for name, tensor in average.state_dict().items())
        assert not torch.equal(module.state_dict()["0.weight"], trained["0.weight"])
    assert all(torch.equal(tensor, module.state_dict()[name]) for name, tensor in trained.items())
    assert places == [parameter.data_ptr() for parameter in module.parameters()]


def test_it_goes_on_from_its_state() -> None:
    module = network()
    one = WeightAverage(module, 0.9)
    move(module, 2.0)
    one.update(0)
    other = WeightAverage(module, 0.9)
    other.load_state_dict(one.state_dict())
    move(module, 7.0)
    for average in (one, other):
        average.update(1)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
