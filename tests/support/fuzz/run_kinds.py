"""Files of a run: configurations, checkpoints, weights to import, metrics and logs."""

import contextlib
import dataclasses
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from support.fuzz.mutations import damage, damage_one_of
from support.fuzz.outcomes import MARKER, OUTPUT, Kind, Numbers, same
from support.golden import GOLDEN

CASE = GOLDEN / "sri_genv2_mog.npz"
RUN = "run"
DATA = "tiny.h5"  # beside the run; commands run there
TINY = dataclasses.replace(PRESETS["sri-quick"].config.tiny(), num_slots=2, attention_layers=1, data=Path(DATA))

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


VALUES = [
    *(
        "",
        "~",
        "[]",
        "{}",
        "[1, 2]",
        "{a: 1}",
        "yes",
        "0",
        "-1",
        "3",
        "1e3",
        "1e400",
        "-1e-400",
        ".nan",
        ".inf",
        "-.inf",
    ),
    *("0x" + "f" * 5000, "9" * 400, "9" * 5000, "0x_", "0b", "1:60:60", "2020-99-99", "2020-01-01", "1_000", "0o17"),
    *("!!int x", "!!float x", "!!bool x", "!!binary '?'", "!!timestamp x", "!!null x", "!!set {a, b}", "!!omap [a: 1]"),
    *("!!python/object/apply:os.system ['touch MARKER']", "!!python/name:os.system", "!unknown x", "!!merge <<"),
    *(
        "&a [*a]",
        "*a",
        "&a 5",
        "'\\x1b[2J'",
        '"\\e[2J"',
        '"\\u2028"',
        "'" + "x" * 100_000 + "'",
        "|\n  text\n  more",
        "? a",
    ),
    *(
        "[" * 10_000,
        "{a: " * 2000,
        "[" * 400 + "]" * 400,
        "\ufeff1",
        "\t1",
        "2147483648",
        "4097",
        "1000000000000",
        "100000",
    ),
]


def bomb(levels: int) -> str:
    """Lists of lists by aliases: ten times as many values with every line."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines) + f"\nsteps: *a{levels - 1}\n"


def merge_bomb(levels: int) -> str:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, levels)]
    return "\n".join(lines) + f"\n<<: *a{levels - 1}\n"


def damage_config(rng: np.random.Generator, folder: Path) -> None:
    path = folder / RUN / CONFIG
    if rng.random() < 0.3:
        damage_one_of(rng, [path])
        return
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    index = rng.integers(len(lines))
    name = lines[index].split(":")[0]
    value = VALUES[rng.integers(len(VALUES))].replace("MARKER", str(folder / MARKER))
    choice = rng.integers(12)
    if choice < 6:
        lines[index] = f"{name}: {value}\n"
    elif choice == 6:
        lines.append(f"{name}: {value}\n")
    elif choice == 7:
        del lines[index]
    elif choice == 8:
        lines[index] = f"{value}: 3\n"
    elif choice == 9:
        lines.insert(0, bomb(9) if rng.random() < 0.5 else merge_bomb(9))
    elif choice == 10:
        lines.insert(index, ["---\n", "...\n", "%YAML 9.9\n", "# \x00\n", "\u2028\n", "<<: {a: 1}\n"][rng.integers(6)])
    text = "".join(lines)
    encoding = ["utf-16", "utf-8-sig", "latin-1", "utf-32"][rng.integers(4)] if choice == 11 else "utf-8"
    path.write_bytes(text.encode(encoding, errors="replace") + (b"# \xe9\n" if encoding == "latin-1" else b""))


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


def damage_checkpoint(rng: np.random.Generator, folder: Path) -> None:
    _same_damage(rng, folder, lambda path: path.write_bytes(damage(rng, path.read_bytes())))


def _same_damage(rng: np.random.Generator, folder: Path, change: Callable[[Path], object]) -> None:
    """Changes the last checkpoint, and makes the best one a copy of it."""
    paths = [folder / RUN / "checkpoints" / f"{name}.pt" for name in ("last", "best")]
    change(paths[0])
    if paths[0].exists():
        shutil.copy(*paths)


class Payload:
    """A pickle that would make a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.marker), "w"))


def another_tensor(rng: np.random.Generator, tensor: torch.Tensor) -> object:
    """Something else in place of a tensor."""
    flat = tensor.reshape(-1)
    others: list[Callable[[], object]] = [
        *(lambda: tensor[None], lambda: flat[:-1], lambda: tensor.new_zeros(()), lambda: tensor.new_zeros(0)),
        *(lambda: tensor.double(), lambda: tensor.half(), lambda: tensor.to(torch.int32), lambda: tensor > 0),
        *(lambda: tensor.to(torch.complex64), lambda: tensor.float().to_sparse(), lambda: tensor.to("meta")),
        lambda: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
        lambda: tensor.float().to(torch.float8_e4m3fn),
        lambda: torch.zeros(1).expand(10**6, 10**6),
        lambda: torch.zeros(()).expand(tensor.shape),
        lambda: torch.zeros(10**9, 0),
        lambda: torch.full(tensor.shape, float(rng.choice([np.nan, np.inf, -np.inf]))),
        *(lambda: tensor.tolist(), lambda: None, lambda: 5, lambda: {"a": tensor}, lambda: "text"),
        lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    ]
    return others[rng.integers(len(others))]()


def damage_values(rng: np.random.Generator, values: dict[Any, Any]) -> None:
    """Changes one entry of a dictionary of tensors."""
    name = list(values)[rng.integers(len(values))]
    choice = rng.integers(10)
    if choice == 0:
        del values[name]
    elif choice == 1:
        values[rng.choice(["another", "", "\x1b[2J", "a" * 10_000]).item()] = values[name]
    elif choice == 2:
        values[int(rng.integers(5)) + 10**6] = values.pop(name)
    elif isinstance(values[name], torch.Tensor):
        values[name] = another_tensor(rng, values[name])


def damage_checkpoint_values(rng: np.random.Generator, folder: Path) -> None:
    path = folder / RUN / "checkpoints" / "last.pt"
    checkpoint: Any = torch.load(path, weights_only=True)
    optimizer = checkpoint["optimizer"]
    numbers = [None, -1, 10**400, 2.5, np.nan, True, "3", [3], torch.tensor(3), torch.tensor([3, 4]), 10**12, {}]
    number: Any = numbers[rng.integers(len(numbers))]
    choice = rng.integers(14)
    if choice < 4:
        damage_values(rng, checkpoint["objective"])
    elif choice == 4:
        checkpoint[["step", "best", "totals", "objective", "optimizer"][rng.integers(5)]] = number
    elif choice == 5:
        del checkpoint[["step", "best", "totals", "objective", "optimizer"][rng.integers(5)]]
    elif choice == 6:
        checkpoint["totals"][["loss", "another", "", 5][rng.integers(4)]] = another_tensor(rng, torch.ones(2))
    elif choice < 10:
        kept = optimizer["state"]
        damage_values(rng, kept[list(kept)[rng.integers(len(kept))]])
    elif choice == 10:
        group = optimizer["param_groups"][0]
        group[["lr", "betas", "eps", "params", "weight_decay", "fused", "amsgrad"][rng.integers(7)]] = number
    elif choice == 11:
        places: list[tuple[Any, Any]] = [(checkpoint, "optimizer"), (optimizer, "state"), (optimizer, "param_groups")]
        place, name = places[rng.integers(3)]
        place[name] = number
    elif choice == 12:  # of another system, or no dictionary
        other = TrainingStep(*PRESETS["slot_attention-tetrominoes"].config.tiny().build())
        checkpoint = [{**checkpoint, "objective": other.state_dict()}, [1, 2], torch.ones(3), None][rng.integers(4)]
    else:
        checkpoint["totals"] = Payload(folder / MARKER)
    _same_damage(rng, folder, lambda path: torch.save(checkpoint, path))
    if rng.random() < 0.05:
        _compress(path)


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


def damage_weights(rng: np.random.Generator, folder: Path) -> None:
    damage_one_of(rng, [folder / name for name in WEIGHTS])


def damage_weight_values(rng: np.random.Generator, folder: Path) -> None:
    weights: Any = authors_weights()
    choice = rng.integers(8)
    if choice < 4:
        damage_values(rng, weights)
    elif choice == 4:
        name = ["scene_encoder.project_to_scene_dim.0.weight", "prior_lstm.lstm.weight_ih_l0"][rng.integers(2)]
        weights[name] = torch.zeros([(10**9, 0), (0, 10**9), (10**6, 1), (1, 10**6), (8,), (3, 3)][rng.integers(6)])
    elif choice == 5:
        name = list(weights)[rng.integers(len(weights))]
        weights[name] = weights[name].double() + 1e200
    elif choice == 6:
        weights = [{"a": Payload(folder / MARKER)}, Payload(folder / MARKER), [], {}, {"a": {}}, 5][rng.integers(6)]
    else:
        for name in list(weights)[: rng.integers(1, len(weights))]:
            weights[name.replace("scene_encoder", "scene_encoder.blocks.x")] = weights.pop(name)
    for legacy, name in enumerate(WEIGHTS):
        torch.save(weights, folder / name, _use_new_zipfile_serialization=not legacy)


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
    facts = {"data": "generated", "training seed": "0"}
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


ODD_VALUES: list[Any] = [
    *(
        None,
        True,
        "text",
        "<script>alert(1)</script>",
        "",
        [],
        [1, 2],
        {},
        {"a": 1},
        10**400,
        1e300,
        -1e308,
        float("nan"),
    ),
    *(float("inf"), -5, 0, 1e39, "9" * 1000, "\x1b[2J", "$\\frac{$", 10**30),
]
ODD_NAMES = ["mse", "mse_stderr", "training_seed", "count_2_found_2", "count_9999_found_1", "data", "seed", "x" * 5000]
ODD_NAMES += [
    "<script>alert(1)</script>",
    "",
    "kl_\u4e2d",
    "kl_$",
    "step",
    "frechet_features",
    "frechet",
    "val_nll",
    "nll",
]


def damage_json(rng: np.random.Generator, text: str) -> str:
    values = json.loads(text)
    for _ in range(rng.integers(1, 4)):
        name = ODD_NAMES[rng.integers(len(ODD_NAMES))]
        values[name] = ODD_VALUES[rng.integers(len(ODD_VALUES))]
    choice = rng.integers(12)
    if choice == 0:
        return json.dumps([values, [], None, 5, "text"][rng.integers(1, 5)])
    if choice == 1:
        return '{"mse": ' + "[" * 100_000
    if choice == 2:
        return '{"mse": ' + "9" * 5000 + "}"
    if choice == 3:
        return '{"mse": 1e999, "nll": -1e-999}'
    return json.dumps(values, ensure_ascii=bool(rng.integers(2)))


def damage_metrics(rng: np.random.Generator, folder: Path) -> None:
    path = folder / RUN / METRICS
    if rng.random() < 0.4:
        damage_one_of(rng, [path])
    else:
        path.write_text(damage_json(rng, path.read_text()), encoding="utf-8")


def log(folder: Path) -> Numbers:
    return {"lines": read_log(folder / RUN / LOG)}


def drawn_log(folder: Path) -> Numbers:
    return {"shape": curves(read_log(folder / RUN / LOG), goal=100.0).shape}


def damage_log(rng: np.random.Generator, folder: Path) -> None:
    path = folder / RUN / LOG
    if rng.random() < 0.5:
        damage_one_of(rng, [path])
        return
    lines = path.read_text().splitlines()
    index = rng.integers(len(lines))
    lines[index] = damage_json(rng, lines[index])
    path.write_text("\n".join(lines), encoding="utf-8")


def agree_log(expected: Numbers, found: Numbers) -> None:
    """Numbers by name, and a step, in every line; a text has no checksum."""
    if "shape" in expected:
        same(expected, found)
        return
    for line in found["lines"]:
        assert isinstance(line["step"], int)
        assert all(isinstance(value, int | float) for value in line.values())


RUN_KINDS = {
    "configuration": Kind(make_run, damage_config, {"config": config, "networks": networks}, agree_config),
    "checkpoint": Kind(make_run, damage_checkpoint, CHECKPOINT_READERS, same),
    "checkpoint values": Kind(make_run, damage_checkpoint_values, CHECKPOINT_READERS, agree_values),
    "weights": Kind(make_weights, damage_weights, {"zip": importing(WEIGHTS[0])}, agree_weights),
    "weights before PyTorch 1.6": Kind(make_weights, damage_weights, {"legacy": importing(WEIGHTS[1])}, agree_values),
    "weight values": Kind(make_weights, damage_weight_values, {n: importing(n) for n in WEIGHTS}, agree_values),
    "metrics": Kind(make_run, damage_metrics, {"metrics": metrics, "page": report_page}, agree_metrics),
    "log": Kind(make_run, damage_log, {"log": log, "curves": drawn_log}, agree_log),
}
