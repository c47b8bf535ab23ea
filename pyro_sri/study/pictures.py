"""Pictures of a study: samples of every row below scenes from the data, all drawn with the same seed."""

from collections.abc import Sequence
from itertools import takewhile

import pyro
import torch
from matplotlib.figure import Figure

from pyro_sri import viz
from pyro_sri.data.format import DatasetFile
from pyro_sri.data.loading import to_images
from pyro_sri.inference import sample_scenes
from pyro_sri.report.gallery import ACTIVENESS_IMAGES, Exhibit, gallery, load_images
from pyro_sri.study.plan import Job, Plan, data_file
from pyro_sri.study.specification import Row
from pyro_sri.viz.logs import compare_curves
from pyro_sri.viz.sheets import TILE_SIDE, Layout, lay_out

NUM_SCENES = 8
SEED = 0  # of the draws
LAST_EXHIBIT = "samples_order"  # everything after it in the gallery takes long
LEFT_OUT = ("slots",)
LONGEST_LABEL = 24  # letters per line


def first_jobs(plan: Plan) -> dict[str, Job]:
    """The run of the first seed of every row that has a checkpoint, by the row's key.

    Runs that diverged are left out: the weights of their last checkpoint may be so large that nothing can be drawn.
    """
    jobs = {}
    for key, row in plan.study.rows.items():
        there = [job for job in plan.of_row(row) if job.run.checkpoint().exists() and job.state().name != "diverged"]
        if there:
            jobs[key] = there[0]
    return jobs


def sample_sheets(plan: Plan) -> dict[str, Layout]:
    """For each data set, its scenes, and samples from its rows, all with the same seed.

    Returns:
        Sheets by the name of the data set.
    """
    sheets = {}
    for name in dict.fromkeys(row.data for row in plan.study.rows.values()):
        jobs = {key: job for key, job in first_jobs(plan).items() if plan.study.rows[key].data == name}
        path = data_file(plan.study, name, plan.out)
        if not jobs or not path.exists():
            continue
        with DatasetFile(path) as file:
            pixels = file.read(file.images(file.splits[-1]), slice(NUM_SCENES))
            title = "data (generated)" if file.generated else "data"
        rows = [viz.to_uint8(to_images(torch.from_numpy(pixels), "cpu"))]
        rows += [_draw(job) for job in jobs.values()]
        labels = [title, *(_label(plan, key, job) for key, job in jobs.items())]
        tiles = [[viz.enlarge(picture, TILE_SIDE) for picture in row] for row in rows]
        sheets[name] = lay_out(tiles, labels=labels, row_breaks=[1])
    return sheets


def curves(plan: Plan) -> dict[str, Figure]:
    """The study's logged values by step, with a figure for each value that some run has."""
    logs = {row.title: [job.run.log() for job in plan.of_row(row)] for row in plan.study.rows.values() if _own(row)}
    there = {name for of_row in logs.values() for log in of_row for line in log for name in line}
    return {name: compare_curves(logs, name) for name in plan.study.curves if name in there}


def _own(row: Row) -> bool:
    """Whether a row has runs of its own."""
    return row.runs_of == row.key


def exhibits(job: Job) -> list[Exhibit]:
    """The pictures of a run in the report."""
    images = load_images(job.run, None, ACTIVENESS_IMAGES)
    shown = takewhile(lambda exhibit: exhibit.name != LAST_EXHIBIT, gallery(job.run, images, num=6, seed=SEED))
    return [exhibit for exhibit in shown if exhibit.name not in LEFT_OUT]


def _draw(job: Job) -> viz.Picture:
    model, _ = job.run.load()
    pyro.set_rng_seed(SEED)
    return viz.to_uint8(sample_scenes(model, NUM_SCENES).images)


def _label(plan: Plan, key: str, job: Job) -> str:
    title = _wrapped(plan.study.rows[key].title)
    return "\n".join([*title, f"(seed {job.seed})"])


def _wrapped(text: str) -> Sequence[str]:
    """A text broken into lines. Long words are not broken."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > LONGEST_LABEL:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
