"""Values of configurations, checked against the types of their fields."""

import contextlib
import numbers
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np

from pyro_sri.system.choices import one_of
from pyro_sri.system.errors import UserError
from pyro_sri.system.files import from_home

LARGEST_NUMBER = 2**53  # for example of steps; beyond it, floating point cannot represent all whole numbers

NO_VALUE = object()  # stands for something that cannot be the value of a field


def checked(value: Any, annotation: Any, where: str) -> Any:
    """A value converted to its field's type. Whole numbers for floats, NumPy numbers and paths as text are accepted.

    Args:
        value: The value.
        annotation: int, float, bool, str, Path, a Literal, or one of these or None.
        where: Which field it belongs to, for the error message.

    Raises:
        UserError: If it has another type, or is not one of the choices.
    """
    if get_origin(annotation) in (Union, types.UnionType):
        (kind,) = (option for option in get_args(annotation) if option is not type(None))
        return None if value is None else checked(value, kind, where)
    if get_origin(annotation) is Literal:
        if any(type(value) is type(choice) and value == choice for choice in get_args(annotation)):
            return value
        raise UserError(f"{where} is {shown(value)}: {one_of(value, annotation)}")
    if type(value) is annotation:
        return value
    if annotation is Path and isinstance(value, str | Path):
        return from_home(value)
    if annotation is str and isinstance(value, Path):
        return str(value)
    if annotation in (int, float) and not isinstance(value, bool | np.bool_):
        if isinstance(value, numbers.Integral) and annotation is int:
            return int(value)
        if isinstance(value, numbers.Real) and annotation is float:
            with contextlib.suppress(OverflowError):
                return float(value)
    kind = getattr(annotation, "__name__", annotation)
    raise UserError(f"{where} is {shown(value)}: it must be of type {kind}")


def shown(value: object) -> str:
    """A value as quoted in a message: always printable and short."""
    if value is NO_VALUE:
        return "a list, a mapping or a very long text"
    if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
        return "a huge number"
    text = ascii(value) if not str(value).isprintable() else repr(value)
    return text if len(text) <= 80 else f"{text[:76]}...'"
