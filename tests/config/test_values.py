"""In Python a configuration refuses what the command line and YAML refuse."""

import dataclasses
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest

from pyro_sri.config import RunConfig, SRIConfig, from_yaml, systems, to_yaml
from pyro_sri.config.run import field_types
from pyro_sri.guides.segregation import SegregationPair
from pyro_sri.guides.slot_attention import SlotAttentionGuide
from pyro_sri.guides.sri import SRIGuide
from pyro_sri.models.scene import SceneModel
from pyro_sri.nn import InstanceColours, initialise
from pyro_sri.presets import PRESETS
from pyro_sri.runs import find_run
from pyro_sri.study.specification import read_study
from pyro_sri.system.errors import UserError
from pyro_sri.system.files import from_home
from support.small_world import make_run

SHAPE: dict[str, Any] = {"image_size": 32, "num_slots": 3, "slot_size": 8}
QUICK = SRIConfig(preset="p", dataset="tetrominoes", scene_size=8, **SHAPE)

FIELDS = [
    pytest.param(config, field.name, field_types(config)[field.name], id=f"{name}-{field.name}")
    for name, config in systems().items()
    for field in dataclasses.fields(config)
]


@pytest.mark.parametrize(("config", "field", "kind"), FIELDS)
def test_every_field_has_its_type(config: type[RunConfig], field: str, kind: Any) -> None:
    wrong: list[Any] = [["a", "list"], b"bytes", 1j]
    if kind is not str:
        wrong.append("no such word")
    if kind in (int, float):
        wrong.append(True)
    if kind is int:
        wrong += [2.5, 2.0]
    if kind is bool:
        wrong += [1, "false", None]
    if get_origin(kind) is Literal:
        wrong += [get_args(kind)[0].upper(), get_args(kind)[0][:-1], None]
    optional = type(None) in get_args(kind)
    if optional:
        wrong.remove("no such word")  # a path, or a name
    sound = {"preset": "p", "dataset": "d"}
    for value in wrong:
        with pytest.raises(UserError, match="it must be") as caught:
            config(**sound | {field: value})
        assert str(caught.value).startswith("--" + field.replace("_", "-"))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "meant"),
    [
        ({"segregation": "EMORL"}, "emorl"),
        ({"segregation": "slot-attention"}, "slot_attention"),
        ({"geco": "GENESIS"}, "genesis"),
        ({"match_on": "mean"}, "means"),
        ({"init": "offical"}, "official"),
        ({"precision": "float 32"}, "float32"),
    ],
)
def test_the_nearest_right_word_is_named(fields: dict[str, str], meant: str) -> None:
    with pytest.raises(UserError, match=f"did you mean '{meant}'"):
        dataclasses.replace(QUICK, **fields)
    (name, value), text = *fields.items(), to_yaml(QUICK)
    line = next(line for line in text.splitlines() if line.startswith(f"{name}:"))
    with pytest.raises(UserError, match=f"did you mean '{meant}'"):
        from_yaml(text.replace(line, f"{name}: {value}"), "config.yaml")


def test_numbers_of_other_libraries_and_paths_as_text_are_taken() -> None:
    config = dataclasses.replace(
        QUICK, num_slots=np.int64(4), pixel_std=np.float32(0.5), learning_rate=1, data="a.h5", start_from=Path("runs/a")
    )
    assert (config.num_slots, config.pixel_std, config.learning_rate) == (4, 0.5, 1.0)
    assert [type(v) for v in (config.num_slots, config.pixel_std, config.learning_rate)] == [int, float, float]
    assert (config.data, config.start_from) == (Path("a.h5"), "runs/a")
    assert from_yaml(to_yaml(config), "config.yaml") == config


def test_huge_numbers_are_no_traceback() -> None:
    for field in ("learning_rate", "num_slots"):
        with pytest.raises(UserError, match="a huge number"):
            dataclasses.replace(QUICK, **{field: 10**400})


def test_parts_check_their_words_too() -> None:
    model = SceneModel(**SHAPE, scene_size=8)
    pair = SegregationPair(None, SlotAttentionGuide(**SHAPE, learnt_slots=True))
    for fields in ({"matching": "hungry"}, {"match_on": "mean"}):
        with pytest.raises(ValueError, match="it must be one of"):
            SRIGuide(model, pair, **fields)
    for fields in ({"start": "colour"}, {"kernel": "Gaussian"}):
        with pytest.raises(ValueError, match="it must be one of"):
            InstanceColours(**fields)
    with pytest.raises(ValueError, match="it must be one of"):
        initialise(model, "orthogonal")


def test_a_tilde_is_the_home_in_files_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = dataclasses.replace(PRESETS["sri-quick"].config, data="~/a.h5")
    assert config.data == tmp_path / "a.h5"
    text = to_yaml(config).replace(str(tmp_path), "~")
    assert from_yaml(text, "config.yaml").data == tmp_path / "a.h5"
    (tmp_path / "study.yaml").write_text("title: A\ndata: {file: ~/b.h5}\nrows: {a: {preset: sri-quick}}\n")
    (data,) = read_study(from_home("~/study.yaml")).data.values()
    assert data.file == tmp_path / "b.h5"
    make_run(tmp_path / "run", None)
    assert find_run("~/run").path == tmp_path / "run"
    assert from_home("~nobody-here/a") == Path("~nobody-here/a")
