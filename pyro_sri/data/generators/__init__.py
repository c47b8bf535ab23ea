"""Generated scenes, with exact masks and factors.

A new family is one file in this folder with a `Generator`.
"""

from difflib import get_close_matches

from pyro_sri.data.generators.family import Generator
from pyro_sri.system.discovery import definitions
from pyro_sri.system.errors import UserError

GENERATORS: dict[str, Generator] = {
    value.name: value for value in definitions(__name__, __path__) if isinstance(value, Generator)
}


def find_generator(name: str) -> Generator:
    """The family of that name.

    Raises:
        UserError: If there is none. Names the nearest.
    """
    if name not in GENERATORS:
        nearest = get_close_matches(name, GENERATORS, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"choose from {', '.join(GENERATORS)}"
        raise UserError(f"there is no generator {name!r}; {hint}")
    return GENERATORS[name]
