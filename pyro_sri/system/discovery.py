"""Finds what a package's modules define, so that new files need no entry in a list."""

import pkgutil
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any


def definitions(package: str, path: Iterable[str]) -> Iterator[Any]:
    """Every public module-level value of a package's modules, module by module in alphabetical order.

    Args:
        package: The package's `__name__`.
        path: Its `__path__`.
    """
    for module in sorted(info.name for info in pkgutil.iter_modules(path)):
        names = vars(import_module(f"{package}.{module}"))
        yield from (value for name, value in names.items() if not name.startswith("_"))
