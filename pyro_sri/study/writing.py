"""The output of a study: results, tables, pictures and the page. All are written again each time."""

from collections.abc import Iterator
from pathlib import Path

from pyro_sri.study.page import make_page
from pyro_sri.study.pictures import curves, sample_sheets
from pyro_sri.study.plan import Plan
from pyro_sri.study.results import RESULTS, collect, to_json
from pyro_sri.study.tables import WRITERS
from pyro_sri.system.files import write_atomically
from pyro_sri.viz.sheets import paint, png
from pyro_sri.viz.vector import VECTORS, draw_layout, save_figure

PAGE = "report.html"


def write_results(plan: Plan, command: str) -> Iterator[Path]:
    """Writes results.json, the tables, samples and report.html into the study's folder. Yields each path when written.

    Args:
        plan: The study.
        command: The command that runs the study, for the page.
    """
    results = collect(plan)
    yield _write(plan.out / RESULTS, to_json(results).encode())
    for name, to_text in WRITERS.items():
        yield _write(plan.out / name, to_text(plan, results).encode(errors="backslashreplace"))
    sheets = sample_sheets(plan)
    for name, layout in sheets.items():
        stem = "samples" if len(plan.study.data) == 1 else f"samples-{name}"
        yield _write(plan.out / f"{stem}.png", png(paint(layout)))
        yield _write(plan.out / f"{stem}.pdf", draw_layout(layout, "pdf"))
    for name, figure in curves(plan).items():
        for kind in VECTORS:
            yield _write(plan.out / f"curves-{name}.{kind}", save_figure(figure, kind))
    yield _write(plan.out / PAGE, make_page(plan, results, sheets, command).encode(errors="backslashreplace"))


def _write(path: Path, content: bytes) -> Path:
    write_atomically(path, lambda file: file.write(content))
    return path
