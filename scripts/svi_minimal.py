"""SRI with Pyro's own tools: SVI, poutine and Predictive, on images made on the spot. Takes a minute on a laptop."""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import pyro
from pyro import poutine
from pyro.infer import SVI, Predictive

from pyro_sri.data.loading import to_images, training_batches
from pyro_sri.data.making import make_dataset
from pyro_sri.distributions import ImageLikelihood
from pyro_sri.guides.genesis_v2 import GenesisV2Guide
from pyro_sri.guides.segregation import SegregationPair
from pyro_sri.guides.sri import SRIGuide
from pyro_sri.models.genesis_v2 import IndependentSlotModel
from pyro_sri.models.scene import SceneModel
from pyro_sri.objectives import SRI_ELBO


def main(num_steps: int) -> None:
    """Trains, inspects, samples."""
    pyro.set_rng_seed(0)
    pyro.clear_param_store()

    shape: dict[str, Any] = {"image_size": 32, "num_slots": 4, "slot_size": 16}
    likelihood = ImageLikelihood(kind="gaussian", pixel_std=0.1)
    model = SceneModel(**shape, scene_size=32, likelihood=likelihood)
    segregation = SegregationPair(IndependentSlotModel(**shape, likelihood=likelihood), GenesisV2Guide(**shape))
    guide = SRIGuide(model, segregation)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tetrominoes.h5"
        make_dataset("tetrominoes", path, size=32, train=256, val=0, test=0)
        batches = training_batches(path, "train", batch_size=16, seed=0)
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), SRI_ELBO())
        for step in range(num_steps):
            images = to_images(next(batches)["images"], "cpu")
            loss = svi.step(images)
            if step % 10 == 0 or step == num_steps - 1:
                print(f"step {step}: {loss:.0f} nats per image")

    drawn = poutine.trace(guide).get_trace(images).nodes  # every draw is a site; format_shapes() lists them all
    for site in ("attention_masks", "segregated_slots", "scene", "order"):
        print(f"{site}: {tuple(drawn[site]['value'].shape)}")
    scenes = Predictive(model, num_samples=1, return_sites=("reconstruction",))(num_scenes=8)
    print("sampled scenes:", tuple(scenes["reconstruction"].shape))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-steps", type=int, default=100)
    main(parser.parse_args().num_steps)
