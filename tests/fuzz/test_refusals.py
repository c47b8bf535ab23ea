"""Faults that only a particular file shows, each by hand."""

import json
import re
import shutil
import struct
import subprocess
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from pyro_sri.checkpoints import fill, load_checkpoint
from pyro_sri.data.checking import check_dataset
from pyro_sri.data.format import DatasetFile, SceneArrays
from pyro_sri.data.hdf5 import LARGEST_BLOCK_BYTES, pieces
from pyro_sri.data.readers import convert
from pyro_sri.data.readers.tfrecord import LONGEST_RECORD
from pyro_sri.data.writing import write_dataset
from pyro_sri.official import load_sri
from pyro_sri.runs import Run, open_run, read_log
from pyro_sri.system.errors import UserError
from pyro_sri.training.optimizers import fill_optimizer
from pyro_sri.training.step import TrainingStep, new_optimizer
from support.fuzz.data_kinds import field, make_mnist, make_pictures, make_towers, tetromino_example, tfrecord
from support.fuzz.hdf5_structures import write_plain
from support.fuzz.run_kinds import RUN, TINY, authors_weights, make_run


def refused(words: str, function: Callable[..., object], *args: Any, **options: Any) -> None:
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        function(*args, **options)
    assert str(caught.value).isprintable()


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    write_plain(tmp_path / "scenes.h5")
    return tmp_path / "scenes.h5"


@pytest.fixture(scope="module")
def sound_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    make_run(folder)
    return folder / RUN


@pytest.fixture
def run(sound_run: Path, tmp_path: Path) -> Run:
    return open_run(Path(shutil.copytree(sound_run, tmp_path / RUN)))


# Dataset files


def both(path: Path, words: str) -> None:
    """A file is refused as a dataset file and as one of EfficientMORL."""
    refused(words, DatasetFile, path)
    refused(words, convert, path, path.with_name("out.h5"))
    assert not path.with_name("out.h5").exists()


@pytest.mark.parametrize("name", ["train", "train/imgs", "train/masks", "train/factors"])
def test_links_are_not_followed(scenes: Path, name: str) -> None:
    """Not even to say that there is nothing: a masks array behind a broken link is not no masks."""
    for number, target in enumerate((h5py.SoftLink("/kept"), h5py.ExternalLink("other.h5", name), h5py.SoftLink("/x"))):
        with h5py.File(scenes, "r+") as file:
            file.move(name, f"kept{number}")
            file[name] = target
        both(scenes, "is a link to another place")


def test_arrays_in_other_files_are_refused(scenes: Path) -> None:
    secret = scenes.with_name("secret")
    secret.write_bytes(bytes(20 * 12 * 12 * 3))
    with h5py.File(scenes, "r+") as file:
        del file["train/imgs"]
        file.create_dataset("train/imgs", (20, 12, 12, 3), "u1", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
    both(scenes, "is stored in other files")
    with h5py.File(scenes, "r+") as file:
        del file["train/imgs"]
        layout = h5py.VirtualLayout((20, 12, 12, 3), "u1")
        layout[:] = h5py.VirtualSource("nowhere.h5", "imgs", (20, 12, 12, 3))
        file.create_virtual_dataset("train/imgs", layout)  # which HDF5 would read as zeros
    both(scenes, "is stored in other files")


@pytest.mark.parametrize("name", ["imgs", "masks", "factors"])
def test_what_was_never_written_is_refused(scenes: Path, name: str) -> None:
    """HDF5 would read zeros."""
    with h5py.File(scenes, "r+") as file:
        values = file[f"train/{name}"][:]
        del file[f"train/{name}"]
        array = file.create_dataset(f"train/{name}", values.shape, values.dtype, chunks=(4, *values.shape[1:]))
        array[:16] = values[:16]
    both(scenes, "not all of it was written")
    with h5py.File(scenes, "r+") as file:
        del file[f"train/{name}"]
        file.create_dataset(f"train/{name}", values.shape, values.dtype)
    both(scenes, "not all of it was written")


@pytest.mark.parametrize(
    ("shape", "chunks", "words"),
    [
        ((10**12, 32, 32, 3), (1, 32, 32, 3), "not all of it was written"),
        ((2**40, 2**10, 2**10, 3), (1, 2**10, 2**10, 3), "not all of it was written"),  # 2^62 bytes
        ((1, 10**6, 10**6, 3), (1, 1, 1, 3), "pixels"),
        ((10**4, 1000, 1000, 3), (400, 1000, 1000, 3), "too large to read"),
    ],
)
def test_absurd_sizes(tmp_path: Path, shape: tuple[int, ...], chunks: tuple[int, ...], words: str) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("train/imgs", shape, "u1", chunks=chunks)
    assert np.prod(chunks) > LARGEST_BLOCK_BYTES or words != "too large to read"
    refused(words, DatasetFile, path)


def test_large_scenes_are_read_in_small_pieces(tmp_path: Path) -> None:
    """64 MiB at a time: scenes of 1024 x 1024 pixels and 40 entities, one by one."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("train/imgs", data=np.ones((3, 1024, 1024, 3), dtype=np.uint8))
        shape = (3, 40, 1024, 1024, 1)
        masks = file.create_dataset("train/masks", shape, "u1", chunks=(1, *shape[1:]), compression=1)
        for scene in range(3):
            masks[scene] = np.zeros(shape[1:], dtype=np.uint8)
    with DatasetFile(path) as file:
        assert [(piece.start, piece.stop) for piece in pieces(file.masks("train"))] == [(0, 1), (1, 2), (2, 3)]
        assert [(piece.start, piece.stop) for piece in pieces(file.images("train"))] == [(0, 3)]
        refused("more than can be read at once", file.read, file.masks("train"), [0] * 30)


def test_text_in_factors_is_refused(scenes: Path) -> None:
    """Text of variable length has no bytes in the array: a hash of it would be a hash of addresses."""
    with h5py.File(scenes, "r+") as file:
        del file["train/factors"]
        file.create_dataset("train/factors", data=[["a", "b"]] * 20, dtype=h5py.string_dtype())
    refused("train/factors is object", DatasetFile, scenes)


def test_factors_in_columns_are_checked(tmp_path: Path) -> None:
    factors = np.zeros((4, 2), dtype=[("x", "f4"), ("kind", "S3"), ("colour", "f8", (3,))])
    factors["colour"][2, 1, 1] = np.nan
    write_dataset(tmp_path / "a.h5", {"train": [SceneArrays(np.zeros((4, 8, 8, 3), np.uint8), None, factors)]}, {})
    refused("train/factors: item 2 has factors that are not finite", check_dataset, tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("factor_names", 5, "factor_names"),
        ("factor_names", [1, 2], "factor_names"),
        ("background_entities", [[0]], "background_entities"),
        ("background_entities", [0.5], "background_entities"),
    ],
)
def test_attributes_of_the_wrong_kind(scenes: Path, name: str, value: object, words: str) -> None:
    with h5py.File(scenes, "r+") as file:
        file.attrs[name] = value
    refused(words, DatasetFile, scenes)


def test_attributes_can_be_printed(scenes: Path) -> None:
    with h5py.File(scenes, "r+") as file:
        file.attrs.create("note", b"caf\xe9", dtype=h5py.string_dtype())
        file.attrs["empty"] = h5py.Empty("f4")
    with DatasetFile(scenes) as file:
        assert file.attributes | {"note": "caf\N{REPLACEMENT CHARACTER}", "empty": None} == file.attributes


def test_a_pipe_is_no_data_file() -> None:
    refused("not a readable file", DatasetFile, "/dev/zero")


# Published formats


def test_factors_and_masks_of_emorl_that_are_no_numbers(scenes: Path) -> None:
    with h5py.File(scenes, "r+") as file:
        file["train/factors"][7, 1, 1] = np.inf
    refused("train: scene 7 has factors that are not finite", convert, scenes, scenes.with_name("out.h5"))
    write_plain(scenes)
    with h5py.File(scenes, "r+") as file:
        masks = file["val/masks"][:].astype(np.float32)
        masks[3, 0, 1, 1] = np.nan
        del file["val/masks"]
        file["val/masks"] = masks
    refused("val: scene 3 has masks that are negative or not finite", convert, scenes, scenes.with_name("out.h5"))
    assert not scenes.with_name("out.h5").exists()


def test_factors_in_a_record_that_are_not_finite(tmp_path: Path) -> None:
    x = field(1, field(1, b"x") + field(2, field(2, field(1, np.full(4, np.nan, "<f4").tobytes()))))
    records = [tetromino_example(0), tetromino_example(1) + field(1, x)]
    (tmp_path / "a.tfrecords").write_bytes(b"".join(map(tfrecord, records)))
    refused("record 1 is not like the first", convert, tmp_path / "a.tfrecords", tmp_path / "out.h5", val=0, test=0)


def test_a_record_that_is_longer_than_any(tmp_path: Path) -> None:
    data = bytes(LONGEST_RECORD + 1)
    (tmp_path / "a.tfrecords").write_bytes(tfrecord(data))
    refused(f"it claims to have {len(data)} bytes", convert, tmp_path / "a.tfrecords", tmp_path / "out.h5")


def test_a_label_that_is_no_digit(tmp_path: Path) -> None:
    make_mnist(tmp_path)
    labels = bytes((0, 0, 8, 1)) + struct.pack(">I", 40) + bytes(39) + bytes([133])
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(labels)
    refused("has the label 133", convert, tmp_path, tmp_path / "out.h5")


def test_the_checksums_of_a_png_are_verified(tmp_path: Path) -> None:
    """Here that of the pixels alone is wrong, as after damage that still decodes."""
    make_pictures(tmp_path)
    path = tmp_path / "pictures" / "0.png"
    content = path.read_bytes()
    start = content.index(b"IDAT")
    length = struct.unpack(">I", content[start - 4 : start])[0]
    pixels = bytearray(zlib.decompress(content[start + 4 : start + 4 + length]))
    pixels[1000] ^= 1
    packed = zlib.compress(bytes(pixels))
    chunk = struct.pack(">I", len(packed)) + b"IDAT" + packed
    path.write_bytes(content[: start - 4] + chunk + content[start + 4 + length :])  # with the old checksum
    refused("0.png is not a valid image", convert, tmp_path / "pictures", tmp_path / "out.h5", val=0, test=0)


def test_no_other_program_reads_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow gives PostScript to Ghostscript, whatever the file is called."""
    make_pictures(tmp_path)
    page = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    (tmp_path / "pictures" / "0.png").write_text(page)
    started = []
    for name in ("Popen", "check_call", "run"):
        monkeypatch.setattr(subprocess, name, lambda *args, **options: started.append(args))
    refused("0.png is not a valid image", convert, tmp_path / "pictures", tmp_path / "out.h5", val=0, test=0)
    assert not started


def test_a_picture_of_more_pixels_than_there_is_memory_for(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    Image.new("1", (10_000, 10_000)).save(tmp_path / "pictures" / "0.png")
    refused("0.png is not a valid image", convert, tmp_path / "pictures", tmp_path / "out.h5", val=0, test=0)


@pytest.mark.parametrize("name", ["..", "x" * 5000, "a\x1b[2J", "/"])
def test_a_scenario_that_is_no_name(tmp_path: Path, name: str) -> None:
    make_towers(tmp_path)
    (tmp_path / "splits" / "default" / "train.txt").write_text(f"ccs-h=2\n{name}\n")
    refused("scenario 2 is not a folder name", convert, tmp_path, tmp_path / "out.h5")


# Checkpoints and weights


def test_a_flipped_bit_in_a_weight_is_noticed(run: Run) -> None:
    """torch.load reads it without a word."""
    path = run.checkpoint()
    content = bytearray(path.read_bytes())
    weight = load_checkpoint(path)["objective"]["model.slot_prior.lstm.weight_ih"].numpy().tobytes()
    content[content.index(weight) + 5] ^= 64
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["step"] == 3
    refused("not a readable checkpoint", run.load)


def test_values_that_are_not_finite_are_refused(run: Run) -> None:
    checkpoint = load_checkpoint(run.checkpoint())
    checkpoint["objective"]["model.slot_prior.lstm.weight_ih"][0, 0] = torch.nan
    torch.save(checkpoint, run.checkpoint())
    refused("weights that are not finite", run.load)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor.to(torch.complex64),
        lambda tensor: tensor.double(),
        lambda tensor: tensor.to_sparse(),
        lambda tensor: tensor.to("meta"),
        lambda tensor: tensor[None],
        lambda tensor: tensor.tolist(),
    ],
)
def test_another_tensor_is_refused_and_nothing_is_changed(run: Run, change: Callable[[Any], Any]) -> None:
    module = TrainingStep(*TINY.build())
    weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    before = {name: tensor.clone() for name, tensor in weights.items()}
    last = list(weights)[-1]
    weights = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    weights[last] = change(weights[last])
    refused("does not fit the run's config.yaml", fill, module, weights, run.checkpoint())
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("step", [-1, True, "3", 2.5, None, 10**400])
def test_a_step_that_is_none(run: Run, step: object) -> None:
    torch.save(load_checkpoint(run.checkpoint()) | {"step": step}, run.checkpoint())
    refused("its step, best or totals are missing or wrong", lambda: run.step)


def test_moments_of_another_shape_are_refused(run: Run) -> None:
    """Adam would take them, and compute with whatever lies behind them in memory."""
    module = TrainingStep(*TINY.build())
    optimizer = new_optimizer(module, TINY)
    state = load_checkpoint(run.checkpoint("last"))["optimizer"]
    fill_optimizer(optimizer, state, run.checkpoint("last"))
    assert len(optimizer.state_dict()["state"]) == len(state["state"])
    state["state"][0]["exp_avg"] = torch.zeros(1)
    refused("its optimiser state belongs to another run", fill_optimizer, optimizer, state, run.checkpoint("last"))


@pytest.mark.parametrize("groups", [torch.tensor([3, 4]), [torch.tensor(3)], torch.tensor(3), "ab", None])
def test_settings_that_are_none_are_refused(run: Run, groups: object) -> None:
    """Without the warning that PyTorch gives where a name is looked up in a tensor."""
    optimizer = new_optimizer(TrainingStep(*TINY.build()), TINY)
    state = load_checkpoint(run.checkpoint("last"))["optimizer"] | {"param_groups": groups}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        refused("its optimiser state belongs to another run", fill_optimizer, optimizer, state, run.checkpoint("last"))
    assert not warned


def test_a_compressed_checkpoint_is_not_unpacked(run: Run) -> None:
    from support.fuzz.run_kinds import _compress

    _compress(run.checkpoint())
    refused("not a readable checkpoint", run.load)


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        ("decoder.0.bias", torch.zeros(1).expand(10**6, 10**6), "not a parameter"),
        ("decoder.0.bias", torch.zeros(3).to_sparse(), "not a parameter"),
        ("decoder.0.bias", torch.zeros(3, device="meta"), "not a parameter"),
        ("decoder\x1b[2J", torch.zeros(3), "a name that is not text"),
        ("scene_encoder.project_to_scene_dim.0.weight", torch.zeros(10**9, 0), "no network has a layer of that size"),
        ("scene_encoder.project_to_scene_dim.0.weight", torch.zeros(10**6, 8), "no network has a layer of that size"),
    ],
)
def test_weights_that_are_none(name: str, tensor: torch.Tensor, words: str) -> None:
    refused(words, load_sri, authors_weights() | {name: tensor}, image_size=32, num_slots=5)


# Metrics and logs


@pytest.mark.parametrize(
    "text",
    ["[1]", "5", '{"mse": [1]}', '{"mse_stderr": "x"}', '{"count_1_found_1": null}', "[" * 100_000, '{"mse": 1e39}'],
)
def test_metrics_that_are_none(run: Run, text: str) -> None:
    (run.path / "evaluation" / "metrics.json").write_text(text)
    refused("metrics.json is damaged", run.metrics)


def test_a_log_is_cut_at_its_end_and_nowhere_else(run: Run) -> None:
    path = run.path / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], lines[-1][:20]]))
    assert read_log(path) == [json.loads(line) for line in lines[:-1]]
    path.write_text("\n".join([*lines[:5], lines[5][:20], *lines[6:]]))
    refused("metrics.jsonl is damaged in line 6", read_log, path)


@pytest.mark.parametrize("value", ['"text"', "[1]", "null", "true", "1e300", "9" * 400, "[" * 100_000])
def test_values_of_a_log_that_are_no_numbers(run: Run, value: str) -> None:
    path = run.path / "metrics.jsonl"
    path.write_text(f'{{"step": 1, "nll": {value}}}\n{{"step": 2, "nll": 3}}\n')
    refused("damaged in line 1", read_log, path)
