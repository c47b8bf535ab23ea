"""A step stays on its device: nothing is left on the host, nothing is brought from it, and it is never waited for.

The device is PyTorch's "meta", whose tensors have shapes but no numbers: reading one, or computing with one and a
tensor on the host, is an error there as on a GPU.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import pyro
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.accelerators import CPUAccelerator
from lightning_fabric.strategies import SingleDeviceStrategy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_sri.config import RunConfig
from pyro_sri.distributions import GaussianImage, MixtureImage
from pyro_sri.inference import explain, sample_scenes
from pyro_sri.models.air import GreyImage
from pyro_sri.presets import PRESETS
from pyro_sri.training.step import Stepper, TrainingStep, new_optimizer
from support.systems import uncovered
from support.tape import CannotRecord, our_line, refuse_waiting

META = torch.device("meta")

Kind = tuple[str, dict[str, Any]]

# Sizes do not matter here, nor how many steps: one of each phase.
FAST: dict[str, Kind] = {
    "SRI in three phases": ("sri-quick", {"segregation_steps": 1, "prior_from": 2}),
    "GENESIS-v2": ("genesis_v2-mog-shapestacks", {"mask_kl": "detached", "analytic": True}),
    "Slot Attention": ("slot_attention-tetrominoes", {}),
    "AIR": ("air-multi_digits", {"num_slots": 2}),
    "DAIR, score function": ("dair-multi_digits", {"estimator": "score", "num_slots": 2}),
}
SLOW: dict[str, Kind] = {
    "SRI": ("sri-mog-shapestacks", {"capture": True}),
    "SRI, Gaussian": ("sri-g-shapestacks", {"gate_init": 0.5, "kernel": "laplacian"}),
    "SRI without a scene": ("sri-mog-shapestacks", {"scene_size": 0, "mixture": "pixel", "geco": "emorl"}),
    "SRI by samples": ("sri-mog-shapestacks", {"match_on": "samples", "matching": "identity", "geco": "none"}),
    "SRI-EMORL": ("sri_emorl-clevr6", {}),
    "SRI-SA": ("sri_sa-shapestacks", {"capture": True}),
    "SRI end to end": ("genesis_v2_scene-mog-shapestacks", {}),
    "GENESIS": ("genesis-shapestacks", {"recompute_decoder": True}),
    "GENESIS with a scene": ("genesis_scene-shapestacks", {"capture": True}),
    "EMORL": (
        "emorl-clevr6",
        {"refinement_steps": 2, "later_refinement_steps": 1, "refinement_drop": 1, "capture": True},
    ),
    "EMORL, recomputed": ("emorl-tetrominoes", {"recompute_decoder": True, "refinement_steps": 1, "prior": "bu"}),
    "AIR, to be recorded": ("air-multi_digits", {"capture": True}),
    "recurrent": ("recurrent-mog-shapestacks", {}),
}
SLOW |= {preset: (preset, {}) for preset in uncovered(preset for preset, _ in (FAST | SLOW).values())}
KINDS = FAST | SLOW
PARAMETERS = [pytest.param(kind, id=kind, marks=[pytest.mark.slow] * (kind in SLOW)) for kind in KINDS]


class OnOneDevice(TorchDispatchMode):
    """Refuses operations over two devices, copies between them, and those that the host would wait for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        devices = {value.device for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)}
        if devices:
            devices |= {value for value in [kwargs.get("device")] if value is not None}
        if len(devices) > 1:
            raise CannotRecord(f"{func} is over {', '.join(map(str, devices))}, {our_line()}")
        if META in devices:
            refuse_waiting(func, args)
            if func._schema.name == "aten::_fused_adam_":  # has no kernel without numbers, and returns nothing
                return None
        return func(*args, **kwargs)


class _Anywhere(CPUAccelerator):
    """Takes the meta device for one."""

    def setup_device(self, device: torch.device) -> None:
        """Nothing to do."""


@pytest.fixture
def fabric() -> Fabric:
    return Fabric(strategy=SingleDeviceStrategy(device=META, accelerator=_Anywhere()))


def tiny(kind: str) -> RunConfig:
    preset, fields = KINDS[kind]
    return dataclasses.replace(PRESETS[preset].config.tiny(), gradient_clip=1.0, warmup_steps=3, **fields)


def new_stepper(config: RunConfig, fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> Stepper:
    # Adam knows the devices that have fused kernels.
    monkeypatch.setattr(sys.modules["torch.optim.adam"], "_device_dtype_check_for_fused", lambda *args: None)
    module = TrainingStep(*config.build()).to(META)  # before the optimiser: parameters change identity on the way
    module.train()
    return Stepper(config, fabric, module, new_optimizer(module, config))


@pytest.mark.parametrize("kind", PARAMETERS)
def test_a_step_stays_on_its_device(kind: str, fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward, backward, optimiser, controllers and totals, in every phase."""
    monkeypatch.setattr("pyro_sri.training.step.records", lambda device: True)  # for those with `capture`
    config = tiny(kind)
    stepper = new_stepper(config, fabric, monkeypatch)
    images = torch.empty(config.batch_size, config.image_size, config.image_size, 3, dtype=torch.uint8, device=META)
    phases = set()
    with pyro.settings.context(module_local_params=True), pyro.validation_enabled(False), OnOneDevice():
        for step in range(3):
            stepper.module.elbo.step = step
            if stepper.module.elbo.phase not in phases:
                stepper(images, step)
            phases.add(stepper.module.elbo.phase)
    left = [*stepper.module.state_dict().values(), *stepper.totals.values(), stepper.finite]
    left += [value for values in stepper.optimizer.state.values() for value in values.values()]
    left += [parameter.grad for parameter in stepper.module.parameters() if parameter.grad is not None]
    assert stepper.optimizer.state
    assert {tensor.device for tensor in left} == {META}


@pytest.mark.parametrize("kind", PARAMETERS)
def test_explaining_and_sampling_stay_on_the_device(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for likelihood in (
        GaussianImage,
        MixtureImage,
        GreyImage,
    ):  # a number; evaluation may wait for it once per batch
        monkeypatch.setattr(likelihood, "nll_floor", 0.0)
    config = tiny(kind)
    module = TrainingStep(*config.build()).to(META).eval()
    images = torch.empty(2, 3, config.image_size, config.image_size, device=META)
    with pyro.validation_enabled(False), OnOneDevice():
        explanation = explain(module.model, module.guide, images, module.elbo)
        scenes = sample_scenes(module.model, 3, chunk=2)
        with torch.no_grad():
            drawn = module.model(num_scenes=2)
    tensors = [*scenes, drawn, *(value for value in explanation if isinstance(value, torch.Tensor))]
    assert {tensor.device for tensor in [*tensors, *explanation.terms.values()]} == {META}


def test_a_restored_state_goes_to_the_device(fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are read on the host, before the parameters move."""
    monkeypatch.setattr(sys.modules["torch.optim.adam"], "_device_dtype_check_for_fused", lambda *args: None)
    config = tiny("AIR")
    module = TrainingStep(*config.build()).to(META)
    optimizer = new_optimizer(module, config)
    for parameter in module.parameters():
        moments = {name: torch.zeros(parameter.shape) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.zeros(()), **moments}
    totals = {"loss": torch.ones(2, dtype=torch.float64)}
    module.train()
    stepper = Stepper(config, fabric, module, optimizer, totals)
    images = torch.empty(2, config.image_size, config.image_size, 3, dtype=torch.uint8, device=META)
    with pyro.settings.context(module_local_params=True), pyro.validation_enabled(False), OnOneDevice():
        stepper(images, 0)
    assert {value.device for values in optimizer.state.values() for value in values.values()} == {META}


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x + torch.ones(3),
        lambda x: x.copy_(torch.ones(3)),
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x[x > 0],
        lambda x: torch.ones(3).to(x.device),
        lambda x: x * torch.ones(()),
    ],
)
def test_leaving_the_device_is_noticed(work: Any) -> None:
    with OnOneDevice(), pytest.raises(CannotRecord):
        work(torch.empty(3, device=META))
