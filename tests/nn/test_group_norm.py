import torch
from torch import nn

from pyro_sri.nn.group_norm import GroupNorm


def test_it_is_a_group_normalisation() -> None:
    """Results and all gradients, in both memory formats, with gradients in either."""
    ours, plain = GroupNorm(4, 12).double(), nn.GroupNorm(4, 12).double()
    nn.init.normal_(plain.weight)
    nn.init.normal_(plain.bias)
    ours.load_state_dict(plain.state_dict())
    formats = (torch.contiguous_format, torch.channels_last)
    for memory_format in formats:
        x = torch.randn(3, 12, 4, 5, dtype=torch.float64).add(2).contiguous(memory_format=memory_format)
        for gradient_format in formats:
            weights = torch.randn(3, 12, 4, 5, dtype=torch.float64).contiguous(memory_format=gradient_format)
            results = []
            for layer in (ours, plain):
                given = x.clone().requires_grad_()
                y = layer(given)
                results.append((y, *torch.autograd.grad(y, (given, layer.weight, layer.bias), weights)))
            for one, other in zip(*results, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
