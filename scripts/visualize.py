"""The command `pyro-sri visualize`: everything worth looking at in a trained model, as pictures in a folder."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from operator import methodcaller
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.infer.elbo import ELBOModule
from torch import Tensor
from tyro.conf import Positional, arg

from pyro_sri import viz
from pyro_sri.data.format import DatasetFile
from pyro_sri.data.loading import to_images
from pyro_sri.errors import UserError
from pyro_sri.guides.air import AIRGuide, find_objects
from pyro_sri.inference import explain, sample_scenes
from pyro_sri.runs import Run, find_run, write_atomically
from pyro_sri.scripts.cli import note, parse
from pyro_sri.scripts.sample import SCENES_AT_ONCE
from pyro_sri.seeds import check_seed

GRID_SAMPLES = 64
ACTIVENESS_IMAGES = 64  # how many images say which dimensions of a slot are active
SLOW_MILLISECONDS = 140  # per frame of the traversals, which have few frames


def visualize(
    run: Annotated[Positional[str], arg(metavar="RUN")],
    /,
    out: Path,
    num: int = 8,
    split: str = "test",
    seed: int = 0,
    data: Path | None = None,
) -> None:
    """Draw what a trained model sees and imagines, as pictures in a new folder.

    Files:
      reconstructions.png   images, reconstructions, what the scene variable alone imagines, masks, every slot
      samples.png           new scenes
      samples_slots.png     new scenes slot by slot, in the order of generation
      temperatures.png      the same draws, calmer and wilder, with one slot less and one more
      scene_walk.gif        walks through the scene variable
      slot_traversals.png   what the most active dimensions of a slot do; also as slot_traversals.gif
      curves.png            the training curves
      model.gv              the model's graph; also as model.png if Graphviz is installed

    For example:
      pyro-sri visualize runs/rooms --out rooms-pictures
      pyro-sri visualize runs/rooms --num 16 --split val --out more-pictures

    Args:
        run: A run directory, or the name of a preset whose weights ship.
        out: The folder to make; it must not exist, or be empty.
        num: How many images or scenes on a sheet.
        split: The images' split: train, val or test.
        seed: Seed of all draws.
        data: Dataset file; the one the run was trained on if not given.

    Raises:
        UserError: If the folder is in use or cannot be written, or the data does not fit.
    """
    if num < 1:
        raise UserError(f"--num {num} asks for no pictures; use 1 or more")
    check_seed(seed)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists already and is no empty folder; choose another --out")
    found = find_run(run)
    images = load_images(found, split, max(num, ACTIVENESS_IMAGES), data)
    for name, content in _files(found, images, num, seed):
        write_atomically(out / name, methodcaller("write", content))
        print(f"drew {out / name}")
    if images is None:
        note(f"left out reconstructions and traversals: {missing_data(found)}; name the file with --data")


class Images(NamedTuple):
    """The first images of a split.

    Attributes:
        images: [B, 3, H, W] in [0, 1].
        origin: What they are, with the word "generated" where they are.
    """

    images: Tensor
    origin: str


def load_images(run: Run, split: str | None, num: int, data: Path | None = None) -> Images | None:
    """The first `num` images of a split (fewer if it has fewer), or None if the run's own data file is not here.

    Args:
        run: The run.
        split: train, val or test; None takes the one farthest from training that there is.
        num: How many.
        data: A dataset file instead of the run's own.

    Raises:
        UserError: If a file cannot be read, has no such split, or has images of another size.
    """
    if data is None and missing_data(run) is not None:
        return None
    with DatasetFile(data) if data is not None else run.open_data() as file:
        if file.image_size != run.config.image_size:
            size, wanted = file.image_size, run.config.image_size
            raise UserError(f"{file.path} holds {size}x{size} images; the run needs {wanted}x{wanted}")
        split = split or file.splits[-1]
        pixels = torch.from_numpy(file.read(file.images(split), slice(num)))
        return Images(to_images(pixels, "cpu"), f"{describe_data(file)}, split {split}")


def missing_data(run: Run) -> str | None:
    """Why the run's own images cannot be shown; None if they can."""
    if run.config.data is None:
        return "the run names no data file"
    return None if Path(run.config.data).exists() else f"its data file {run.config.data} is not here"


def describe_data(file: DatasetFile) -> str:
    """What the scenes of a file are, with the word "generated" where they are."""
    if file.generated:
        return f"{file.attributes.get('generator', file.path.name)} (generated, seed {file.attributes.get('seed')})"
    return f"{file.path.name} (source: {file.attributes.get('source', 'unknown')})"


def _files(run: Run, images: Images | None, num: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """File names and contents, one after the other; every picture has random draws of its own."""
    module = run.load_module()
    model, guide = module.model, module.guide
    sheets: dict[str, Callable[[], viz.Picture]] = {
        "samples.png": lambda: viz.grid(viz.to_uint8(_sample(model, GRID_SAMPLES, seed).images)),
        "samples_slots.png": lambda: _samples_by_slot(model, num, seed),
        "temperatures.png": lambda: viz.temperatures(model, model.num_slots, num=num, seed=seed),
    }
    if images is not None:
        yield "reconstructions.png", viz.png(_reconstructions(module, images, num, seed))
        if isinstance(guide, AIRGuide):
            found = find_objects(guide, images.images)
            yield "boxes.png", viz.png(viz.grid(viz.boxes(images.images, found.where, found.presence)))
    for name, draw in sheets.items():
        yield name, viz.png(draw())
    if log := run.log():
        yield "curves.png", viz.png(viz.curves(log))
    if viz.has_scene(model):
        yield "scene_walk.gif", viz.gif(viz.scene_walk(model, seed=seed))
    if images is not None and len(images.images) > 1 and viz.has_slots(model):
        pyro.set_rng_seed(seed)
        traversals = viz.traverse(model, guide, images.images)
        caption = f"{images.origin}, image 0. sd: spread of the posterior mean over {len(images.images)} images. "
        caption += "active: that spread / posterior standard deviation"
        yield "slot_traversals.png", viz.png(viz.traversal_sheet(traversals, caption=caption))
        yield "slot_traversals.gif", viz.gif(viz.traversal_frames(traversals), SLOW_MILLISECONDS)
    yield from _graph(model, run.config.image_size)


def _sample(model: Any, num: int, seed: int) -> Any:
    pyro.set_rng_seed(seed)
    return sample_scenes(model, num, chunk=SCENES_AT_ONCE)


def _reconstructions(module: ELBOModule, images: Images, num: int, seed: int) -> viz.Picture:
    pyro.set_rng_seed(seed)
    explanation = explain(module.model, module.guide, images.images[:num], module.elbo)
    labels = [f"image {i}" for i in range(len(explanation.images))]
    return viz.reconstructions(explanation, labels=labels, caption=images.origin)


def _samples_by_slot(model: Any, num: int, seed: int) -> viz.Picture:
    return viz.samples_by_slot(_sample(model, num, seed), labels=[f"scene {i}" for i in range(num)])


def _graph(model: Any, image_size: int) -> Iterator[tuple[str, bytes]]:
    """The model's graph in Graphviz's language, and as a picture where Graphviz is installed."""
    # Deterministic sites repeat the edges of the image.
    story = poutine.block(model, hide_fn=lambda site: site["infer"].get("_deterministic", False))
    graph = pyro.render_model(story, model_args=(torch.zeros(1, 3, image_size, image_size),))
    yield "model.gv", graph.source.encode()
    if shutil.which("dot") is not None:
        yield "model.png", graph.pipe(format="png")


def main(args: Sequence[str]) -> None:
    """Runs the command."""
    parse(visualize, "pyro-sri visualize", args)
