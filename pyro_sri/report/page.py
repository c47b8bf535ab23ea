"""The report page about one or more runs, side by side."""

import dataclasses
import re
from collections.abc import Sequence

import torch

from pyro_sri import __version__
from pyro_sri.report.gallery import missing_data
from pyro_sri.report.headlines import cards, comparison
from pyro_sri.report.html import Cell, Html, element, facts, fold, join, page, table
from pyro_sri.report.subjects import Subject
from pyro_sri.report.tables import headers, metrics_section, not_evaluated, union

WORDY_FACTS = ("data", "what it is", "started from", "collapse")

# The most important pictures come first and are open. Animations come after still pictures.
FIRST, LAST = ("reconstructions", "boxes", "samples", "samples_slots"), "curves"
LINKED = ("metrics", "runs", "configuration", "commands")  # folded parts that have a link at the top

LEAD = (
    "The model splits an image into slots, one for each object and one for the background, and generates new scenes. "
    "A good reconstruction looks like its image, and a good mask covers one object. Good samples look like the data. "
    "Everything else is folded: click on a title to open it."
)


def make_page(subjects: Sequence[Subject], command: str, seed: int) -> str:
    """Makes the whole page: a summary, the most important numbers and pictures, then everything else, folded.

    Args:
        subjects: The runs, in the order in which they are shown.
        command: The command that makes this page again.
        seed: The random seed of the pictures.
    """
    pictures = _pictures(subjects)
    first = [picture for picture in pictures if picture[0] in FIRST]
    folded = [
        ("metrics", "All metrics", metrics_section(subjects)),
        ("runs", "What the runs are" if len(subjects) > 1 else "What the run is", _runs(subjects)),
        *(picture for picture in pictures if picture[0] not in FIRST),
        ("configuration", "Configuration", _configuration(subjects)),
        ("commands", "Commands", _commands(subjects, command)),
    ]
    names = ", ".join(subject.name for subject in subjects)
    linked = (*first, *(part for part in folded if part[0] in LINKED))
    links = join(element("a", title, href=f"#{anchor}") for anchor, title, _ in linked)
    header = element("header", element("h1", names), _lead(subjects), _numbers(subjects), element("nav", links))
    body = [element("section", element("h2", title, id=anchor), content) for anchor, title, content in first]
    more = [element("section", fold(title, anchor, content)) for anchor, title, content in folded]
    body.append(element("div", join(more), class_="more"))
    footer = element("footer", f"pyro-sri {__version__}, PyTorch {torch.__version__}; pictures drawn with seed {seed}")
    return page(f"{names} - pyro-sri", join([header, element("main", join(body)), footer]))


def _lead(subjects: Sequence[Subject]) -> Html:
    """A paragraph that introduces the page, and warnings."""
    if len(subjects) == 1:
        told = subjects[0].facts
        start = f", after {told['started from']}" if "started from" in told else ""
        opening = f"{told['what it is']} Trained for {told['trained for']}{start}; shown on {told['data']}."
    else:
        opening = f"{len(subjects)} runs side by side."
    parts = [element("p", f"{opening} {LEAD}", class_="lead")]
    for subject in subjects:
        parts += [element("p", f"{subject.name}: {warning}", class_="warning") for warning in subject.warnings]
    return join(parts)


def _numbers(subjects: Sequence[Subject]) -> Html:
    """The most important numbers, or how to compute them."""
    missing = [subject for subject in subjects if subject.metrics is None]
    parts = [not_evaluated(subject) for subject in missing]
    if len(subjects) == 1 and subjects[0].metrics is not None:
        parts.append(cards(subjects[0].metrics))
    elif len(missing) < len(subjects):
        parts.append(element("div", comparison(subjects), id="numbers"))
    return join(parts)


def _runs(subjects: Sequence[Subject]) -> Html:
    """What is known of each run."""
    if len(subjects) == 1:
        return element("div", facts(subjects[0].facts.items()), class_="card")
    names = sorted(union(subject.facts for subject in subjects), key=lambda name: name in WORDY_FACTS)
    rows = []
    for subject in subjects:
        told = [(subject.facts.get(name, "–"), "text" if name in WORDY_FACTS else None) for name in names]
        shown = [Cell(value, _leading_number(value), kind=kind) for value, kind in told]
        rows.append([Cell(subject.name, subject.name), *shown])
    return table(headers("run", *names), rows)


def _leading_number(value: str) -> str:
    """The key for sorting a fact: the number at its start, if there is one."""
    number = re.match(r"\d+(\.\d+)?", value)
    return number[0] if number else value


def _pictures(subjects: Sequence[Subject]) -> list[tuple[str, str, Html]]:
    """A section for each exhibit, with the runs side by side: its anchor, title and content."""
    figures = {key: figure for subject in subjects for key, figure in subject.figures.items()}
    ranks = {key: rank for rank, key in enumerate(figures)}

    def order(key: tuple[str, bool]) -> tuple[bool, int, bool, int]:
        name, moves = key
        return name == LAST, FIRST.index(name) if name in FIRST else len(FIRST), moves, ranks[key]

    sections = []
    for name, moves in sorted(figures, key=order):
        parts = []
        for subject in subjects:
            figure = subject.figures.get((name, moves))
            shown = _without(subject, name) if figure is None else figure.html
            parts.append(join([element("h3", subject.name), shown]) if len(subjects) > 1 else shown)
        runs = element("div", join(element("div", part) for part in parts), class_="runs")
        sections.append((f"{name}-moving" if moves else name, figures[name, moves].title, runs))
    return sections


def _without(subject: Subject, name: str) -> Html:
    if name == LAST:
        reason = "This run has no training log."
    elif (missing := missing_data(subject.run)) is not None:
        reason = f"Not drawn: {missing}."
    else:
        reason = "This picture does not apply to the system."
    return element("p", reason, class_="soft")


def _configuration(subjects: Sequence[Subject]) -> Html:
    """A table of all fields. If there are several runs, the fields in which they differ come first."""
    configs = [{"system": s.run.config.system, **dataclasses.asdict(s.run.config)} for s in subjects]
    shown = {
        name: ["not a field" if name not in c else "none" if c[name] is None else str(c[name]) for c in configs]
        for name in union(configs)
    }
    differs = {name: len(set(values)) > 1 for name, values in shown.items()}
    generated = ["generated" if "generated" in subject.facts["data"] else "" for subject in subjects]
    names = sorted(shown, key=lambda name: not differs[name])
    rows = []
    for name in names:
        notes = generated if name in ("dataset", "data") else [""] * len(subjects)
        cells = [Cell(value, value, note) for value, note in zip(shown[name], notes, strict=True)]
        rows.append([Cell(f"{name} ≠" if differs[name] else name, name), *cells])
    settings = table(
        headers("field", *(subject.name for subject in subjects)), rows, marked=[differs[name] for name in names]
    )
    if len(subjects) == 1:
        return settings
    different = [name for name in names if differs[name]]
    note = f"The runs differ in {', '.join(different)}." if different else "The runs do not differ."
    return join([element("p", note), settings])


def _commands(subjects: Sequence[Subject], command: str) -> Html:
    parts = []
    for subject in subjects:
        parts += [element("h3", subject.name), element("pre", "\n".join(subject.commands))]
    return join([*parts, element("h3", "This page"), element("pre", command)])
