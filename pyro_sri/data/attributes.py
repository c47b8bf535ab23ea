"""What an HDF5 file says about its masks and factors: on itself, on a split, or on the array that it is about."""

from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from pyro_sri.data.hdf5 import read_attributes, stored
from pyro_sri.system.errors import UserError, printable

ABOUT = {"background_entities": "masks", "factor_names": "factors"}


def said_attributes(file: h5py.File, groups: Mapping[str, h5py.Group], where: str) -> dict[str, Any]:
    """The attributes of a file as plain Python values, with those that stand on its splits and their arrays.

    Args:
        file: The file.
        groups: Its splits.
        where: Its name for error messages.

    Raises:
        UserError: If two places say different things about the background entities or the names of the factors.
    """
    said = read_attributes(file, where)
    for name, array in ABOUT.items():
        places = {"the file": said[name]} if name in said else {}
        for group in groups.values():
            for item in (group, stored(group, array, f"{where}: {group.name[1:]}")):
                if item is not None and name in item.attrs:
                    place = printable(item.name[1:])
                    places[place] = read_attributes(item, f"{where}: {place}")[name]
        for place, value in places.items():
            first = next(iter(places))
            if _listed(value) != _listed(places[first]):
                raise UserError(
                    f"{where}: {name} is {_listed(places[first])} on {first} and {_listed(value)} on {place}; "
                    "make them equal"
                )
            said[name] = [value] if isinstance(value, str) else value
    return said


def _listed(value: Any) -> list[Any]:
    return list(np.atleast_1d(np.asarray(value, dtype=object)))
