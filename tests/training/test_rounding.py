"""Faster ways of running differ from the plain one by rounding alone: whole loss curves, beside rounding's own."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pyro
import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from pyro_sri.config import RunConfig
from pyro_sri.data.loading import training_batches
from pyro_sri.data.making import make_dataset
from pyro_sri.nn.decoder import SlotDecoder, SlotImages
from pyro_sri.nn.transposed_conv import TransposedConv
from pyro_sri.nn.unet import UpConv
from pyro_sri.presets import PRESETS
from pyro_sri.training.step import Stepper, TrainingStep, new_optimizer

STEPS, LOG_EVERY = 300, 60
SEEDS = (0, 1, 2)

# Root mean squares over 3 seeds, beside those of 2 perturbations of each, or of 1: where the spread is the same, their
# ratio is above this once in a thousand times (the F distribution with 3 and 6, or 3 and 3, degrees of freedom). The
# spread is the same, however many roundings there were, once training has made the most of the first.
BESIDE_TWO, BESIDE_ONE = 23.7**0.5, 141.1**0.5


def plain_decoder(self: SlotDecoder, slots: Tensor) -> SlotImages:
    decoded = self.layers(slots.flatten(0, 1)).unflatten(0, slots.shape[:2])
    return SlotImages(decoded[:, :, :3].sigmoid(), decoded[:, :, 3:].log_softmax(dim=1))


def plain_up(self: UpConv, below: Tensor, skip: Tensor) -> Tensor:
    return nn.Conv2d.forward(self, torch.cat([F.interpolate(below, scale_factor=2.0), skip], dim=1))


@pytest.fixture
def plainly(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes networks compute as their definitions read."""

    def patch() -> None:
        monkeypatch.setattr(SlotDecoder, "forward", plain_decoder)
        monkeypatch.setattr(TransposedConv, "forward", nn.ConvTranspose2d.forward)
        monkeypatch.setattr(UpConv, "forward", plain_up)

    return patch


def loss_curve(
    config: RunConfig, perturb: Callable[[Tensor], Tensor] | None = None, *, fused: bool = True
) -> list[float]:
    """Mean losses of every 60 steps."""
    torch.manual_seed(config.seed)
    module = TrainingStep(*config.build())
    if perturb is not None:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(perturb(parameter))
    optimizer = new_optimizer(module, config)
    if not fused:
        optimizer = torch.optim.Adam(list(module.parameters()), lr=config.learning_rate, foreach=False)
    stepper = Stepper(config, Fabric(accelerator="cpu", devices=1), module, optimizer)
    module.train()
    batches = training_batches(config.data_file, "train", config.batch_size, config.seed)
    losses = []
    with pyro.settings.context(module_local_params=True), pyro.validation_enabled(False):
        for step in range(STEPS):
            stepper(next(batches)["images"], step)
            if (step + 1) % LOG_EVERY == 0:
                losses.append(stepper.take_means()["loss"])
    return losses


def up(weights: Tensor) -> Tensor:
    return torch.nextafter(weights, torch.full_like(weights, torch.inf))


def down(weights: Tensor) -> Tensor:
    return torch.nextafter(weights, torch.full_like(weights, -torch.inf))


def to_bfloat16(weights: Tensor) -> Tensor:
    return weights.bfloat16().float()


def spread(curves: Tensor, plain: Tensor) -> Tensor:
    """Root mean square distance of curves [.., seeds, points] from the plain ones [seeds, points]: [points]."""
    return (curves - plain).square().flatten(0, -2).mean(0).sqrt()


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    data = tmp_path / "tetrominoes.h5"
    make_dataset("tetrominoes", data, size=32, train=256, val=0, test=0, seed=5)
    return dataclasses.replace(
        PRESETS["sri-quick"].config, data=data, segregation_steps=0, steps=STEPS, decay_steps=STEPS, learning_rate=1e-3
    )


@pytest.mark.slow
def test_loss_curves_differ_by_rounding_alone(
    config: RunConfig, plainly: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Training is chaotic: how far a path may be from another is what one unit in the last place makes of it."""
    configs = [dataclasses.replace(config, seed=seed) for seed in SEEDS]
    curves = {
        "fast": [loss_curve(each) for each in configs],
        "recompute": [loss_curve(dataclasses.replace(each, recompute_decoder=True)) for each in configs],
        "bf16": [loss_curve(dataclasses.replace(each, precision="bf16")) for each in configs],
    }
    plainly()
    curves["plain"] = [loss_curve(each, fused=False) for each in configs]
    for name, perturb in (("plain, up", up), ("plain, down", down), ("plain, from bf16", to_bfloat16)):
        curves[name] = [loss_curve(each, perturb, fused=False) for each in configs]
    with capsys.disabled():
        print("\nloss: seed", *(f"{step:>11}" for step in range(LOG_EVERY, STEPS + 1, LOG_EVERY)))
        for name, by_seed in curves.items():
            for seed, losses in zip(SEEDS, by_seed, strict=True):
                print(f"{name:<17}{seed}", *(f"{loss:>11.4f}" for loss in losses))

    tensors = {name: torch.tensor(by_seed, dtype=torch.float64) for name, by_seed in curves.items()}
    plain = tensors["plain"]
    assert plain.isfinite().all()
    assert (plain[:, -1] < plain[:, 0]).all()  # it learns
    assert curves["recompute"] == curves["fast"]

    rounding = spread(torch.stack([tensors["plain, up"], tensors["plain, down"]]), plain)
    coarse = spread(tensors["plain, from bf16"], plain)
    distances = {name: spread(tensors[name], plain) for name in ("fast", "bf16")}
    with capsys.disabled():
        for name, values in {"one unit": rounding, "weights from bf16": coarse, **distances}.items():
            print(f"{name:<18}", *(f"{value:>11.2e}" for value in values.tolist()))
    assert (distances["fast"] <= BESIDE_TWO * rounding).all()
    assert (distances["bf16"] <= BESIDE_ONE * coarse).all()
