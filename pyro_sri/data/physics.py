"""Do generated towers stand? Simulates the towers in a file of stacks with MuJoCo.

Needs the extra `physics`: pip install "pyro-sri[physics]".
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyro_sri.data.format import DatasetFile, Report
from pyro_sri.data.generators.block_towers import SHAPES, Block, Tower
from pyro_sri.data.generators.stacks import FACTOR_NAMES
from pyro_sri.system.errors import UserError

FAMILIES = ("stacks", "stacks_broken")
TIME_STEP = 0.004  # seconds
BURN_IN_STEPS = 40  # until contacts have settled
KICK = 0.1  # standard deviation of the blocks' initial velocities, in units per second
# A block that moves farther than this has fallen. A round top may roll on the face below, so only its height counts.
FALLEN = 0.05


class Audit(NamedTuple):
    """What happened to one tower.

    Attributes:
        stands: Whether no block moved far.
        moved: The largest distance that each block moved, in units; for a round one, only vertically. [blocks].
    """

    stands: bool
    moved: NDArray[np.float64]


def simulate(tower: Tower, rng: np.random.Generator, seconds: float = 2.0, kick: float = KICK) -> Audit:
    """Simulate a tower for a while after a small push.

    Args:
        tower: The blocks. They are not moved into contact first.
        rng: Draws the push: a velocity for each block.
        seconds: How long to simulate.
        kick: The standard deviation of the push along each axis, in units per second.

    Raises:
        UserError: If MuJoCo is not installed.
    """
    mujoco = _mujoco()
    model = mujoco.MjModel.from_xml_string(_world(tower))
    data = mujoco.MjData(model)
    start = np.array([block.position for block in tower])
    counts = np.array([(0, 0, 1) if block.is_round else (1, 1, 1) for block in tower])
    for _ in range(BURN_IN_STEPS):
        mujoco.mj_step(model, data)
    data.qvel.reshape(-1, 6)[:, :3] += kick * rng.standard_normal((len(tower), 3))
    moved = np.zeros(len(tower))
    for _ in range(round(seconds / TIME_STEP)):
        mujoco.mj_step(model, data)
        moved = np.maximum(moved, np.linalg.norm(counts * (data.qpos.reshape(-1, 7)[:, :3] - start), axis=1))
    return Audit(bool((moved <= FALLEN).all()), moved)


def audit_towers(
    path: Path | str, num: int | None = None, split: str = "train", seed: int = 0, progress: Report | None = None
) -> list[Audit]:
    """Simulate the first towers of a generated file of stacks.

    Args:
        path: A file made by `data make stacks` or `stacks_broken`.
        num: How many towers; None for all of the split.
        split: The split.
        seed: Tower i is pushed by np.random.default_rng([seed, i]).
        progress: Called as progress("towers", done, total).

    Raises:
        UserError: If the file is not one of stacks, has too few, is damaged, or MuJoCo is not installed.
    """
    _mujoco()
    audits = []
    with DatasetFile(path) as file:
        if file.attributes.get("generator") not in FAMILIES:
            raise UserError(
                f"{path} was not made by `pyro-sri data make stacks` or stacks_broken; make such a file to audit"
            )
        available = file.num_images(split)
        count = available if num is None else num
        if not 1 <= count <= available:
            raise UserError(f"{path}: {split} has {available} towers, {count} were asked for; ask for 1 to {available}")
        for number, tower in enumerate(_towers(file, split, count)):
            audits.append(simulate(tower, np.random.default_rng([seed, number])))
            if progress is not None:
                progress("towers", number + 1, count)
    return audits


def _towers(file: DatasetFile, split: str, count: int) -> Iterator[Tower]:
    for rows in file.read(file.factors(split), slice(count)):
        yield tuple(_block(row) for row in rows[1:] if row[0])


def _block(row: NDArray[np.float32]) -> Block:
    named = dict(zip(FACTOR_NAMES, (float(value) for value in row), strict=True))
    return Block(
        SHAPES[int(named["shape"]) - 1],
        (named["size_x"], named["size_y"], named["size_z"]),
        (named["x"], named["y"], named["z"]),
        named["yaw"],
    )


def _world(tower: Tower) -> str:
    blocks = "".join(_body(block) for block in tower)
    return f"""<mujoco>
      <option timestep="{TIME_STEP}" solver="Newton" iterations="50" tolerance="1e-10" cone="elliptic" jacobian="dense"
        o_margin="0" o_solref="0.01 1" o_solimp="0.95 0.99 0.001 0.5 2"
        o_friction="1 1 0.01 0.01 0.01"><flag override="enable"/></option>
      <worldbody><geom type="plane" size="20 20 1" condim="6"/>{blocks}</worldbody>
    </mujoco>"""


def _body(block: Block) -> str:
    x, y, z = (size / 2 for size in block.size)
    form = {
        "cuboid": f'type="box" size="{x!r} {y!r} {z!r}"',
        "cylinder": f'type="cylinder" size="{x!r} {z!r}"',
        "sphere": f'type="sphere" size="{x!r}"',
        "lying_cylinder": f'type="cylinder" size="{y!r} {x!r}" euler="0 90 0"',
    }[block.shape]
    place = " ".join(repr(value) for value in block.position)
    return (
        f'<body pos="{place}" euler="0 0 {math.degrees(block.yaw)!r}"><freejoint/>'
        f'<geom {form} condim="6" density="1000"/></body>'
    )


def _mujoco() -> Any:
    try:
        import mujoco
    except ImportError:
        raise UserError('the audit needs MuJoCo, which is not installed: pip install "pyro-sri[physics]"') from None
    return mujoco
