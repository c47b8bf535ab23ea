"""Fingerprints of what a seed determines: the weights and the log of a run, its metrics, its scenes, generated data.

    PYTHONPATH=tests python -m support.repeat --steps 100 --presets sri-mog-shapestacks --families rooms

prints them as JSON; two processes that repeat each other print the same.
"""

import argparse
import hashlib
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyro
import torch

from pyro_sri import checkpoints, load, runs
from pyro_sri.data.format import DatasetFile
from pyro_sri.data.making import make_dataset
from pyro_sri.evaluation import evaluate
from pyro_sri.inference import sample_scenes
from pyro_sri.training.loop import train
from support.soak import tiny

SIZE = 32
Fingerprints = dict[str, Any]


def hash_tensors(tensors: Iterable[torch.Tensor]) -> str:
    """A hash of every bit."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def hash_weights(run: runs.Run) -> str:
    """A hash of the weights and the controllers at the last step of a run."""
    return hash_tensors(checkpoints.load_checkpoint(run.checkpoint("last"))["objective"].values())


def fingerprint_of_run(preset: str, steps: int, data: Path, folder: Path) -> Fingerprints:
    """Trains a preset at its tiny size; then evaluates it and draws scenes from it.

    Args:
        preset: Name of the preset.
        steps: Training steps.
        data: The file to train on and to evaluate on.
        folder: Where the run goes; new.
    """
    run = train(tiny(preset, data, steps=steps, log_every=1), folder)
    log = [{name: value for name, value in line.items() if name != "images_per_second"} for line in run.log()]
    module = run.load_module("last")
    metrics = evaluate(module.model, module.guide, data, module.elbo, split="val", iwae_images=1, iwae_samples=2)
    pyro.set_rng_seed(5)
    scenes = sample_scenes(load(run.path)[0], 2)
    return {"weights": hash_weights(run), "log": log, "metrics": metrics, "scenes": hash_tensors(scenes)}


def fingerprint_of_data(family: str, folder: Path) -> str:
    """Makes a few scenes of a family, and hashes what is in the file."""
    path = folder / f"{family}.h5"
    make_dataset(family, path, size=SIZE, train=4, val=0, test=2, seed=1)
    with DatasetFile(path) as file:
        return file.content_hash()


def fingerprints(presets: Iterable[str], families: Iterable[str], steps: int) -> Fingerprints:
    """Everything, by preset and by family."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "data.h5"
        make_dataset("tetrominoes", data, size=SIZE, train=16, val=8, test=0)
        found: Fingerprints = {preset: fingerprint_of_run(preset, steps, data, folder / preset) for preset in presets}
        return json.loads(json.dumps(found | {family: fingerprint_of_data(family, folder) for family in families}))


def main() -> None:
    """Prints the fingerprints that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="*", default=[])
    parser.add_argument("--families", nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(json.dumps(fingerprints(given.presets, given.families, given.steps)))


if __name__ == "__main__":
    main()
