"""The command `pyro-sri report`: one page about one or several runs."""

import dataclasses
import inspect
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pyro
import torch
from pyro.infer.elbo import ELBOModule
from tyro.conf import Positional, arg

from pyro_sri import __version__, viz
from pyro_sri.data.generators import GENERATORS
from pyro_sri.errors import UserError
from pyro_sri.inference import Scenes, explain, sample_scenes
from pyro_sri.runs import Run, find_run, write_atomically
from pyro_sri.scripts.cli import parse
from pyro_sri.scripts.evaluate import MEANINGS
from pyro_sri.scripts.sample import SCENES_AT_ONCE, check_new_file
from pyro_sri.scripts.visualize import Images, load_images, missing_data
from pyro_sri.seeds import check_seed
from pyro_sri.viz.page import Cell, Html, element, facts, hint, join, page, picture, table

NUM_IMAGES, NUM_SAMPLES, NUM_SAMPLES_BY_SLOT = 6, 40, 6
SAMPLE_COLUMNS = 8

HIGHER_IS_BETTER = ("ari_fg", "ari_fg_attention", "ari", "structure_accuracy")
LOWER_IS_BETTER = ("mse", "nll", "bpd", "bpd_with_cross", "iwae_bpd", "frechet")

# How an evaluation was made, as opposed to what it found.
CONDITIONS = {
    "data": "the dataset file",
    "split": "the part of it",
    "num_images": "how many images, the first ones of the split",
    "num_images_without_foreground": "images left out of ARI-FG: they show no object",
    "seed": "seed of the evaluation's draws",
    "step": "training step of the weights",
    "checkpoint": "best (by validation) or last",
    "preset": "where the run's configuration started from",
    "training_seed": "seed of the run",
    "iwae_images": "images for the importance-weighted bound",
    "iwae_samples": "draws per image for it",
    "frechet_features": "what the Fréchet distance compares; distances with other features are not comparable",
}
COMPARABLE = ("data", "split", "num_images")  # metrics are compared only if these agree

EXPLANATIONS = {
    "segregation_nll": "-log p(x | z) of the segregation's own model, nats per image",
    "segregation_kl": "KL of the segregation's own posterior, nats per image",
    "iwae_bpd_stderr": "standard error of iwae_bpd over images",
    "frechet": "Fréchet distance between features of generated and of test images; 0 is perfect",
    "structure_accuracy": "share of generated scenes whose objects hold together as in the data",
    **CONDITIONS,
    **MEANINGS,
}


def report(
    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN [RUN ...]")],
    /,
    out: Path = Path("report.html"),
    seed: int = 0,
) -> None:
    """Write one page about one or several runs, side by side: metrics, curves, pictures, configuration, commands.

    The page is a single file that needs no network: open it in any browser, or send it to someone.
    An existing file is never overwritten.

    For example:
      pyro-sri report runs/quick
      pyro-sri report runs/first runs/second --out comparison.html

    Args:
        runs: Run directories, or names of presets whose weights ship.
        out: The .html file to make.
        seed: Seed of the pictures' draws.

    Raises:
        UserError: If a run cannot be read, or the file exists or cannot be written.
    """
    if not runs:
        raise UserError("which runs? pyro-sri report RUN [RUN ...] --out report.html takes at least one")
    check_new_file(out, (".html", ".htm"))
    check_seed(seed)
    subjects = [_subject(given, name, seed) for given, name in zip(runs, short_names(runs), strict=True)]
    command = shlex.join(["pyro-sri", "report", *runs, "--out", str(out), "--seed", str(seed)])
    content = make_page(subjects, command).encode()
    write_atomically(out, lambda file: file.write(content))
    print(f"wrote {out} ({len(content) / 2**20:.1f} MB); open it in a browser")


class Subject(NamedTuple):
    """A run and what the page shows of it.

    Attributes:
        given: How the user named the run.
        name: A short name, different from the others'.
        run: The run.
        module: Its model, guide and objective.
        images: Images that it was not trained on, or None if its data is not here.
        metrics: What `evaluate` found, or None.
        seed: Seed of the pictures' draws.
    """

    given: str
    name: str
    run: Run
    module: ELBOModule
    images: Images | None
    metrics: dict[str, Any] | None
    seed: int


def make_page(subjects: Sequence[Subject], command: str) -> str:
    """The whole page.

    Args:
        subjects: The runs, in the order in which they stand side by side.
        command: What makes this page again.
    """
    sections = {
        "Runs" if len(subjects) > 1 else "Run": _side_by_side(subjects, _card),
        "Metrics": _metrics(subjects),
        "Training": _side_by_side(subjects, _curves),
        "Reconstructions": _side_by_side(subjects, _reconstructions),
        "Samples": _side_by_side(subjects, _samples),
        "Samples slot by slot": _side_by_side(subjects, _samples_by_slot),
        "Configuration": _configuration(subjects),
        "Commands": _commands(subjects, command),
    }
    anchors = {title: title.lower().replace(" ", "-") for title in sections}
    names = ", ".join(subject.name for subject in subjects)
    links = join(element("a", title, href=f"#{anchor}") for title, anchor in anchors.items())
    header = element("header", element("h1", names), element("nav", links))
    body = [element("section", element("h2", title, id=anchors[title]), sections[title]) for title in sections]
    footer = element(
        "footer", f"pyro-sri {__version__}, PyTorch {torch.__version__}; pictures drawn with seed {subjects[0].seed}"
    )
    return page(f"{names} - pyro-sri", join([header, element("main", join(body)), footer]))


def short_names(given: Sequence[str]) -> list[str]:
    """The last parts of paths where they differ, else the whole."""
    last = [Path(name).resolve().name if Path(name).exists() else name for name in given]
    return last if len(set(last)) == len(last) else list(given)


def _subject(given: str, name: str, seed: int) -> Subject:
    run = find_run(given)
    module = run.load_module()
    return Subject(given, name, run, module, load_images(run, None, NUM_IMAGES), run.metrics(), seed)


def _side_by_side(subjects: Sequence[Subject], show: Callable[[Subject], Html]) -> Html:
    """What one function shows of every run; run names above if there are several."""
    parts = [join([element("h3", s.name), show(s)] if len(subjects) > 1 else [show(s)]) for s in subjects]
    return element("div", join(element("div", part) for part in parts), class_="runs")


def _card(subject: Subject) -> Html:
    config = subject.run.config
    size = sum(p.numel() for p in subject.module.parameters())
    pairs = [
        ("what it is", (inspect.getdoc(type(config)) or config.preset).splitlines()[0]),
        ("preset", config.preset),
        ("data", _describe_data(subject)),
        ("images", f"{config.image_size} x {config.image_size}"),
        ("trained for", f"{subject.run.step} of {config.steps} steps"),
        ("slots", str(subject.module.model.num_slots)),
        ("parameters", f"{size / 1e6:.2f} million"),
        ("training seed", str(config.seed)),
    ]
    return element("div", facts(pairs), class_="card")


def _describe_data(subject: Subject) -> str:
    if subject.images is not None:
        return subject.images.origin
    if subject.metrics is not None and "data" in subject.metrics:
        return f"{subject.metrics['data']} (the file is not here)"
    dataset = subject.run.config.dataset
    origin = ", generated unless converted from published files" if dataset in GENERATORS else ""
    return f"{dataset}{origin} (the file is not here)"


def _metrics(subjects: Sequence[Subject]) -> Html:
    columns = {subject.name: subject.metrics for subject in subjects if subject.metrics is not None}
    parts = [_not_evaluated(subject) for subject in subjects if subject.metrics is None]
    if not columns:
        return join(parts)
    comparable = len(columns) > 1 and all(len({str(m.get(n)) for m in columns.values()}) == 1 for n in COMPARABLE)
    if comparable:
        parts.append(element("p", "The best value of a row is bold.", class_="soft"))
    elif len(columns) > 1:
        parts.append(element("p", "These runs were evaluated on different images: values do not compare."))
    names = [name for name in _union(columns.values()) if not name.endswith("_reason")]
    found = [name for name in names if name not in CONDITIONS]
    parts.append(_metrics_table("metric", found, columns, comparable))
    parts.append(element("h3", "How they were computed", style="margin-top:1.5rem"))
    parts.append(_metrics_table("condition", [name for name in CONDITIONS if name in names], columns, False))
    glossary = facts((name, EXPLANATIONS[name]) for name in names if name in EXPLANATIONS)
    parts.append(element("details", element("summary", "What these mean"), glossary, class_="narrow"))
    return join(parts)


def _not_evaluated(subject: Subject) -> Html:
    command = shlex.join(["pyro-sri", "evaluate", subject.given])
    return join([element("p", f"{subject.name} is not evaluated yet. This does it:"), element("pre", command)])


def _metrics_table(kind: str, names: Sequence[str], columns: dict[str, dict[str, Any]], mark_best: bool) -> Html:
    rows = []
    for name in names:
        best = _best(name, [metrics.get(name) for metrics in columns.values()]) if mark_best else None
        arrow = " ↑" if name in HIGHER_IS_BETTER else " ↓" if name in LOWER_IS_BETTER else ""
        explanation = EXPLANATIONS.get(name, "")
        cells = [_metric_cell(name, metrics, best) for metrics in columns.values()]
        rows.append(
            [Cell(element("span", hint(name, explanation), arrow), name), *cells, Cell(explanation, kind="long soft")]
        )
    headers = [Cell(name, name) for name in (kind, *columns)]
    return table([*headers, Cell("what it is", kind="long soft")], rows)


def _metric_cell(name: str, metrics: dict[str, Any], best: float | None) -> Cell:
    value = metrics.get(name)
    if value is None:
        return Cell("–", note=str(metrics.get(f"{name}_reason", "not computed")))
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return Cell(element("strong", shown) if best is not None and value == best else shown, value)


def _best(name: str, values: Iterable[Any]) -> float | None:
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(numbers) < 2 or name not in HIGHER_IS_BETTER + LOWER_IS_BETTER:
        return None
    return max(numbers) if name in HIGHER_IS_BETTER else min(numbers)


def _curves(subject: Subject) -> Html:
    log = subject.run.log()
    if not log:
        return _nothing("This run has no training log.")
    return picture(viz.curves(log), f"Training curves of {subject.name}", "Lines: training. Points: validation.")


def _reconstructions(subject: Subject) -> Html:
    if subject.images is None:
        return _nothing(f"No images to reconstruct: {missing_data(subject.run)}.")
    pyro.set_rng_seed(subject.seed)
    explanation = explain(subject.module.model, subject.module.guide, subject.images.images, subject.module.elbo)
    caption = (
        f"{subject.images.origin}. Imagination: what the scene variable alone says of the image. Slots in the order "
        "of the sequence; a mask has its slot's colour, paler where it is less sure."
    )
    return picture(viz.reconstructions(explanation), f"Reconstructions and masks of {subject.name}", caption)


def _samples(subject: Subject) -> Html:
    pictures = viz.to_uint8(_draw(subject, NUM_SAMPLES).images)
    return picture(viz.grid(pictures, SAMPLE_COLUMNS, side=1), f"Samples of {subject.name}", pixelated=True)


def _samples_by_slot(subject: Subject) -> Html:
    sheet = viz.samples_by_slot(_draw(subject, NUM_SAMPLES_BY_SLOT))
    return picture(sheet, f"Samples of {subject.name}, slot by slot", "Slots in the order of generation.")


def _draw(subject: Subject, num: int) -> Scenes:
    pyro.set_rng_seed(subject.seed)
    return sample_scenes(subject.module.model, num, chunk=SCENES_AT_ONCE)


def _configuration(subjects: Sequence[Subject]) -> Html:
    """Every field, with the rows marked in which runs differ."""
    configs = [{"system": s.run.config.system, **dataclasses.asdict(s.run.config)} for s in subjects]
    shown = {
        name: ["not a field" if name not in c else "none" if c[name] is None else str(c[name]) for c in configs]
        for name in _union(configs)
    }
    differs = {name: len(set(values)) > 1 for name, values in shown.items()}
    generated = ["generated" if "generated" in _describe_data(s) else "" for s in subjects]
    rows = []
    for name, values in shown.items():
        notes = generated if name in ("dataset", "data") else [""] * len(values)
        cells = [Cell(value, value, note) for value, note in zip(values, notes, strict=True)]
        rows.append([Cell(f"{name} ≠" if differs[name] else name, name), *cells])
    settings = table(
        [Cell(name, name) for name in ("field", *(s.name for s in subjects))], rows, marked=list(differs.values())
    )
    if len(subjects) == 1:
        return settings
    different = [name for name in differs if differs[name]]
    note = f"The runs differ in {', '.join(different)}." if different else "The runs do not differ."
    return join([element("p", note), settings])


def _commands(subjects: Sequence[Subject], command: str) -> Html:
    parts = []
    for subject in subjects:
        evaluate = shlex.join(["pyro-sri", "evaluate", subject.given])
        parts += [element("h3", subject.name), element("pre", f"{subject.run.command()}\n{evaluate}")]
    return join([*parts, element("h3", "this page"), element("pre", command)])


def _nothing(reason: str) -> Html:
    return element("p", reason, class_="soft")


def _union(mappings: Iterable[dict[str, Any]]) -> list[str]:
    """All keys, in the order in which they come."""
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def main(args: Sequence[str]) -> None:
    """Runs the command."""
    parse(report, "pyro-sri report", args)
