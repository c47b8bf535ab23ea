"""The command `pyro-sri evaluate`: computes every metric of one or more runs on held-out images."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from pyro_sri import checkpoints, runs
from pyro_sri.config import Device
from pyro_sri.data.format import DatasetFile
from pyro_sri.evaluation import MEANINGS, Metrics, evaluate
from pyro_sri.evaluation.summary import Summary, summaries
from pyro_sri.features import FeatureExtractor, InceptionFeatures, ScatteringFeatures, find_inception
from pyro_sri.runs import Run
from pyro_sri.scripts.cli import check_memory, check_new_file, note, parse, progress_bar
from pyro_sri.scripts.metric_tables import check_names, chosen, print_metrics, print_seeds
from pyro_sri.scripts.own_data import own_data_of
from pyro_sri.study.seeds import to_csv, to_latex, to_plain
from pyro_sri.study.specification import Evaluation
from pyro_sri.system.errors import UserError
from pyro_sri.system.files import write_atomically, write_numbered
from pyro_sri.system.seeds import check_seed
from pyro_sri.training.devices import device_name, pick_device
from pyro_sri.training.execution import set_precision


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
    every: Annotated[bool, tyro.conf.arg(name="all"), tyro.conf.FlagCreatePairsOff] = False,
    only: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="METRIC")] = (),
    csv: Path | None = None,
    latex: Path | None = None,
    as_json: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Compute every metric of one or more runs on held-out images.

    Prints the most important metrics and writes all of them to RUN/evaluation/metrics.json. An earlier file is kept
    under another name. Runs that differ only in the seed are also summarised by mean and standard deviation.

    For example:

    pyro-sri evaluate runs/sri-quick

    pyro-sri evaluate runs/stacks --data stacks.h5 --num-images 1000

    pyro-sri evaluate runs/seed0 runs/seed1 runs/seed2 --only ari_fg --only iwae_bpd --csv seeds.csv

    Args:
        given: Run directories, or names of presets with bundled weights.
        data: Dataset file (if not given: the one that the run was trained on).
        num_images: Number of images to evaluate, from the start of the split (if not given: all).
        split: Split to evaluate: train, val or test.
        checkpoint: Checkpoint to evaluate: best (by validation) or last.
        batch_size: Number of images per batch.
        num_samples: Number of scenes to generate for the Fréchet distance and the structural accuracy. 0 skips these
            metrics (if not given: as many as images, at most 10,000).
        inception: TorchScript file of the Inception network, for computing the FID. Without it, the Fréchet distance
            uses fixed wavelet features and is not an FID. A TorchScript file is a program, so only use one that you
            trust.
        download_inception: Use the published Inception file. It is downloaded once if it is not in the cache.
        iwae_images: Number of images, from the start of the split, for the importance-weighted bound and the posterior
            predictive checks. 0 skips these metrics.
        iwae_samples: Number of draws per image for these metrics.
        seed: Seed of the draws.
        device: Device to use. auto uses a GPU if there is one.
        every: Print all metrics.
        only: Print only this metric, and write only this metric to the CSV and LaTeX files. Repeat the option for
            several metrics. metrics.json always contains all of them.
        csv: CSV file to write, with the mean, standard deviation and every seed of each configuration at full
            precision.
        latex: LaTeX file to write, with a table of means and standard deviations and a column for each configuration.
        as_json: Print JSON instead of tables.
    """
    check_seed(seed)
    check_names(only)
    for path, suffix, option in ((csv, ".csv", "--csv"), (latex, ".tex", "--latex")):
        if path is not None:
            check_new_file(path, (suffix,), option)
    if not given:
        raise UserError("no run given; name at least one: pyro-sri evaluate RUN [RUN ...]")
    Evaluation(
        num_images=num_images,
        batch_size=batch_size,
        num_samples=num_samples,
        iwae_images=iwae_images,
        iwae_samples=iwae_samples,
    ).check()
    if checkpoint not in ("best", "last"):
        raise UserError(f"--checkpoint is '{checkpoint}': it must be best or last")
    found = [runs.find_run(name) for name in given]
    paths = [data or own_data_of(run) or run.find_data() for run in found]
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
            "data_file": str(path.resolve()),
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
        if not as_json:
            print_metrics(name, metrics, only, every)
        if not run.path.is_relative_to(runs.WEIGHTS):  # never write into the folder of bundled weights
            write_metrics(run.path / runs.METRICS, metrics)
            note(f"written to {run.path / runs.METRICS}")
    if as_json:
        _print_json(found, given, evaluations, only)
    of_configurations = summaries(found, given, evaluations)
    if len(found) > 1 and not as_json:
        _print_summaries(of_configurations, only, every)
    shown = [name for names in chosen(MEANINGS, only, every).values() for name in names]
    for path, text in ((csv, to_csv(of_configurations, only or None)), (latex, to_latex(of_configurations, shown))):
        if path is not None:
            write_text(path, text)
            note(f"written to {path}")


def _extractor(inception: Path | None, download: bool) -> FeatureExtractor:
    """The features by which images are compared."""
    if inception is None and not download:
        return ScatteringFeatures()
    file = find_inception(inception, download)
    if file is None:
        note(
            "the Inception file could not be downloaded, so wavelet features are used instead; they do not give an FID"
        )
    return ScatteringFeatures() if file is None else InceptionFeatures(file)


def _print_json(
    found: Sequence[Run], given: Sequence[str], evaluations: Sequence[Metrics], only: Sequence[str]
) -> None:
    """Prints every run with its metrics, then every configuration with mean, standard deviation and seeds."""
    told = [
        {"run": name, "metrics": {key: value for key, value in metrics.items() if not only or _metric(key) in only}}
        for name, metrics in zip(given, evaluations, strict=True)
    ]
    groups = to_plain(summaries(found, given, evaluations), only or None)
    print(json.dumps({"runs": told, "configurations": groups}, indent=2))


def _metric(key: str) -> str:
    return key.removesuffix("_reason").removesuffix("_stderr")


def _print_summaries(of_configurations: Sequence[Summary], only: Sequence[str], every: bool) -> None:
    """Prints a table for each configuration, or why there is no mean."""
    for problem in dict.fromkeys(summary.problem for summary in of_configurations if summary.problem):
        names = [summary.name for summary in of_configurations if summary.problem == problem]
        note(f"no mean over {', '.join(names)}: {problem}")
    for summary in of_configurations:
        if not summary.problem:
            print()
            print_seeds(summary, only, every)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    content = text.encode()
    write_atomically(path, lambda file: file.write(content))


def write_metrics(path: Path, metrics: dict[str, Any]) -> None:
    """Writes metrics.json, and keeps earlier ones as metrics.1.json and so on."""
    write_numbered(path, (json.dumps(metrics, indent=2) + "\n").encode())


def main(args: Sequence[str]) -> None:
    """Runs the command."""
    parse(evaluate_runs, "pyro-sri evaluate", args)
