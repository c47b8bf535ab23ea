"""`make bench`: runs the standard set of benchmarks on the CPU and writes the measured part of docs/performance.md."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from pyro_sri.presets import PRESETS
from pyro_sri.scripts.bench import OUTSIDE, WHOLE_STEP
from pyro_sri.scripts.cli import note, parse
from pyro_sri.system.errors import UserError
from pyro_sri.system.files import write_atomically

PAGE = Path("docs/performance.md")
BEGIN, END = "<!-- written by make bench: begin -->", "<!-- written by make bench: end -->"

SRI = "sri-mog-shapestacks --batch 8 --steps 6"
SRI_SMALL = "sri-mog-shapestacks --image-size 32 --num-slots 5 --slot-size 32 --batch 32 --steps 6"
GENESIS_V2 = "genesis_v2-mog-shapestacks --batch 8 --steps 3"
AIR = "air-multi_digits --steps 20"
# The slots of SRI above, on one image, with networks so small that Python is what takes time.
PYTHON = "sri-mog-shapestacks --image-size 32 --slot-size 8 --scene-size 8 --batch 1 --steps 10"
LARGE = "sri-mog-shapestacks --image-size 128 --num-slots 11 --batch 32 --steps 1"
LARGE_RECOMPUTED = f"{LARGE} --recompute-decoder"


class Round(NamedTuple):
    """A benchmark, and U before it.

    Attributes:
        unit: U in seconds.
        result: What `bench --json` said.
    """

    unit: float
    result: dict[str, Any]

    @property
    def step_in_units(self) -> float:
        """The best step."""
        return self.result["best_step_ms"] / (1000 * self.unit)


class Measured(dict[str, list[Round]]):
    """The rounds of each benchmark, by what was given to `pyro-sri bench`."""

    @property
    def unit(self) -> float:
        """The best U, in seconds."""
        return min(round_.unit for rounds in self.values() for round_ in rounds)

    def step(self, command: str) -> float:
        """The best step of a benchmark, in ms."""
        return self.least(command, "best_step_ms")

    def step_in_units(self, command: str) -> float:
        """The best step over the best U."""
        return self.step(command) / (1000 * self.unit)

    def memory(self, command: str) -> str:
        """The largest peak, in GiB."""
        return f"{self.most(command, 'peak_memory_mb') / 1024:.1f}"

    def least(self, command: str, key: str) -> float:
        """The least of a benchmark's figures over the rounds."""
        return min(round_.result[key] for round_ in self[command])

    def most(self, command: str, key: str) -> float:
        """The largest of a benchmark's figures over the rounds."""
        return max(round_.result[key] for round_ in self[command])

    def stages(self, command: str) -> dict[str, float]:
        """The stages of the fastest of the steps that were taken apart, in ms."""
        return min((round_.result["stages"] for round_ in self[command]), key=_whole)


def _whole(stages: dict[str, float]) -> float:
    return sum(stages[name] for name in WHOLE_STEP)


@dataclass(frozen=True)
class Part:
    """A part of the standard set.

    Attributes:
        commands: What `pyro-sri bench` is given, one process after the other.
        rounds: How often.
        lay_out: Makes Markdown of what was measured.
    """

    commands: tuple[str, ...]
    rounds: int
    lay_out: Callable[[Measured], str]


def standard_bench(
    only: Literal["small", "large", "presets"] | None = None, rounds: int | None = None, page: Path = PAGE
) -> None:
    """Run the standard set of benchmarks and write the measured part of docs/performance.md.

    Every benchmark runs in a process of its own on the CPU, in turn with U, a fixed piece of work. The whole takes
    most of an hour and 20 GiB of memory on two cores. Tables are printed as they are done; the page is written at the
    very end, or not at all.

    For example:

    python -m pyro_sri.scripts.standard_bench

    python -m pyro_sri.scripts.standard_bench --only small --rounds 1

    Args:
        only: A part of the set, whose tables are then not written: small (what takes seconds), large
            (128x128 images, 20 GiB), presets (a step of every preset).
        rounds: How often each benchmark runs; 5 times if small, once otherwise, if not given.
        page: The page to write.

    Raises:
        UserError: If the page has no place for what is measured, or a benchmark fails.
    """
    if rounds is not None and rounds < 1:
        raise UserError(f"--rounds is {rounds}: it must be at least 1")
    if only is None:
        fill(page, "")  # refuses a page without a place now, not in an hour
    texts = [describe_machine()]
    for name, part in PARTS.items():
        if only in (None, name):
            texts.append(_measure(part, rounds))
            print(texts[-1], end="\n\n", flush=True)
    if only is not None:
        return
    written = fill(page, "\n\n".join(texts))
    write_atomically(page, lambda file: file.write(written.encode()))
    note(f"written to {page}")


def fill(page: Path, text: str, begin: str = BEGIN, end: str = END) -> str:
    """The page with this text between its two markers, and all else as it was.

    Raises:
        UserError: If there is no such page, or it does not have each marker once.
    """
    try:
        before = page.read_text()
    except OSError as error:
        raise UserError(f"cannot read {page}: {error.strerror}; run this in the repository's folder") from error
    start, stop = before.find(begin), before.find(end)
    if not 0 <= start < stop or before.count(begin) + before.count(end) != 2:
        raise UserError(f"{page} has no place for what is measured: put the lines '{begin}' and '{end}' there")
    return f"{before[:start]}{begin}\n\n{text}\n\n{before[stop:]}"


def _measure(part: Part, rounds: int | None) -> str:
    """The tables of a part."""
    measured = Measured({command: [] for command in part.commands})
    count = rounds or part.rounds
    for number in range(count):
        for command in part.commands:
            unit = float(_last_line("pyro_sri.scripts.unit"))
            result = json.loads(_last_line("pyro_sri", "bench", *command.split(), "--device", "cpu", "--json"))
            measured[command].append(Round(unit, result))
            note(f"round {number + 1} of {count}: U {unit:.3f} s, step {result['best_step_ms']:.0f} ms: {command}")
    return part.lay_out(measured)


def _last_line(module: str, *args: str) -> str:
    """What a process of its own prints last."""
    done = subprocess.run([sys.executable, "-m", module, *args], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise UserError(f"'python -m {' '.join([module, *args])}' failed, so nothing is written: {reason}")
    return done.stdout.splitlines()[-1]


def describe_machine() -> str:
    """What all of it ran on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return (
        f"Machine: {name}, {os.cpu_count()} cores ({torch.backends.cpu.get_cpu_capability()}), "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}."
    )


def _table(header: str, rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the header's cells are divided by |."""
    cells = [header.split("|"), ["---"] * (header.count("|") + 1), *rows]
    return "\n".join(f"| {' | '.join(cell.strip() for cell in row)} |" for row in cells)


def _code(command: str) -> str:
    return f"`pyro-sri bench {command}`"


def _lay_out_small(measured: Measured) -> str:
    rows = []
    for command in (SRI, SRI_SMALL):
        ratios = [round_.step_in_units for round_ in measured[command]]
        rows.append(
            [
                _code(command),
                f"{measured.step(command):,.0f}",
                f"{measured.step_in_units(command):.2f}",
                f"{min(ratios):.2f} to {max(ratios):.2f}",
                measured.memory(command),
            ]
        )
    steps = _table("training step | best, ms | in U | in single rounds | peak memory, GiB", rows)
    return f"""### Training steps

U: {1000 * measured.unit:.0f} ms. Rounds: {len(measured[SRI])}; the best counts, here and in the next two tables.

{steps}

### Where a step goes

The first row's step, taken apart:

{_stage_table(measured.stages(SRI))}

{_share_of_python(measured)}

### Inference, samples, latency

Whole batches by the best pass, single images and scenes by the median of a round.

{_use_table(measured)}"""


def _stage_table(stages: dict[str, float]) -> str:
    whole = _whole(stages)
    return _table(
        "stage | ms | share", ([name, f"{ms:.1f}", f"{100 * ms / whole:.1f} %"] for name, ms in stages.items())
    )


def _share_of_python(measured: Measured) -> str:
    """What Pyro's handlers take at most."""
    stages = measured.stages(SRI)
    outside, whole = stages[OUTSIDE], _whole(stages)
    python = min(round_.result["stages"][OUTSIDE] for round_ in measured[PYTHON])
    step = measured.step(SRI)
    return (
        f"Outside the networks, that step's forward pass takes {outside:.1f} ms, {100 * outside / whole:.1f} % of the "
        "step: handlers and traces, but also seeds, draws, densities and KLs of whole images. With the same sites on "
        f"one image, and networks so small that Python and dispatch are all that is left ({_code(PYTHON)}), the same "
        f"code takes {python:.1f} ms: **Pyro's handlers take at most {100 * python / step:.1f} % of a step** of "
        f"{step:,.0f} ms."
    )


def _use_table(measured: Measured) -> str:
    rows = [
        [
            measured[command][0].result["preset"],
            str(measured[command][0].result["batch"]),
            f"{measured.most(command, 'inference_images_per_second'):,.1f}",
            f"{measured.least(command, 'infer_one_ms'):.1f}",
            f"{measured.most(command, 'sampling_images_per_second'):,.1f}",
            f"{measured.least(command, 'sample_one_ms'):.1f}",
        ]
        for command in (SRI, GENESIS_V2, AIR)
    ]
    return _table("preset | batch | inference, images/s | one image, ms | samples, images/s | one scene, ms", rows)


def _lay_out_large(measured: Measured) -> str:
    rows = [
        [
            _code(command),
            f"{measured.step(command) / 1000:.1f}",
            f"{measured.step_in_units(command):.1f}",
            measured.memory(command),
        ]
        for command in measured
    ]
    return f"""### Large images

U: {1000 * measured.unit:.0f} ms.

{_table("training step | s | in U | peak memory, GiB", rows)}"""


def _lay_out_presets(measured: Measured) -> str:
    rows = []
    for command, rounds in measured.items():
        preset, batch, scene = (rounds[0].result[key] for key in ("preset", "batch", "sample_one_ms"))
        rows.append(
            [
                f"`{preset}`",
                str(PRESETS[preset].config.image_size),
                str(batch),
                f"{measured.step(command):,.0f}",
                f"{measured.step_in_units(command):.2f}",
                measured.memory(command),
                f"{measured.least(command, 'infer_one_ms'):.0f}",
                "no prior" if scene is None else f"{measured.least(command, 'sample_one_ms'):.0f}",
            ]
        )
    header = "preset | image side | batch | step, ms | in U | peak memory, GiB | one image inferred, ms | one scene, ms"
    return f"""### Every preset

U: {1000 * measured.unit:.0f} ms. `pyro-sri bench PRESET --batch B --steps 3`: fewer steps, and less sure, than above.

{_table(header, rows)}"""


def _of_preset(name: str) -> str:
    """A few images of the preset's own size; AIR's whole batch is small."""
    config = PRESETS[name].config
    return f"{name} --batch {config.batch_size if config.system == 'air' else 8} --steps 3"


PARTS = {
    "small": Part((SRI, SRI_SMALL, GENESIS_V2, AIR, PYTHON), 5, _lay_out_small),
    "large": Part((LARGE, LARGE_RECOMPUTED), 1, _lay_out_large),
    "presets": Part(tuple(map(_of_preset, PRESETS)), 1, _lay_out_presets),
}

if __name__ == "__main__":
    try:
        parse(standard_bench, "python -m pyro_sri.scripts.standard_bench", sys.argv[1:])
    except UserError as error:
        sys.exit(f"bench: {error}")
