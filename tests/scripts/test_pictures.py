import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from pyro_sri import checkpoints, runs, viz
from pyro_sri.config import SRIConfig
from pyro_sri.report.gallery import Exhibit, load_images
from pyro_sri.scripts import sample as sample_script
from pyro_sri.scripts import visualize as visualize_script
from pyro_sri.scripts.sample import sample
from pyro_sri.scripts.visualize import visualize
from pyro_sri.system.errors import UserError
from pyro_sri.viz.sheets import GAP, TILE_SIDE

SMALL = {"image_size": 32, "num_slots": 3, "slot_size": 8, "scene_size": 16, "init": "pytorch", "gate_init": 0.5}
PICTURES = [
    "reconstructions.png",
    "slots.png",
    "imagination.png",
    "samples.png",
    "samples_slots.png",
    "samples_order.png",
    "temperatures.png",
    "curves.png",
    "scene_walk.gif",
    "slot_traversals.png",
    "slot_traversals.gif",
    "model_plates.png",
    "model.gv",
]


def make_run(path: Path, data: Path | None, **fields: Any) -> runs.Run:
    """A run directory with untrained weights."""
    run = runs.create_run(path, SRIConfig(preset="tiny", dataset="tetrominoes", data=data, **SMALL | fields))
    model, guide, objective = run.config.build()
    checkpoint = {"step": 7, "best": 0.0, "objective": objective(model, guide).state_dict(), "optimizer": {}}
    checkpoints.save_checkpoint(run.checkpoint(), checkpoint)
    return run


@pytest.fixture
def run(tmp_path: Path, tetrominoes: Path) -> runs.Run:
    run = make_run(tmp_path / "run", tetrominoes)
    (run.path / runs.LOG).write_text('{"step": 1, "nll": 3.0, "beta": 1.0}\n{"step": 2, "nll": 2.0, "beta": 1.0}\n')
    return run


# sample


def test_sample_draws_a_grid(run: runs.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "grid.png"
    sample(str(run.path), num=5, seed=3, out=out)
    grid = np.asarray(Image.open(out))
    assert grid.shape == (2 * TILE_SIDE + 3 * GAP, 3 * TILE_SIDE + 4 * GAP, 3)
    assert (grid[-TILE_SIDE:, -TILE_SIDE:] == 255).all()  # five scenes, six places
    assert str(out) in capsys.readouterr().out


def test_sample_is_repeatable_and_never_overwrites(run: runs.Run) -> None:
    for seed in (0, 0, 1):
        sample(str(run.path), num=2, seed=seed)
    folder = run.path / "samples"
    names = ["samples-seed0-2.png", "samples-seed0.png", "samples-seed1.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    again, first, other = ((folder / name).read_bytes() for name in names)
    assert again == first
    assert other != first


def test_sample_writes_arrays(run: runs.Run, tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        sample(str(run.path), num=18, slots=5, temperature=0.7, out=tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    arrays = np.load(tmp_path / "a.npz")
    assert {name: (arrays[name].dtype.name, arrays[name].shape) for name in arrays} == {
        "images": ("uint8", (18, 32, 32, 3)),
        "slot_rgb": ("uint8", (18, 5, 32, 32, 3)),
        "slot_masks": ("float16", (18, 5, 32, 32, 1)),
    }
    masks = arrays["slot_masks"].astype(np.float32)
    assert_allclose(masks.sum(1), 1, atol=5e-3)
    assert_allclose((masks * arrays["slot_rgb"]).sum(1), arrays["images"], atol=2)


def test_picture_and_arrays_are_the_same_scenes(run: runs.Run, tmp_path: Path) -> None:
    sample(str(run.path), num=4, out=tmp_path / "a.png")
    sample(str(run.path), num=4, out=tmp_path / "a.npz")
    assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), viz.grid(np.load(tmp_path / "a.npz")["images"]))


def test_samples_of_shipped_weights_go_to_the_current_folder(
    run: runs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_script, "WEIGHTS", run.path.parent)
    monkeypatch.chdir(tmp_path)
    sample(str(run.path), num=1)
    assert (tmp_path / "samples" / "samples-seed0.png").exists()
    assert not (run.path / "samples").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num": 0}, "--num is 0"),
        ({"slots": 0}, "--slots 0"),
        ({"slots": -2}, "--slots -2"),
        ({"temperature": -0.5}, "--temperature -0.5"),
        ({"temperature": float("nan")}, "--temperature nan"),
        ({"temperature": float("inf")}, "--temperature inf"),
        ({"seed": -1}, "--seed -1"),
        ({"seed": 2**32}, "--seed"),
        ({"out": Path("scenes.jpg")}, r"\.png or \.npz"),
    ],
)
def test_sample_refuses(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        sample("no such run", **options)
    assert "\n" not in str(error.value)


def test_sample_refuses_to_overwrite(run: runs.Run, tmp_path: Path) -> None:
    out = tmp_path / "mine.png"
    out.write_bytes(b"precious")
    with pytest.raises(UserError, match="another --out"):
        sample(str(run.path), num=1, out=out)
    assert out.read_bytes() == b"precious"


def test_sample_from_the_command_line(run: runs.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample_script.main([str(run.path), "--num", "1", "--slots", "2", "--out", str(tmp_path / "one.png")])
    assert (tmp_path / "one.png").exists()
    sample_script.main([str(run.path), "--num", "1", "--slots", "2", "--out", str(tmp_path / "one.svg")])
    assert (tmp_path / "one.svg").read_text().count("data:image/png") == 1
    with pytest.raises(SystemExit):
        sample_script.main(["--help"])
    assert "pyro-sri sample runs/rooms --num 10000" in capsys.readouterr().out


# visualize


def test_visualize_draws_everything(run: runs.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pictures"
    visualize_script.main([str(run.path), "--out", str(out), "--num", "2", "--split", "val"])
    drawn = [path.name for path in out.iterdir() if path.name != "model.png"]
    assert sorted(drawn) == sorted(PICTURES)
    for name in PICTURES[:-1]:
        with Image.open(out / name) as picture:
            picture.load()
            assert picture.size[1] >= TILE_SIDE
            assert getattr(picture, "n_frames", 1) > 4 or name.endswith(".png")
        assert name in visualize_script.visualize.__doc__
    graph = (out / "model.gv").read_text()
    assert "scene -> slot_0" in graph
    assert "slot_1 -> slot_2" in graph
    assert "slot_2 -> image" in graph
    assert "reconstruction" not in graph
    assert len(capsys.readouterr().out.splitlines()) == len(list(out.iterdir()))

    again = tmp_path / "again"
    again.mkdir()  # an empty folder will do
    visualize(str(run.path), again, num=2, split="val", format="pdf")
    assert {path.stem for path in again.iterdir()} == {path.stem for path in out.iterdir()}
    for name in drawn:
        if name.endswith(".png"):
            assert (again / name).with_suffix(".pdf").read_bytes().startswith(b"%PDF")
        else:
            assert (again / name).read_bytes() == (out / name).read_bytes()


def test_visualize_without_data_leaves_out_what_needs_it(
    tmp_path: Path, tetrominoes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", tmp_path / "gone.h5")
    assert load_images(run, "test", 1, tetrominoes) is not None
    visualize(str(run.path), tmp_path / "few", num=1)
    inferred = {"reconstructions.png", "slots.png", "imagination.png", "slot_traversals.png", "slot_traversals.gif"}
    left_out = inferred | {"curves.png"}
    assert {path.name for path in (tmp_path / "few").iterdir()} - {"model.png"} == set(PICTURES) - left_out
    assert "gone.h5 is missing" in capsys.readouterr().err


def test_visualize_refuses(run: runs.Run, tmp_path: Path, tetrominoes: Path) -> None:
    name = str(run.path)
    for options, says in (
        ({"out": run.path}, "another --out"),
        ({"out": tetrominoes}, "another --out"),
        ({"out": tmp_path / "x", "num": 0}, "--num is 0"),
        ({"out": tmp_path / "x", "seed": -1}, "--seed -1"),
        ({"out": tmp_path / "x", "split": "tset"}, "no split 'tset'"),
        ({"out": tmp_path / "x", "data": tmp_path / "gone.h5"}, r"no file .*gone\.h5"),
    ):
        with pytest.raises(UserError, match=says):
            visualize(name, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()
    large = make_run(tmp_path / "large", tetrominoes, image_size=64)
    with pytest.raises(UserError, match="holds 32x32 images; the run needs 64x64"):
        visualize(str(large.path), tmp_path / "x")


def test_animations_are_films_too_where_ffmpeg_is(
    run: runs.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [np.full((8, 8, 3), value, dtype=np.uint8) for value in (0, 255)]
    exhibits = [Exhibit("still", "", "", frames[:1]), Exhibit("walk", "", "", frames, 50)]
    monkeypatch.setattr(visualize_script, "gallery", lambda *_, **__: exhibits)
    ffmpeg = tmp_path / "bin" / "ffmpeg"
    ffmpeg.parent.mkdir()
    monkeypatch.setenv("PATH", str(ffmpeg.parent))

    def make(name: str, source: str) -> set[str]:
        ffmpeg.write_text(f"#!{sys.executable}\n{source}\n")
        ffmpeg.chmod(0o755)
        visualize(str(run.path), tmp_path / name)
        return {path.name for path in (tmp_path / name).iterdir()}

    others = {"still.png", "walk.gif", "model.gv"}
    assert make("films", "import sys; open(sys.argv[-1], 'wb').write(sys.stdin.buffer.read())") == others | {"walk.mp4"}
    assert (tmp_path / "films" / "walk.mp4").read_bytes() == bytes(192) + b"\xff" * 192
    assert capsys.readouterr().err == ""
    assert make("none", "import sys; sys.exit('no libx264 here')") == others
    assert capsys.readouterr().err == f"skipped {tmp_path / 'none' / 'walk.mp4'}: no libx264 here\n"


def test_the_graph_is_drawn_where_graphviz_is(run: runs.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: "dot")
    monkeypatch.setattr("graphviz.Digraph.pipe", lambda self, format: f"a {format}".encode())
    model, _ = run.load()
    assert dict(visualize_script._graph(model, 32, "png"))["model.png"] == b"a png"
    assert dict(visualize_script._graph(model, 32, "svg"))["model.svg"] == b"a svg"
