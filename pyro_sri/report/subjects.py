"""Runs as the report shows them: facts, pictures, and the commands that repeat them."""

import inspect
from pathlib import Path
from typing import Any, NamedTuple

import pyro
from pyro.infer.elbo import ELBOModule

from pyro_sri.data.generators import GENERATORS
from pyro_sri.evaluation.measures import Truth
from pyro_sri.evaluation.measures.collapse import Collapse
from pyro_sri.inference import SCENES_AT_ONCE, explain
from pyro_sri.report.gallery import ACTIVENESS_IMAGES, Exhibit, Images, gallery, load_images, missing_data
from pyro_sri.report.html import Html, animation, picture
from pyro_sri.runs import Run, find_run
from pyro_sri.system.errors import UserError

NUM_SCENES = 6  # on a sheet
NO_COLLAPSE = ("not checked, because there are no images", "none seen")


class Figure(NamedTuple):
    """An exhibit on the page.

    Attributes:
        title: The title.
        html: The picture and its caption.
    """

    title: str
    html: Html


class Subject(NamedTuple):
    """A run and what the page shows about it.

    Attributes:
        given: How the user named the run.
        name: A short name, different from the others'.
        run: The run.
        facts: Facts about the run, in a few words each.
        figures: Its pictures, by the name of the exhibit and whether it is an animation.
        metrics: The result of `evaluate`, or None.
        commands: The commands that train and evaluate the run.
    """

    given: str
    name: str
    run: Run
    facts: dict[str, str]
    figures: dict[tuple[str, bool], Figure]
    metrics: dict[str, Any] | None
    commands: tuple[str, ...]

    @property
    def warnings(self) -> list[str]:
        """Problems of the run: collapsed slots, and parts that were never trained."""
        untrained = self.run.config.untrained(self.run.step)
        collapse = self.facts.get("collapse")
        return [*([untrained] if untrained else []), *([collapse] if collapse and collapse not in NO_COLLAPSE else [])]


def show_run(run: Run, given: str, name: str, *, data: Path | None, seed: int, commands: tuple[str, ...]) -> Subject:
    """Draws the pictures of a run and collects the facts about it.

    Args:
        run: The run.
        given: How the user named it.
        name: A short name, different from the others'.
        data: The dataset file whose images are shown. None means the run's own.
        seed: The random seed of the pictures.
        commands: The commands that train and evaluate the run.
    """
    module, metrics = run.load_module(), run.metrics()
    images = load_images(run, None, ACTIVENESS_IMAGES, data)
    exhibits = gallery(run, images, num=NUM_SCENES, seed=seed, module=module)
    figures = {(exhibit.name, len(exhibit.frames) > 1): _figure(exhibit, name) for exhibit in exhibits}
    facts = _facts(run, module, images, metrics) | {"collapse": _collapse(module, images, metrics, seed)}
    return Subject(given, name, run, facts, figures, metrics, commands)


def _collapse(module: ELBOModule, images: Images | None, metrics: dict[str, Any] | None, seed: int) -> str:
    """Whether the slots have collapsed, as found by `evaluate` or from the images here."""
    if metrics is not None and metrics.get("collapse"):
        return str(metrics["collapse"])
    if images is None:
        return NO_COLLAPSE[0]
    collapse = Collapse()
    pyro.set_rng_seed(seed)
    for batch in images.images.split(SCENES_AT_ONCE):
        collapse.update(explain(module.model, module.guide, batch, module.elbo, imagine=False), Truth(None, ()))
    return collapse.sentence() or NO_COLLAPSE[1]


def _figure(exhibit: Exhibit, name: str) -> Figure:
    alt = f"{exhibit.title} of {name}"
    if len(exhibit.frames) > 1:
        html = animation(exhibit.frames, exhibit.milliseconds, alt, exhibit.caption)
    else:
        html = picture(exhibit.frames[0], alt, exhibit.caption, pixelated=exhibit.pixelated)
    return Figure(exhibit.title, html)


def _facts(run: Run, module: ELBOModule, images: Images | None, metrics: dict[str, Any] | None) -> dict[str, str]:
    config, untrained, before = run.config, run.config.untrained(run.step), steps_before(run)
    return {
        "what it is": (inspect.getdoc(type(config)) or config.preset).splitlines()[0],
        "preset": config.preset,
        "data": _describe_data(run, images, metrics),
        "images": f"{config.image_size} x {config.image_size}",
        "trained for": f"{run.step} of {config.steps} steps" + (f"; {untrained}" if untrained else ""),
        **({} if config.start_from is None else {"started from": before}),
        "slots": str(module.model.num_slots),
        "parameters": f"{sum(p.numel() for p in module.parameters()) / 1e6:.2f} million",
        "training seed": str(config.seed),
    }


def steps_before(run: Run) -> str:
    """The runs that a run started from, the latest first, with the steps of each and the total."""
    told: list[str] = []
    total, known, seen = 0, True, {run.path.resolve()}
    start = run.config.start_from
    while start is not None:
        try:
            earlier = find_run(start)
            steps = earlier.step
        except (UserError, OSError, ValueError):  # a name may be anything
            told.append(f"{start} (missing, so its number of steps is unknown)")
            known = False
            break
        told.append(f"{start} ({steps} steps)")
        total += steps
        if earlier.path.resolve() in seen:
            break
        seen.add(earlier.path.resolve())
        start = earlier.config.start_from
    more = "" if len(told) < 2 else f": {total}{'' if known else ' or more'} steps before this run's own"
    return ", which started from ".join(told) + more


def _describe_data(run: Run, images: Images | None, metrics: dict[str, Any] | None) -> str:
    if images is not None:
        return images.origin
    if metrics is not None and "data" in metrics:
        return f"{metrics['data']} ({missing_data(run)})"
    dataset = run.config.dataset
    origin = ", generated unless converted from published files" if dataset in GENERATORS else ""
    return f"{dataset}{origin} ({missing_data(run)})"
