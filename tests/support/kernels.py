"""How many kernels a training step starts on a GPU: `PYTHONPATH=tests python -m support.kernels PRESET` prints it."""

import argparse
import dataclasses
from collections import Counter

import pyro
import torch

from pyro_sri.presets import PRESETS
from pyro_sri.training.step import new_stepper
from support import fake_gpu

SETTLED = 2  # steps until the optimiser has what it keeps


def count_kernels(preset: str) -> Counter[str]:
    """The kernels of one step of a preset's whole objective, by name; after `fake_gpu.install`."""
    config = dataclasses.replace(PRESETS[preset].config, batch_size=1)  # of which the number does not depend
    stepper = new_stepper(config, fake_gpu.fake_gpu())
    stepper.module.train()
    images = torch.zeros(1, config.image_size, config.image_size, 3, dtype=torch.uint8)
    with pyro.settings.context(module_local_params=True), pyro.validation_enabled(False):
        for step in range(SETTLED):
            stepper(images, step)
        with fake_gpu.counted() as kernels:
            stepper(images, SETTLED)
    return kernels


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset")
    preset = parser.parse_args().preset
    fake_gpu.install()
    print(count_kernels(preset).total())
