"""`pyro-sri evaluate`: every metric of one or several runs on held-out images."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pyro_sri import checkpoints, runs
from pyro_sri.config import Device
from pyro_sri.data.format import DatasetFile
from pyro_sri.evaluation import MEANINGS, METRICS, Metrics, evaluate
from pyro_sri.evaluation.measures.counting import CONFUSION
from pyro_sri.evaluation.summary import flagged, group_runs, summarise, why_not_summarised
from pyro_sri.features import FeatureExtractor, InceptionFeatures, ScatteringFeatures, find_inception
from pyro_sri.runs import Run
from pyro_sri.scripts.cli import check_memory, note, parse, progress_bar
from pyro_sri.scripts.own_data import own_data_of
from pyro_sri.system.errors import UserError, printable
from pyro_sri.system.files import write_numbered
from pyro_sri.system.seeds import check_seed
from pyro_sri.training.devices import device_name
from pyro_sri.training.execution import set_precision
from pyro_sri.training.loop import pick_device


def evaluate_runs(
    given: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN [RUN ...]")],
    /,
    data: Path | None = None,
    num_images: int | None = None,
    split: str = "test",
    checkpoint: str = "best",
    batch_size: int = 32,
    num_samples: int | None = None,
    inception: Path | None = None,
    download_inception: bool = False,
    iwae_images: int = 50,
    iwae_samples: int = 64,
    seed: int = 0,
    device: Device = "auto",
) -> None:
    """Compute every metric of one or more runs on held-out images.

    Prints a table and writes RUN/evaluation/metrics.json. An earlier file is kept under another name. Runs that differ
    only in the seed are also summarised: mean, standard deviation and the value of each seed.

    For example:

    pyro-sri evaluate runs/sri-quick

    pyro-sri evaluate runs/stacks --data stacks.h5 --num-images 1000

    pyro-sri evaluate runs/seed0 runs/seed1 runs/seed2

    Args:
        given: Run directories, or names of presets with bundled weights.
        data: Dataset file (if not given: the one that the run was trained on).
        num_images: Evaluate only this many images, from the start of the split (if not given: all).
        split: The split: train, val or test.
        checkpoint: The checkpoint: best (by validation) or last.
        batch_size: Images evaluated at once.
        num_samples: Scenes to generate for the Fréchet distance and the structural accuracy; 0 leaves these metrics out
            (if not given: as many as images, at most 10,000).
        inception: TorchScript file of the Inception network, which makes the Fréchet distance an FID. Without it, fixed
            wavelet features are compared, and the distance is not an FID. A TorchScript file is a program: use only one
            that you trust.
        download_inception: Use the published Inception file. It is downloaded once if it is not in the cache.
        iwae_images: Number of images, from the start of the split, for the importance-weighted bound and the posterior
            predictive checks; 0 leaves these metrics out.
        iwae_samples: Draws per image for these metrics.
        seed: Seed of the draws.
        device: Where to compute; auto uses a GPU if there is one.
    """
    check_seed(seed)
    if not given:
        raise UserError("which runs? give at least one: pyro-sri evaluate RUN [RUN ...]")
    for name, value in {"--iwae-images": iwae_images, "--num-samples": num_samples}.items():
        if value is not None and value < 0:
            raise UserError(f"{name} is {value}: it must be 0 or more")
    for name, value in {"--num-images": num_images, "--batch-size": batch_size, "--iwae-samples": iwae_samples}.items():
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}: it must be at least 1")
    if checkpoint not in ("best", "last"):
        raise UserError(f"--checkpoint is '{checkpoint}': it must be best or last")
    found = [runs.find_run(name) for name in given]
    paths = [data or own_data_of(run) or run.config.data_file for run in found]
    for run, path in zip(found, paths, strict=True):
        with DatasetFile(path) as file:
            file.require_size(run.config.image_size)
    place = pick_device(device)
    extractor = _extractor(inception, download_inception)
    check_memory(f"the features of --num-samples {num_samples}", 4 * extractor.size * (num_samples or 0))
    for path in paths:
        with DatasetFile(path) as file:
            draws = min(batch_size, iwae_images, file.num_images(split)) * iwae_samples
            check_memory(f"--iwae-samples {iwae_samples} of a batch", 4 * 3 * file.image_size**2 * draws)
    evaluations = []
    for name, run, path in zip(given, found, paths, strict=True):
        module = run.load_module(checkpoint).to(place)
        set_precision(module, "float32")
        step = checkpoints.load_checkpoint(run.checkpoint(checkpoint))["step"]
        with progress_bar() as report:
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
                num_samples=num_samples,
                extractor=extractor,
                seed=seed,
                device=place,
                progress=report,
            )
        metrics |= {
            "step": step,
            "preset": run.config.preset,
            "checkpoint": checkpoint,
            "training_seed": run.config.seed,
            "device": device_name(place),
        }
        if untrained := run.config.untrained(step):
            metrics["untrained"] = untrained
            note(f"warning: {untrained}")
        if collapse := metrics.get("collapse"):
            note(f"warning: {collapse}")
        evaluations.append(metrics)
        print_table(name, metrics)
        if not run.path.is_relative_to(runs.WEIGHTS):  # bundled weights lie where nothing may be written
            write_metrics(run.path / runs.METRICS, metrics)
            note(f"written to {run.path / runs.METRICS}")
    if len(found) > 1:
        print_summary(found, evaluations)


def _extractor(inception: Path | None, download: bool) -> FeatureExtractor:
    """What images are compared by."""
    if inception is None and not download:
        return ScatteringFeatures()
    file = find_inception(inception, download)
    if file is None:
        note("the Inception file could not be downloaded: comparing wavelet features instead, which do not give an FID")
    return ScatteringFeatures() if file is None else InceptionFeatures(file)


def print_table(name: str, metrics: Metrics) -> None:
    """Prints the metrics of a run for people."""
    title = f"{name}: {metrics['num_images']} images of {metrics['data']}"
    table = _table(title, "metric", "value", "standard error", "what it is")
    for group, meanings in METRICS.items():
        there = {metric: meaning for metric, meaning in meanings.items() if metric in metrics}
        if not there:
            continue  # other systems have them
        table.add_section()
        table.add_row(f"[italic]{group}[/italic]")
        for metric, meaning in there.items():
            value, error = metrics[metric], metrics.get(f"{metric}_stderr")
            explanation = meaning.text if value is not None else str(metrics.get(f"{metric}_reason"))
            if value is not None and (flag := flagged(metric, metrics)):
                explanation = f"{explanation}; [bold]{flag}[/bold]"
            table.add_row(f"[bold]{metric}[/bold]", _number(value), _number(error) if error else "", explanation)
    console = Console(emoji=False)
    console.print(table)
    if metrics.get("frechet_features"):
        console.print(
            f"frechet: {metrics['frechet_images']} real and {metrics['num_samples']} generated images, "
            f"features {metrics['frechet_features']}"
        )
    if confusion := {name: value for name, value in metrics.items() if CONFUSION.fullmatch(name)}:
        console.print(_confusion_table(confusion))


def print_summary(found: Sequence[Run], evaluations: Sequence[Metrics]) -> None:
    """Prints mean, standard deviation and every seed of each group of runs that differ in the seed alone."""
    for group in group_runs(found):
        ours = [metrics for run, metrics in zip(found, evaluations, strict=True) if run in group.runs]
        if reason := why_not_summarised(ours):
            note(f"no mean of {group.name}: {reason}")
            continue
        seeds = [f"seed {metrics['training_seed']}" for metrics in ours]
        title = f"{group.name}: {len(ours)} {'seed' if len(ours) == 1 else 'seeds'}"
        table = _table(title, "metric", "mean", "standard deviation", *seeds)
        spreads = summarise(ours)
        for name in MEANINGS:
            if name in spreads:
                values = [_number(metrics.get(name)) for metrics in ours]
                table.add_row(f"[bold]{name}[/bold]", _number(spreads[name].mean), _number(spreads[name].std), *values)
        Console(emoji=False).print(table)
        for metrics in ours:
            if flag := flagged("bpd", metrics):
                note(f"bits per dimension of seed {metrics['training_seed']}: {flag}")


def _table(title: str, *headers: str) -> Table:
    """A table with a title that may come from anywhere."""
    return Table(*headers, title=escape(printable(title)), title_justify="left")


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _confusion_table(confusion: Metrics) -> Table:
    """Rows: how many objects there are; columns: how many were found."""
    pairs = {tuple(map(int, re.findall(r"\d+", name))): value for name, value in confusion.items()}
    found = sorted({pair[1] for pair in pairs})
    table = _table("images", "objects", *(f"{count} found" for count in found))
    for there in sorted({pair[0] for pair in pairs}):
        table.add_row(str(there), *(str(pairs[there, count]) for count in found))
    return table


def write_metrics(path: Path, metrics: dict[str, Any]) -> None:
    """Writes metrics.json; keeps an earlier one, as metrics.1.json and so on."""
    write_numbered(path, (json.dumps(metrics, indent=2) + "\n").encode())


def main(args: Sequence[str]) -> None:
    """Runs the command."""
    parse(evaluate_runs, "pyro-sri evaluate", args)
