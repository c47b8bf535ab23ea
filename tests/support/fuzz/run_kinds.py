"""Files of a run: configurations, checkpoints, weights to import, metrics and logs."""

import contextlib
import dataclasses
import io
import json
import operator
import shutil
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from pyro_sri.checkpoints import save_checkpoint
from pyro_sri.config import from_yaml, to_yaml
from pyro_sri.data.format import DatasetFile
from pyro_sri.data.making import make_dataset
from pyro_sri.presets import PRESETS
from pyro_sri.report.page import make_page
from pyro_sri.report.subjects import Subject
from pyro_sri.runs import CONFIG, LOG, METRICS, create_run, open_run, read_log
from pyro_sri.scripts.import_weights import import_weights
from pyro_sri.training.averaging import WeightAverage
from pyro_sri.training.loop import _State
from pyro_sri.training.step import TrainingStep, new_optimizer
from pyro_sri.viz.logs import curves
from support.fuzz.mutations import bytes_of
from support.fuzz.odd_values import (
    BOMBS,
    JSON,
    JSON_NAMES,
    JSON_TEXTS,
    LINES,
    NUMBERS,
    TENSORS,
    YAML,
    Alteration,
)
from support.fuzz.outcomes import MARKER, OUTPUT, Kind, Numbers, same
from support.fuzz.tables import Change, Table, each, lifted, part
from support.golden import GOLDEN

CASE = GOLDEN / "sri_genv2_mog.npz"
RUN, LAST = "run", "last.pt"
DATA = "tiny.h5"  # beside the run; commands run there
TINY = dataclasses.replace(PRESETS["sri-quick"].config.tiny(), num_slots=2, attention_layers=1, data=Path(DATA))

A = TypeVar("A")

torch.set_num_threads(1)


# A run


def make_run(folder: Path) -> None:
    """A run directory as training leaves it, after one step of Adam on gradients of ones."""
    make_dataset("tetrominoes", folder / DATA, size=TINY.image_size, train=4, val=2, test=2)
    with DatasetFile(folder / DATA) as data:
        config = dataclasses.replace(TINY, data_hash=data.content_hash())
    run = create_run(folder / RUN, config)
    torch.manual_seed(0)
    module = TrainingStep(*config.build())
    optimizer = new_optimizer(module, config)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    checkpoint = {"step": 3, "best": 12.5, "objective": module.state_dict(), "optimizer": optimizer.state_dict()}
    checkpoint["totals"] = {"loss": torch.tensor([1.0, 2.0])}
    checkpoint["averaged"] = WeightAverage(module, config.ema).state_dict()
    for name in ("best", "last"):
        save_checkpoint(run.checkpoint(name), checkpoint)
    metrics = {
        "data": "generated: x.h5",
        "split": "test",
        "num_images": 16,
        "seed": 0,
        "step": 3,
        "training_seed": 0,
        "mse": 0.01,
        "mse_stderr": 0.001,
        "frechet": None,
        "frechet_reason": "too few images",
        "nll": -3.5,
        "count_accuracy": 0.5,
        "count_2_found_2": 8,
        "count_2_found_3": 8,
        "frechet_features": "scattering-64",
    }
    (run.path / METRICS).parent.mkdir()
    (run.path / METRICS).write_text(json.dumps(metrics, indent=2))
    lines = [
        {"step": 10 * i, "loss": 900.0 / i, "nll": 850.5 / i, "kl_slots": 3.5 * i, "beta": 0.5, "val_nll": 900.5 / i}
        for i in range(1, 30)
    ]
    (run.path / LOG).write_text("".join(json.dumps(line) + "\n" for line in lines))


# Configurations


def config(folder: Path) -> Numbers:
    read = open_run(folder / RUN).config
    assert from_yaml(to_yaml(read), "again") == read
    return {"command": open_run(folder / RUN).command(), **dataclasses.asdict(read)}


def networks(folder: Path) -> Numbers:
    return {name: value.numpy() for name, value in open_run(folder / RUN).load_module().state_dict().items()}


def agree_config(expected: Numbers, found: Numbers) -> None:
    """All fields, each of a type that it may have; a text has no checksum. Networks that are built have the weights."""
    if "command" not in expected:
        same(expected, found)
        return
    assert expected.keys() == found.keys()
    for name, value in found.items():
        assert value is None or expected[name] is None or type(value) is type(expected[name]), name


LineChange = Callable[[np.random.Generator, list[str]], object]  # changes lines in place


def in_config(change: LineChange) -> Change:
    def damage(rng: np.random.Generator, folder: Path) -> None:
        path = folder / RUN / CONFIG
        lines = path.read_text().splitlines(keepends=True)
        change(rng, lines)
        path.write_text("".join(lines).replace(MARKER, str(folder / MARKER)), encoding="utf-8")

    return damage


def _drawn(rng: np.random.Generator, lines: Sequence[str]) -> tuple[int, str]:
    """The number of a line, and the field in it."""
    index = int(rng.integers(len(lines)))
    return index, lines[index].split(":")[0]


def value_of_field(value: str) -> LineChange:
    def change(rng: np.random.Generator, lines: list[str]) -> None:
        index, name = _drawn(rng, lines)
        lines[index] = f"{name}: {value}\n"

    return change


def field_again(value: str) -> LineChange:
    return lambda rng, lines: lines.append(f"{_drawn(rng, lines)[1]}: {value}\n")


def name_of_field(name: str) -> LineChange:
    return lambda rng, lines: operator.setitem(lines, _drawn(rng, lines)[0], f"{name}: 3\n")


def line_more(line: str) -> LineChange:
    return lambda rng, lines: lines.insert(_drawn(rng, lines)[0], line)


CONFIG_LINES: Table[LineChange] = {
    **part("value: ", 6, each(value_of_field, YAML)),
    **part("field again: ", 1, each(field_again, YAML)),
    **part("name of a field: ", 1, each(name_of_field, YAML)),
    **part("line more: ", 1, each(line_more, LINES)),
    **part("aliases: ", 1, each(lambda text: lambda rng, lines: lines.insert(0, text), BOMBS)),
    "field missing": (1, lambda rng, lines: lines.pop(_drawn(rng, lines)[0])),
}


def encoded(encoding: str) -> Change:
    end = "# \u00e9\n"  # not the same bytes in any two of them

    def damage(rng: np.random.Generator, folder: Path) -> None:
        path = folder / RUN / CONFIG
        path.write_bytes((path.read_text() + end).encode(encoding))

    return damage


ENCODINGS = {name: name for name in ("utf-16", "utf-8-sig", "latin-1", "utf-32")}
CONFIGURATIONS: Table[Change] = {
    **bytes_of(CONFIG, 30),
    **part("", 64, lifted(in_config, CONFIG_LINES)),
    **part("encoding: ", 6, each(encoded, ENCODINGS)),
}


# Checkpoints


def step(folder: Path) -> Numbers:
    return {"step": open_run(folder / RUN).step}


def resumed(folder: Path) -> Numbers:
    """What training goes on from."""
    run = open_run(folder / RUN)
    module = TrainingStep(*run.config.build())
    optimizer, state = new_optimizer(module, run.config), _State()
    state.restore(run, module, optimizer)
    numbers: dict[str, Any] = {"step": state.step, "best": state.best}
    numbers |= {f"total {name}": total.numpy() for name, total in state.totals.items()}
    for number, kept in optimizer.state_dict()["state"].items():
        numbers |= {f"{number} {name}": value.numpy() for name, value in kept.items()}
    numbers |= {f"averaged {name}": value.numpy() for name, value in (state.averaged or {}).items()}
    optimizer.step()  # computes with what it was given
    return numbers | {name: value.numpy().copy() for name, value in module.state_dict().items()}


CHECKPOINT_READERS = {"step": step, "networks": networks, "resumed": resumed}


Edit = Callable[[np.random.Generator, Any], object]  # of what a file holds: changed, or what takes its place


def both(change: Change) -> Change:
    """Changes the last checkpoint, and makes the best one a copy of it."""

    def damage(rng: np.random.Generator, folder: Path) -> None:
        change(rng, folder)
        checkpoints = folder / RUN / "checkpoints"
        shutil.copy(checkpoints / LAST, checkpoints / "best.pt")

    return damage


class Payload:
    """A pickle that would make a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.marker), "w"))


def draw(rng: np.random.Generator, values: Iterable[A]) -> A:
    values = list(values)
    return values[rng.integers(len(values))]


def put(value: object) -> Edit:
    return lambda rng, values: value


ANY = object()


def at(place: object, edit: Edit) -> Edit:
    """Edits one entry of a dictionary or a list: the one at a place, or any."""

    def outer(rng: np.random.Generator, values: Any) -> Any:
        name = draw(rng, values) if place is ANY else place
        values[name] = edit(rng, values[name])
        return values

    return outer


def without(place: object) -> Edit:
    def edit(rng: np.random.Generator, values: Any) -> Any:
        del values[draw(rng, values) if place is ANY else place]
        return values

    return edit


def entry_more(name: str) -> Edit:
    def edit(rng: np.random.Generator, values: Any) -> Any:
        values[name] = values[draw(rng, values)]
        return values

    return edit


def number_as_name(rng: np.random.Generator, values: Any) -> Any:
    values[int(rng.integers(5)) + 10**6] = values.pop(draw(rng, values))
    return values


ODD_NAMES = {"another": "another", "nothing": "", "an escape sequence": "\x1b[2J", "10000 letters": "a" * 10_000}
ENTRIES: Table[Edit] = {  # of a dictionary of tensors
    "entry missing": (1, without(ANY)),
    **part("entry more: ", 1, each(entry_more, ODD_NAMES)),
    "number as a name": (1, number_as_name),
    **part("tensor became ", 7, each(lambda alter: at(ANY, lambda rng, tensor: alter(tensor)), TENSORS)),
}


def odd_numbers(*places: str) -> Table[Edit]:
    return {f"{place} became {name}": (1, at(place, put(value))) for place in places for name, value in NUMBERS.items()}


def odd_total(alter: Alteration) -> Edit:
    names = ["loss", "another", "", 5]
    return at("totals", lambda rng, totals: totals | {draw(rng, names): alter(torch.ones(2))})


def of_another_system(rng: np.random.Generator, checkpoint: Any) -> Any:
    other = TrainingStep(*PRESETS["slot_attention-tetrominoes"].config.tiny().build())
    return checkpoint | {"objective": other.state_dict()}


TOP = ("step", "best", "totals", "objective", "optimizer")
OPTIONS = ("lr", "betas", "eps", "params", "weight_decay", "fused", "amsgrad")
CHECKPOINT_EDITS: Table[Edit] = {
    **part("objective: ", 4, lifted(lambda edit: at("objective", edit), ENTRIES)),
    **part("moments: ", 3, lifted(lambda edit: at("optimizer", at("state", at(ANY, edit))), ENTRIES)),
    **part("a total became ", 1, each(odd_total, TENSORS)),
    **part("", 1.3, odd_numbers(*TOP)),
    **part("optimizer: ", 0.7, lifted(lambda edit: at("optimizer", edit), odd_numbers("state", "param_groups"))),
    **part("group: ", 1, lifted(lambda e: at("optimizer", at("param_groups", at(0, e))), odd_numbers(*OPTIONS))),
    **part("missing: ", 1, each(without, {name: name for name in TOP})),
    **part("became ", 0.75, each(put, {"a list": [1, 2], "a tensor": torch.ones(3), "None": None})),
    "of another system": (0.25, of_another_system),
}


def in_checkpoint(edit: Edit) -> Change:
    def damage(rng: np.random.Generator, folder: Path) -> None:
        path = folder / RUN / "checkpoints" / LAST
        torch.save(edit(rng, torch.load(path, weights_only=True)), path)

    return damage


def payload_in_checkpoint(rng: np.random.Generator, folder: Path) -> None:
    in_checkpoint(at("totals", put(Payload(folder / MARKER))))(rng, folder)


def compressed(rng: np.random.Generator, folder: Path) -> None:
    _compress(folder / RUN / "checkpoints" / LAST)


CHECKPOINTS: Table[Change] = {
    **part("", 13, lifted(in_checkpoint, CHECKPOINT_EDITS)),
    "payload": (1, payload_in_checkpoint),
    "compressed": (0.7, compressed),
}


def _compress(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content + bytes(2**26 if "data/0" in name else 0))


def agree_values(expected: Numbers, found: Numbers) -> None:
    """The right names, shapes and types, and finite values."""
    for name, value in found.items():
        if isinstance(value, np.ndarray) and not name.startswith("total"):
            assert value.shape == expected[name].shape, name
            assert value.dtype == expected[name].dtype, name
        assert np.isfinite(value).all() or (name == "best" and value > 0), name  # none so far: infinity


# Weights to import


WEIGHTS = ("zip.pth", "legacy.pth")


def importing(file: str) -> Callable[[Path], Numbers]:
    def read(folder: Path) -> Numbers:
        out = folder / OUTPUT / "imported"
        with contextlib.redirect_stderr(io.StringIO()):
            import_weights(folder / file, out=out, image_size=32, num_slots=5)
        numbers = {name: value.numpy() for name, value in open_run(out).load_module().state_dict().items()}
        shutil.rmtree(out)
        return numbers

    return read


def authors_weights() -> dict[str, torch.Tensor]:
    with np.load(CASE) as arrays:
        states = {name: torch.from_numpy(arrays[name]) for name in arrays.files if name.startswith("state/")}
    return {name.removeprefix("state/"): tensor.float() for name, tensor in states.items()}


def make_weights(folder: Path) -> None:
    weights = authors_weights()
    torch.save({"model": weights}, folder / WEIGHTS[0])
    torch.save(weights, folder / WEIGHTS[1], _use_new_zipfile_serialization=False)


def in_weights(edit: Edit) -> Change:
    return lambda rng, folder: _save_weights(folder, edit(rng, authors_weights()))


def _save_weights(folder: Path, weights: object) -> None:
    for legacy, name in enumerate(WEIGHTS):
        torch.save(weights, folder / name, _use_new_zipfile_serialization=not legacy)


def another_size(size: tuple[int, ...]) -> Edit:
    names = ["scene_encoder.project_to_scene_dim.0.weight", "prior_lstm.lstm.weight_ih_l0"]
    return lambda rng, weights: weights | {draw(rng, names): torch.zeros(size)}


def renamed(rng: np.random.Generator, weights: Any) -> Any:
    for name in list(weights)[: rng.integers(1, len(weights))]:
        weights[name.replace("scene_encoder", "scene_encoder.blocks.x")] = weights.pop(name)
    return weights


def payload_in_weights(deeper: bool) -> Change:
    def damage(rng: np.random.Generator, folder: Path) -> None:
        payload = Payload(folder / MARKER)
        _save_weights(folder, {"a": payload} if deeper else payload)

    return damage


SIZES = {str(size): size for size in ((10**9, 0), (0, 10**9), (10**6, 1), (1, 10**6), (8,), (3, 3))}
NO_WEIGHTS: dict[str, object] = {"a list": [], "empty": {}, "an empty dictionary": {"a": {}}, "5": 5}
WEIGHT_EDITS: Table[Edit] = {
    **part("", 4, ENTRIES),
    **part("size became ", 1, each(another_size, SIZES)),
    "too large for float32": (1, at(ANY, lambda rng, tensor: tensor.double() + 1e200)),
    "renamed": (1, renamed),
    **part("became ", 0.6, each(put, NO_WEIGHTS)),
}
WEIGHT_VALUES: Table[Change] = {
    **part("", 7.6, lifted(in_weights, WEIGHT_EDITS)),
    "payload": (0.2, payload_in_weights(False)),
    "payload in a dictionary": (0.2, payload_in_weights(True)),
}


def agree_weights(expected: Numbers, found: Numbers) -> None:
    """Every weight is what it was."""
    assert expected.keys() == found.keys()
    same(expected, found)


# Metrics and logs


def metrics(folder: Path) -> Numbers:
    return open_run(folder / RUN).metrics() or {}


def report_page(folder: Path) -> Numbers:
    """The tables of a report about the run, alone and beside a sound one."""
    run = open_run(folder / RUN)
    facts = {"what it is": "A system.", "trained for": "3 steps", "data": "generated", "training seed": "0"}
    subject = Subject("a", "a", run, facts, {}, run.metrics(), (run.command(),))
    other = Subject("b", "b", run, facts, {}, {"mse": 0.5, "split": "test", "training_seed": 1}, ())
    pages = [make_page(subjects, "command", 0) for subjects in ([subject], [subject, other])]
    for text in pages:
        assert "<script>alert" not in text
    return {}


def agree_metrics(expected: Numbers, found: Numbers) -> None:
    """Numbers and texts by name; a text has no checksum."""
    for name, value in found.items():
        assert value is None or isinstance(value, int | float | str), name


TextChange = Callable[[np.random.Generator, str], str]


def with_value(value: object) -> TextChange:
    return lambda rng, text: _with(rng, text, {draw(rng, JSON_NAMES.values()): value})


def with_name(name: str) -> TextChange:
    return lambda rng, text: _with(rng, text, {name: draw(rng, [0.5, 3, *JSON.values()])})


def with_several(rng: np.random.Generator, text: str) -> str:
    odd = {draw(rng, JSON_NAMES.values()): draw(rng, JSON.values()) for _ in range(rng.integers(2, 4))}
    return _with(rng, text, odd)


def _with(rng: np.random.Generator, text: str, odd: dict[str, Any]) -> str:
    return json.dumps(json.loads(text) | odd, ensure_ascii=bool(rng.integers(2)))


JSON_CHANGES: Table[TextChange] = {
    **part("value: ", 3, each(with_value, JSON)),
    **part("name: ", 2, each(with_name, JSON_NAMES)),
    "several values": (3, with_several),
    **part("became ", 4, each(lambda became: lambda rng, text: became, JSON_TEXTS)),
}


def in_metrics(change: TextChange) -> Change:
    def damage(rng: np.random.Generator, folder: Path) -> None:
        path = folder / RUN / METRICS
        path.write_text(change(rng, path.read_text()), encoding="utf-8")

    return damage


def in_log(change: TextChange) -> Change:
    """Changes a line."""

    def damage(rng: np.random.Generator, folder: Path) -> None:
        path = folder / RUN / LOG
        lines = path.read_text().splitlines()
        index = rng.integers(len(lines))
        lines[index] = change(rng, lines[index])
        path.write_text("\n".join(lines), encoding="utf-8")

    return damage


METRICS_CHANGES: Table[Change] = {**bytes_of(str(METRICS), 2), **part("", 3, lifted(in_metrics, JSON_CHANGES))}
LOG_CHANGES: Table[Change] = {**bytes_of(LOG), **part("", 1, lifted(in_log, JSON_CHANGES))}


def log(folder: Path) -> Numbers:
    return {"lines": read_log(folder / RUN / LOG)}


def drawn_log(folder: Path) -> Numbers:
    return {"shape": curves(read_log(folder / RUN / LOG), goal=100.0).shape}


def agree_log(expected: Numbers, found: Numbers) -> None:
    """Numbers by name, and a step, in every line; a text has no checksum."""
    if "shape" in expected:
        same(expected, found)
        return
    for line in found["lines"]:
        assert isinstance(line["step"], int)
        assert all(isinstance(value, int | float) for value in line.values())


RUN_KINDS = {
    "configuration": Kind(make_run, CONFIGURATIONS, {"config": config, "networks": networks}, agree_config),
    "checkpoint": Kind(make_run, lifted(both, bytes_of(LAST)), CHECKPOINT_READERS, same),
    "checkpoint values": Kind(make_run, lifted(both, CHECKPOINTS), CHECKPOINT_READERS, agree_values),
    "weights": Kind(make_weights, bytes_of(WEIGHTS[0]), {"zip": importing(WEIGHTS[0])}, agree_weights),
    "weights before PyTorch 1.6": Kind(
        make_weights, bytes_of(WEIGHTS[1]), {"legacy": importing(WEIGHTS[1])}, agree_values
    ),
    "weight values": Kind(make_weights, WEIGHT_VALUES, {n: importing(n) for n in WEIGHTS}, agree_values),
    "metrics": Kind(make_run, METRICS_CHANGES, {"metrics": metrics, "page": report_page}, agree_metrics),
    "log": Kind(make_run, LOG_CHANGES, {"log": log, "curves": drawn_log}, agree_log),
}
