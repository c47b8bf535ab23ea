"""Which presets stand for the systems, and how one is built at its tiny size."""

import dataclasses

import torch
from lightning_fabric import Fabric

from pyro_sri.presets import find_preset
from pyro_sri.training.step import Stepper, TrainingStep, new_optimizer
from support.systems import uncovered

SRI = ("sri-mog-shapestacks", "sri-g-shapestacks")
OTHERS: tuple[str, ...] = (
    "sri_emorl-clevr6",
    "sri_sa-shapestacks",
    "emorl-tetrominoes",
    "genesis-shapestacks",
    "genesis_v2-mog-shapestacks",
    "slot_attention-tetrominoes",
    "air-multi_digits",
    "recurrent-mog-shapestacks",
)
HEAVY = (  # several times the work of the others
    "sri_emorl-clevr6",
    "sri_sa-shapestacks",
    "emorl-tetrominoes",
    "genesis-shapestacks",
    "slot_attention-tetrominoes",
)
OTHERS += uncovered((*SRI, *OTHERS))
PRESETS = (*SRI, *OTHERS)


def build(preset: str, num_slots: int | None = None) -> tuple[TrainingStep, Stepper]:
    """A preset at its tiny size, with its K or another, and what trains it."""
    config = find_preset(preset).config.tiny()
    config = dataclasses.replace(config, batch_size=1, device="cpu", learning_rate=1e-3)
    config = config if num_slots is None else dataclasses.replace(config, num_slots=num_slots)
    torch.manual_seed(0)
    module = TrainingStep(*config.build())
    fabric = Fabric(accelerator="cpu", devices=1)
    return module.train(), Stepper(config, fabric, module, new_optimizer(module, config))
