"""`pyro-sri sample --condition`: editing an image from the command line."""

from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from pyro_sri import checkpoints, runs
from pyro_sri.config import SRIConfig
from pyro_sri.data.format import DatasetFile
from pyro_sri.data.loading import to_images
from pyro_sri.editing import decode, infer_slots
from pyro_sri.presets import PRESETS
from pyro_sri.scripts import sample as sample_script
from pyro_sri.scripts.sample import plan_edit, read_image, sample
from pyro_sri.system.errors import UserError
from pyro_sri.viz import enlarge, to_uint8
from pyro_sri.viz.sheets import BREAK, FONT_SIZE, GAP, LABEL_GAP, MARGIN, TILE_SIDE

SMALL = {"image_size": 32, "num_slots": 3, "slot_size": 8, "scene_size": 16, "init": "pytorch", "gate_init": 0.5}


def make_run(path: Path, config: Any) -> runs.Run:
    """A run directory with untrained weights."""
    run = runs.create_run(path, config)
    model, guide, objective = config.build()
    checkpoint = {"step": 1, "best": 0.0, "objective": objective(model, guide).state_dict(), "optimizer": {}}
    checkpoints.save_checkpoint(run.checkpoint(), checkpoint)
    return run


@pytest.fixture(scope="module")
def name(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = make_run(tmp_path_factory.mktemp("run"), SRIConfig(preset="tiny", dataset="tetrominoes", **SMALL))
    return str(run.path)


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)).save(path)
    return str(path)


def arrays(name: str, out: Path, **options: Any) -> dict[str, Any]:
    sample(name, out=out, **options)
    return dict(np.load(out))


def test_the_rest_of_an_image_is_imagined(name: str, picture: str, tmp_path: Path) -> None:
    options = {"condition": picture, "keep_slots": "0,2", "num": 18, "seed": 4}
    drawn = arrays(name, tmp_path / "a.npz", **options)
    assert {key: (value.dtype.name, value.shape) for key, value in drawn.items()} == {
        "images": ("uint8", (18, 32, 32, 3)),
        "slot_rgb": ("uint8", (18, 3, 32, 32, 3)),
        "slot_masks": ("float16", (18, 3, 32, 32, 1)),
        "kept": ("int64", (2,)),
    }
    assert drawn["kept"].tolist() == [0, 2]
    model, guide = runs.find_run(name).load()
    pyro.set_rng_seed(4)
    inferred = to_uint8(decode(model, infer_slots(guide, read_image(picture, 32))).slot_rgb)
    for k in range(3):
        differs = np.ptp(drawn["slot_rgb"][:, k].astype(int), axis=0).max()
        if k == 1:
            assert differs > 10
        else:  # colours do not compete: the kept slots' are the same in every scene, up to rounding
            assert differs <= 1
            assert_allclose(drawn["slot_rgb"][0, k], inferred[0, k], atol=1)
    sample(name, out=tmp_path / "b.npz", **options)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert not np.array_equal(arrays(name, tmp_path / "c.npz", **options | {"seed": 5})["images"], drawn["images"])


def test_the_picture_shows_the_image_its_slots_and_the_scenes(
    name: str, picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"condition": picture, "keep_slots": "1", "num": 7}
    images = arrays(name, tmp_path / "a.npz", **options)["images"]
    sample(name, out=tmp_path / "a.png", **options)
    assert "wrote 7 scenes" in capsys.readouterr().out
    sheet = np.asarray(Image.open(tmp_path / "a.png"))
    left = sheet.shape[1] - MARGIN - 5 * TILE_SIDE - 4 * GAP  # five columns: image, reconstruction, three slots
    tops = [MARGIN + FONT_SIZE + LABEL_GAP]
    tops.append(tops[0] + TILE_SIDE + GAP + BREAK)
    tops.append(tops[1] + TILE_SIDE + GAP)
    assert len(sheet) == tops[2] + TILE_SIDE + MARGIN

    def tile(row: int, column: int) -> Any:
        x = left + column * (TILE_SIDE + GAP)
        return sheet[tops[row] : tops[row] + TILE_SIDE, x : x + TILE_SIDE]

    assert_array_equal(tile(0, 0), enlarge(np.asarray(Image.open(picture))))
    for scene in range(7):
        assert_array_equal(tile(1 + scene // 5, scene % 5), enlarge(images[scene]))
    assert (tile(2, 2) == 255).all()


def test_without_a_choice_the_slots_are_shown(
    name: str, picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample(name, condition=picture, out=tmp_path / "slots.png")
    assert len(np.asarray(Image.open(tmp_path / "slots.png"))) == 2 * MARGIN + FONT_SIZE + LABEL_GAP + TILE_SIDE
    assert "wrote 1 scene " in capsys.readouterr().out
    drawn = arrays(name, tmp_path / "slots.npz", condition=picture)
    model, guide = runs.find_run(name).load()
    pyro.set_rng_seed(0)
    assert_array_equal(drawn["images"], to_uint8(decode(model, infer_slots(guide, read_image(picture, 32))).images))
    assert drawn["kept"].tolist() == [0, 1, 2]


def test_removing_and_adding(name: str, picture: str, tmp_path: Path) -> None:
    everything = arrays(name, tmp_path / "all.npz", condition=picture)
    without = arrays(name, tmp_path / "without.npz", condition=picture, remove_slots="1")
    assert_allclose(without["slot_rgb"], everything["slot_rgb"][:, [0, 2]], atol=1)
    assert_allclose(without["slot_masks"].astype(float).sum(1), 1, atol=2e-3)
    assert without["kept"].tolist() == [0, 1]
    more = arrays(name, tmp_path / "more.npz", condition=picture, slots=4, num=2)
    assert_allclose(more["slot_rgb"][:, :3], everything["slot_rgb"].repeat(2, axis=0), atol=1)
    assert np.ptp(more["slot_rgb"][:, 3].astype(int), axis=0).max() > 10
    both = arrays(name, tmp_path / "both.npz", condition=picture, remove_slots="0", keep_slots="2", num=2)
    assert both["kept"].tolist() == [1]
    assert_allclose(both["slot_rgb"][0, 1], everything["slot_rgb"][0, 2], atol=1)
    assert both["slot_rgb"].shape[1] == 2


def test_it_goes_to_a_free_name(name: str, picture: str) -> None:
    for _ in range(2):
        sample(name, condition=picture, num=1, seed=9)
    folder = Path(name) / "samples"
    assert sorted(path.name for path in folder.iterdir()) == ["edited-seed9-2.png", "edited-seed9.png"]
    with pytest.raises(UserError, match="already exists"):
        sample(name, condition=picture, out=folder / "edited-seed9.png")


def test_images_of_a_file(tetrominoes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with DatasetFile(tetrominoes) as file:
        pixels = file.images("test")[5]
    assert torch.equal(read_image(f"{tetrominoes}:5", 32), to_images(torch.from_numpy(pixels[None]), "cpu"))
    assert capsys.readouterr().err == ""
    for place, says in (
        (":16", "the last image of split test is 15"),
        ("", "choose one by its number, for example .*:0"),
    ):
        with pytest.raises(UserError, match=says):
            read_image(f"{tetrominoes}{place}", 32)


def test_an_image_of_another_shape_is_fitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = np.zeros((64, 80, 3), np.uint8)
    wide[:, 8:72] = 200  # the middle square is uniform
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert_allclose(read_image(str(tmp_path / "wide.png"), 32), np.full((1, 3, 32, 32), 200 / 255), rtol=1e-6)
    note = capsys.readouterr().err
    assert "wide.png has 80x64 pixels: cropped to the middle 64x64 and resized to 32x32" in note
    Image.fromarray(wide[:, :64]).save(tmp_path / "square.png")
    assert read_image(str(tmp_path / "square.png"), 32).shape == (1, 3, 32, 32)
    assert "square.png has 64x64 pixels: resized to 32x32" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"keep_slots": "0,3"}, "--keep-slots: there is no slot 3; the slots are 0 to 2"),
        ({"remove_slots": "7"}, "--remove-slots: there is no slot 7; the slots are 0 to 2"),
        (
            {"keep_slots": "one"},
            "--keep-slots 'one' is not a list of slots; write numbers separated by commas, for example 0,2",
        ),
        ({"keep_slots": "-1"}, "--keep-slots '-1' is not a list"),
        ({"keep_slots": ""}, "--keep-slots '' is not a list"),
        ({"keep_slots": "0,1", "remove_slots": "1"}, "slot 1 cannot be both kept and removed"),
        ({"remove_slots": "0,1,2"}, "removes all slots"),
        ({"keep_slots": "0,2", "slots": 2}, "--slots 2 is too small to keep slot 2; use 3 or more"),
        ({"condition": "gone.png"}, "no picture gone.png"),
        ({"condition": "gone.h5:1"}, "no file gone.h5"),
        ({"condition": None, "keep_slots": "1"}, "add --condition IMAGE"),
        ({"condition": None, "remove_slots": "1"}, "add --condition IMAGE"),
    ],
)
def test_what_is_refused(name: str, picture: str, tmp_path: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        sample(name, out=tmp_path / "out.png", **{"condition": picture} | options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out.png").exists()


def test_a_plan() -> None:
    assert plan_edit(4, "3,1,1", "0", None) == ([1, 3], [0], [0, 2], 3)
    assert plan_edit(4, None, None, None) == ([0, 1, 2, 3], [], [0, 1, 2, 3], 4)
    assert plan_edit(4, "0", None, 2) == ([0], [], [0], 2)


def test_other_systems_are_refused(picture: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", PRESETS["slot_attention-tetrominoes"].config.tiny())
    with pytest.raises(UserError, match="does not infer a sequence of slots"):
        sample(str(run.path), condition=picture, out=tmp_path / "out.png")


def test_the_command_line(name: str, picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "edited.png"
    sample_script.main([name, "--condition", picture, "--keep-slots", "0,2", "--num", "1", "--out", str(out)])
    assert out.exists()
    with pytest.raises(SystemExit):
        sample_script.main(["--help"])
    assert "--condition photo.png --keep-slots 0,2" in capsys.readouterr().out


def test_temperature_0_draws_the_mean_scene_whatever_the_seed(name: str, tmp_path: Path) -> None:
    first = arrays(name, tmp_path / "a.npz", num=2, temperature=0, seed=1)
    other = arrays(name, tmp_path / "b.npz", num=2, temperature=0, seed=2)
    assert_array_equal(first["images"], other["images"])
    assert_array_equal(first["images"][0], first["images"][1])
    with pytest.raises(UserError, match="--temperature 1e-09 is out of range"):
        sample(name, out=tmp_path / "c.npz", temperature=1e-9)
