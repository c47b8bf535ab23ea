"""Scenes made here, with exact masks and factors.

A new family is one file with a `Generator`, and one entry in `GENERATORS`.
"""

from difflib import get_close_matches

from pyro_sri.data.generators.clevr import CLEVR, CLEVR6
from pyro_sri.data.generators.family import Generator
from pyro_sri.data.generators.multi_digits import MULTI_DIGITS
from pyro_sri.data.generators.multi_dsprites import MULTI_DSPRITES
from pyro_sri.data.generators.rooms import ROOMS
from pyro_sri.data.generators.stacks import STACKS, STACKS_BROKEN
from pyro_sri.data.generators.tetrominoes import TETROMINOES
from pyro_sri.data.generators.towers import TOWERS, TOWERS_BROKEN
from pyro_sri.system.errors import UserError

GENERATORS: dict[str, Generator] = {
    family.name: family
    for family in (
        TETROMINOES,
        MULTI_DSPRITES,
        MULTI_DIGITS,
        TOWERS,
        TOWERS_BROKEN,
        ROOMS,
        CLEVR6,
        CLEVR,
        STACKS,
        STACKS_BROKEN,
    )
}


def find_generator(name: str) -> Generator:
    """The family of that name.

    Raises:
        UserError: If there is none, naming the nearest.
    """
    if name not in GENERATORS:
        nearest = get_close_matches(name, GENERATORS, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"choose from {', '.join(GENERATORS)}"
        raise UserError(f"there is no generator {name!r}; {hint}")
    return GENERATORS[name]
