"""The page about one or several runs, side by side."""

import dataclasses
import re
from collections.abc import Sequence

import torch

from pyro_sri import __version__
from pyro_sri.evaluation.summary import differing_conditions
from pyro_sri.report.gallery import missing_data
from pyro_sri.report.html import Cell, Html, element, facts, join, page, table
from pyro_sri.report.subjects import Subject
from pyro_sri.report.tables import headers, metric_cell, metrics_section, union, with_arrow

WORDY_FACTS = ("data", "what it is")

# What readers look for first stands first, and what moves after what does not.
FIRST, LAST = ("reconstructions", "boxes", "samples", "samples_slots"), "curves"

HEADLINES = ("ari_fg", "mse", "iwae_bpd", "frechet", "structure_accuracy", "count_accuracy")  # told beside the runs


def make_page(subjects: Sequence[Subject], command: str, seed: int) -> str:
    """The whole page.

    Args:
        subjects: The runs, in the order in which they stand side by side.
        command: What makes this page again.
        seed: Seed of the pictures' draws.
    """
    sections = [
        ("runs", "Runs" if len(subjects) > 1 else "Run", _runs(subjects)),
        ("metrics", "Metrics", metrics_section(subjects)),
        *_pictures(subjects),
        ("configuration", "Configuration", _configuration(subjects)),
        ("commands", "Commands", _commands(subjects, command)),
    ]
    names = ", ".join(subject.name for subject in subjects)
    links = join(element("a", title, href=f"#{anchor}") for anchor, title, _ in sections)
    header = element("header", element("h1", names), element("nav", links))
    body = [element("section", element("h2", title, id=anchor), content) for anchor, title, content in sections]
    footer = element("footer", f"pyro-sri {__version__}, PyTorch {torch.__version__}; pictures drawn with seed {seed}")
    return page(f"{names} - pyro-sri", join([header, element("main", join(body)), footer]))


def _runs(subjects: Sequence[Subject]) -> Html:
    """What is known of a run; of several, a table with the metrics that are looked for first."""
    if len(subjects) == 1:
        return element("div", facts(subjects[0].facts.items()), class_="card")
    evaluated = [subject.metrics for subject in subjects if subject.metrics is not None]
    headlines = [
        name
        for name in HEADLINES
        if any(metrics.get(name) is not None for metrics in evaluated) and not differing_conditions(evaluated, name)
    ]
    names = sorted(subjects[0].facts, key=lambda name: name in WORDY_FACTS)
    rows = []
    for subject in subjects:
        found = [metric_cell(name, subject.metrics or {})._replace(note="") for name in headlines]
        told = [(subject.facts[name], "text" if name in WORDY_FACTS else None) for name in names]
        shown = [Cell(value, _leading_number(value), kind=kind) for value, kind in told]
        rows.append([Cell(subject.name, subject.name), *found, *shown])
    return table(headers("run", *map(with_arrow, headlines), *names), rows)


def _leading_number(value: str) -> str:
    """What a fact is sorted by: the number it starts with, if it does."""
    number = re.match(r"\d+(\.\d+)?", value)
    return number[0] if number else value


def _pictures(subjects: Sequence[Subject]) -> list[tuple[str, str, Html]]:
    """A section for each exhibit, with every run's side by side: its anchor, title and content."""
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
        reason = "This system has none."
    return element("p", reason, class_="soft")


def _configuration(subjects: Sequence[Subject]) -> Html:
    """Every field; of several runs, those in which they differ come first."""
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
    return join([*parts, element("h3", "this page"), element("pre", command)])
