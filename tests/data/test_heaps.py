"""Damaged heaps, of which HDF5 would never end reading the texts, are refused."""

import re
from pathlib import Path

import h5py
import pytest

from pyro_sri.data.format import DatasetFile
from pyro_sri.data.readers import convert
from pyro_sri.system.errors import UserError
from support.fuzz.hdf5_structures import write_plain


@pytest.mark.parametrize("place", ["/", "train/factors"])
@pytest.mark.parametrize("libver", ["earliest", "v110"])
def test_an_empty_object_in_a_heap(place: str, libver: str, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_plain(path)
    with h5py.File(path, "r+", libver=(libver, "v110")) as file:
        del file["train/factors"].attrs["factor_names"]
        file[place].attrs["factor_names"] = ["x", "visibility"]
    convert(path, tmp_path / "sound.h5")
    content = path.read_bytes()
    for heap in re.finditer(b"GCOL", content):
        content = content[: heap.end() + 12] + bytes(16) + content[heap.end() + 28 :]
    path.write_bytes(content)
    if place == "/":
        with pytest.raises(UserError, match=r"is damaged \(.*a heap has an empty object"):
            DatasetFile(path)
    with pytest.raises(UserError, match="is damaged"):
        convert(path, tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()
