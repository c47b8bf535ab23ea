"""Muon: convolutions move by orthogonalised momentum, all else as Adam moves it."""

import copy

import pytest
import torch
from torch import Tensor, nn

from pyro_sri.training.optimizers import ADAM_SIZE, Muon, orthogonalised


@pytest.mark.parametrize("shape", [(16, 400), (400, 16), (8, 8)])
def test_orthogonalised_matrices_keep_their_directions(shape: tuple[int, int]) -> None:
    """All singular values come near 1; singular vectors stay, up to rounding in so few iterations."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    turned = left.mT @ orthogonalised(matrix) @ right.mT
    values = turned.diagonal()
    assert ((values > 0.3) & (values < 1.3)).all()
    torch.testing.assert_close(turned, values.diag(), atol=1e-8, rtol=0)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(8 * 16, 4))


def train(module: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (module(images).softmax(1)[:, 0] - images.mean((1, 2, 3))).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.fixture
def images() -> Tensor:
    return torch.rand(32, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def test_what_is_no_convolution_moves_as_with_adam(images: Tensor) -> None:
    ours, theirs = network(), network()
    train(ours, Muon(ours.parameters(), lr=1e-2), images, 1)
    train(theirs, torch.optim.Adam(theirs.parameters(), lr=1e-2, fused=True), images, 1)
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other) == (one.ndim != 4), name


def test_a_convolutions_step_is_as_long_as_adams(images: Tensor) -> None:
    module = network()
    before = module[0].weight.detach().clone()
    train(module, Muon(module.parameters(), lr=1e-2), images, 1)
    moved = (module[0].weight - before).square().mean().sqrt().item()
    assert moved == pytest.approx(ADAM_SIZE * 1e-2, rel=0.25)


def test_it_learns_and_goes_on_from_its_state(images: Tensor) -> None:
    whole = network()
    losses = train(whole, Muon(whole.parameters(), lr=1e-2), images, 20)
    assert losses[-1] < losses[0] / 2
    parts = network()
    optimizer = Muon(parts.parameters(), lr=1e-2)
    train(parts, optimizer, images, 8)
    state, parts = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(parts)
    optimizer = Muon(parts.parameters(), lr=1e-2)
    optimizer.load_state_dict(state)
    train(parts, optimizer, images, 12)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(one, other)


def test_weights_without_gradient_stay(images: Tensor) -> None:
    module = network()
    module[0].requires_grad_(False)
    before = module[0].weight.clone()
    train(module, Muon(module.parameters(), lr=1e-2), images, 2)
    assert torch.equal(module[0].weight, before)
