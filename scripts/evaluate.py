"""`pyro-sri evaluate`: every metric of a run on held-out images."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from pyro_sri import runs
from pyro_sri.config import Device
from pyro_sri.data.format import DatasetFile
from pyro_sri.errors import UserError
from pyro_sri.evaluation import Metrics, evaluate
from pyro_sri.presets import PRESETS
from pyro_sri.scripts.cli import note, parse
from pyro_sri.scripts.train import own_data
from pyro_sri.seeds import check_seed
from pyro_sri.training import pick_device

CONFUSION = re.compile(r"count_(\d+)_found_(\d+)")

MEANINGS = {
    "ari_fg": "adjusted Rand index over foreground pixels, decoder masks (1 is perfect)",
    "ari_fg_attention": "the same with the segregation's attention masks",
    "ari": "adjusted Rand index over all pixels, decoder masks",
    "mse": "mean squared error of the reconstruction, per pixel and channel in [0, 1]",
    "nll": "-log p(x | z), nats per image, normalised likelihood",
    "kl": "KL of all latents, nats per image",
    "kl_scene": "KL(q(s | x) || p(s)), nats per image",
    "kl_slots": "sum over slots of KL(q(z_k | s, x) || p(z_k | z_<k, s)), nats per image",
    "kl_masks": "KL of the mask latents, nats per image",
    "kl_components": "KL of the component latents, nats per image",
    "kl_above": "KL of the layers above the refined one, nats per image",
    "kl_pres": "KL of the number of objects, nats per image",
    "kl_where": "KL of their places, nats per image",
    "kl_what": "KL of their codes, nats per image",
    "kl_cross": "cross-order KL, nats per image; not part of the bound",
    "bpd": "-ELBO in bits per dimension",
    "bpd_with_cross": "the same plus kl_cross",
    "iwae_bpd": "importance-weighted bound in bits per dimension",
    "count_accuracy": "share of images whose number of objects is found exactly",
}


def evaluate_run(
    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")],
    /,
    data: Path | None = None,
    num_images: int | None = None,
    split: str = "test",
    checkpoint: str = "best",
    batch_size: int = 32,
    iwae_images: int = 100,
    iwae_samples: int = 64,
    seed: int = 0,
    device: Device = "auto",
) -> None:
    """Compute every metric of a run on held-out images.

    Prints a table and writes RUN/evaluation/metrics.json; an earlier one is kept under another name.

    For example:

    pyro-sri evaluate runs/sri-quick

    pyro-sri evaluate runs/stacks --data stacks.h5 --num-images 1000

    Args:
        run: Run directory.
        data: Dataset file; the one the run was trained on if not given.
        num_images: Evaluate the first so many images; all if not given.
        split: train, val or test.
        checkpoint: best (by validation) or last.
        batch_size: Images at once.
        iwae_images: Images for the importance-weighted bound, the first ones; 0 leaves it out.
        iwae_samples: Draws per image for that bound.
        seed: Seed of the draws.
        device: Where to compute; auto takes a GPU if there is one.
    """
    check_seed(seed)
    if iwae_images < 0:
        raise UserError(f"--iwae-images is {iwae_images}: it must be 0 or more")
    for name, value in {"--num-images": num_images, "--batch-size": batch_size, "--iwae-samples": iwae_samples}.items():
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}: it must be at least 1")
    if checkpoint not in ("best", "last"):
        raise UserError(f"--checkpoint is '{checkpoint}': it must be best or last")
    found = runs.find_run(run)
    module = found.load_module(checkpoint)
    step = runs.load_checkpoint(found.checkpoint(checkpoint))["step"]
    place = pick_device(device)
    module.to(place)
    path = data or _data_of(found)
    check_image_size(path, found.config.image_size)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("images", total=None)
        metrics = evaluate(
            module.model,
            module.guide,
            path,
            module.elbo,
            split=split,
            num_images=num_images,
            batch_size=batch_size,
            iwae_images=iwae_images,
            iwae_samples=iwae_samples,
            seed=seed,
            device=place,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    metrics |= {
        "step": step,
        "preset": found.config.preset,
        "checkpoint": checkpoint,
        "training_seed": found.config.seed,
    }
    print_table(metrics)
    if found.path.is_relative_to(runs.WEIGHTS):
        return  # weights that ship with the package are not a place to write to
    write_metrics(found.path / runs.METRICS, metrics)
    note(f"written to {found.path / runs.METRICS}")


def _data_of(run: runs.Run) -> Path:
    """The run's data file; made, if its preset makes its own and the run names none (as those that ship)."""
    preset = PRESETS.get(run.config.preset)
    if run.config.data is None and preset is not None and preset.makes_data is not None:
        return own_data(preset)
    return run.config.data_file


def check_image_size(data: Path, image_size: int) -> None:
    """Raises UserError if a data file's images are not of the run's size."""
    with DatasetFile(data) as file:
        if file.image_size != image_size:
            raise UserError(
                f"{data} holds {file.image_size}x{file.image_size} images, the run was trained on "
                f"{image_size}x{image_size}: give a file of that size with --data"
            )


def print_table(metrics: Metrics) -> None:
    """Prints the metrics for people."""
    table = Table(
        "metric",
        "value",
        "what it is",
        title=f"{metrics['num_images']} images of {metrics['data']}",
        title_justify="left",
    )
    for name, meaning in MEANINGS.items():
        if name not in metrics:
            continue  # other systems have it
        value = metrics[name]
        shown = f"{value:.4f}" if isinstance(value, float) else "-"
        table.add_row(
            f"[bold]{name}[/bold]", shown, meaning if value is not None else str(metrics.get(f"{name}_reason"))
        )
    console = Console()
    console.print(table)
    if confusion := {name: value for name, value in metrics.items() if CONFUSION.fullmatch(name)}:
        console.print(_confusion_table(confusion))


def _confusion_table(confusion: Metrics) -> Table:
    """Rows: how many objects there are; columns: how many were found."""
    pairs = {tuple(map(int, re.findall(r"\d+", name))): value for name, value in confusion.items()}
    found = sorted({pair[1] for pair in pairs})
    table = Table("objects", *(f"{count} found" for count in found), title="images", title_justify="left")
    for there in sorted({pair[0] for pair in pairs}):
        table.add_row(str(there), *(str(pairs[there, count]) for count in found))
    return table


def write_metrics(path: Path, metrics: dict[str, Any]) -> None:
    """Writes metrics.json; moves an earlier one aside, to metrics.1.json and so on."""
    if path.exists():
        number = 1
        while (aside := path.with_suffix(f".{number}.json")).exists():
            number += 1
        path.rename(aside)
    runs.write_atomically(path, lambda file: file.write((json.dumps(metrics, indent=2) + "\n").encode()))


def main(args: Sequence[str]) -> None:
    """Runs the command."""
    parse(evaluate_run, "pyro-sri evaluate", args)
