"""The entry point `pyro-sri`."""

import contextlib
import difflib
import importlib
import io
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

from pyro_sri import __version__
from pyro_sri.system.allocation import keep_freed_memory
from pyro_sri.system.children import end_with_parent
from pyro_sri.system.errors import UserError, is_out_of_memory, printable
from pyro_sri.system.signals import ENDING, ended_by, handling
from pyro_sri.system.threads import wait_passively

HOME = re.compile(r"(--[\w-]+=)?(.*)", re.DOTALL)  # an argument, with or without its option


class Command(NamedTuple):
    """A command.

    Attributes:
        module: Its module in pyro_sri.scripts, with a function main(args). Imported only when the command is run.
        summary: What it does.
        needs_less_memory: What to do when memory runs out.
    """

    module: str
    summary: str
    needs_less_memory: str


COMMANDS = {
    "presets": Command("presets", "list the presets and what each one needs", "close other programs"),
    "data": Command(
        "data",
        "make, convert, inspect, check and preview datasets",
        "use a smaller --num or fewer --workers",
    ),
    "train": Command(
        "train",
        "train a preset, or continue a run",
        "start a new run with a smaller --batch-size, or resume this one with --recompute-decoder",
    ),
    "evaluate": Command(
        "evaluate",
        "compute every metric of a run on held-out images",
        "use a smaller --batch-size, --num-samples or --iwae-samples",
    ),
    "sample": Command("sample", "draw scenes from a trained model, or edit an image", "use a smaller --num or --slots"),
    "visualize": Command(
        "visualize", "draw pictures of a run: reconstructions, masks, samples, traversals", "use a smaller --num"
    ),
    "report": Command("report", "write one self-contained page about one or more runs", "give fewer runs at once"),
    "study": Command(
        "study", "carry out a study: many runs, then tables and a page", "run fewer at a time with a smaller --jobs"
    ),
    "bench": Command("bench", "measure how fast a preset trains, infers and samples", "use a smaller --batch"),
    "import-weights": Command(
        "import_weights", "turn the authors' published weights into a run", "close other programs"
    ),
}


class Terminated(KeyboardInterrupt):
    """SIGTERM and its like, as an exception that goes the way of Ctrl-C: files are closed, temporary ones removed."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.args = ()
        self.signal = number


def usage() -> str:
    """What `pyro-sri --help` prints."""
    commands = "\n".join(f"  {name:<15} {command.summary}" for name, command in COMMANDS.items())
    return f"""pyro-sri {__version__}: SRI (Segregate, Relate, Imagine) and its family of slot VAEs as Pyro programs.

usage: pyro-sri COMMAND [options]

commands:
{commands}

pyro-sri COMMAND --help explains a command; pyro-sri --version prints the version.

To get started:
  pyro-sri sample sri-quick --out scenes.png      scenes from the bundled weights
  pyro-sri train sri-quick --out runs/quick       makes a small dataset and trains on it (12 minutes)
  pyro-sri evaluate runs/quick                    how well objects are separated on held-out images
  pyro-sri report runs/quick --out report.html    all pictures and numbers on one page"""


def run(args: Sequence[str]) -> None:
    """Runs one command line, without the program's name.

    Raises:
        UserError: For any mistake that the user can correct, and if memory runs out or a disk fails.
    """
    os.environ["MPLBACKEND"] = "agg"  # pictures go to files: a notebook's backend may not even be there
    args = [_from_home(word) for word in args]
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return
    if "--version" in args:
        print(f"pyro-sri {__version__}")
        return
    name, *rest = args
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"choose from {', '.join(COMMANDS)}"
        raise UserError(f"there is no command '{name}': {hint}")
    with _plain_failures(COMMANDS[name].needs_less_memory):
        importlib.import_module(f"pyro_sri.scripts.{COMMANDS[name].module}").main(rest)


def _from_home(word: str) -> str:
    """An argument with a leading ~ spelt out, which shells leave in --out=~/x and in quotes."""
    option, path = HOME.fullmatch(word).groups("")  # type: ignore[union-attr]
    return option + os.path.expanduser(path) if path.startswith("~") else word


@contextlib.contextmanager
def _plain_failures(needs_less_memory: str) -> Iterator[None]:
    """Says in one plain line that memory ran out, or that a file could not be read or written."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):  # first of all: a file that failed for lack of memory may look damaged
            raise UserError(f"there is not enough memory: {needs_less_memory}") from error
        if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:  # from the bytes of a path
            raise UserError(f"a name is not UTF-8: '{printable(error.object[:200])}'; rename it") from error
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            what = "the output" if error.filename is None else error.filename
            reason = error.strerror or str(error)
            raise UserError(f"cannot read or write {what} ({reason}); check permissions and free space") from error
        raise


def main() -> None:
    """Runs the command line; exits 2 with one plain line on a mistake, 130 or 143 on Ctrl-C or SIGTERM."""
    end_with_parent()
    keep_freed_memory()
    wait_passively()
    _prepare_streams()
    status, says = _attempt(sys.argv[1:])  # by now its memory is free again, so the message can be printed
    if says:
        with contextlib.suppress(OSError):
            lines = filter(None, map(str.strip, says.splitlines()))  # spaces may be part of a name
            print(f"pyro-sri: {printable(' '.join(lines))}", file=sys.stderr, flush=True)
    if status:
        try:
            print(end="", flush=True)
        except OSError:  # the interpreter would try again at its end, and fail
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(status)


def _attempt(args: Sequence[str]) -> tuple[int, str]:
    """Runs one command line; returns the exit status, and the message if it failed."""
    try:
        with handling(_terminate, *(number for number in ENDING if number != signal.SIGINT)):
            run(args)
            with _plain_failures(""):
                print(end="", flush=True)  # here, where a full disk or a reader that left can still be reported
    except UserError as error:
        return 2, str(error)
    except BrokenPipeError:  # as in `pyro-sri presets | head`
        return 1, ""
    except Terminated as stop:
        return 128 + stop.signal, ": ".join([ended_by(stop.signal), *map(str, stop.args)])
    except KeyboardInterrupt as stop:
        return 130, ": ".join([ended_by(signal.SIGINT), *map(str, stop.args)])
    return 0, ""


def _prepare_streams() -> None:
    """Sets up standard output and error so that writing fails only on a full disk or a reader that left."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: one of our files would take its number, and get its output
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(descriptor, "r" if name == "stdin" else "w", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for paths that the terminal cannot show
    if isinstance(sys.stderr, io.TextIOWrapper) and _number(sys.stderr) == 2:
        buffer = io.BufferedWriter(_Messages(2, "wb", closefd=False))
        encoding = sys.stderr.encoding
        sys.stderr = io.TextIOWrapper(buffer, encoding, "backslashreplace", line_buffering=True)


def _number(stream: io.TextIOWrapper) -> int | None:
    try:
        return stream.fileno()
    except OSError:  # it is not a file of the system's
        return None


class _Messages(io.FileIO):
    """Standard error, which may end before the command does: a closed terminal must not cost a checkpoint."""

    def write(self, data: Any, /) -> int:
        """Writes what can be written."""
        try:
            return super().write(data)
        except OSError:
            return len(data)


def _terminate(number: int, _: object) -> NoReturn:
    raise Terminated(number)
