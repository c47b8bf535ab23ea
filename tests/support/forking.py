"""Commands in processes of their own, without the seconds that imports take: one process imports, and forks for each.

So a command can be given less memory, a small disk, another environment or a signal, and cannot harm the tests.
"""

import atexit
import contextlib
import ctypes
import dataclasses
import functools
import gc
import importlib
import io
import json
import os
import resource
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 600  # seconds until a command counts as hanging; a loaded machine is slow


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit status (minus the signal's number if one killed it), and what it wrote."""

    status: int
    out: str
    err: str

    def refused(self, *words: str, status: int = 2) -> str:
        """Asserts one plain line on standard error, which has these words, and this exit status; returns the line."""
        assert self.status == status, f"status {self.status}: {self.err[-2000:]}"
        assert "Traceback" not in self.err, self.err
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("pyro-sri: ")
        assert lines[0].isprintable()
        for word in words:
            assert word in lines[0], f"{word!r} is not in {lines[0]!r}"
        return lines[0]


def run_command(*words: object, **options: Any) -> Outcome:
    """Runs `pyro-sri` with these words.

    Options:
        cwd: The folder that it runs in.
        env: Variables of its environment besides ours; None unsets one.
        stdout: The file that standard output goes to.
        without_privileges: Whether the permissions of files hold for the superuser too.
        on_fake_gpu: Whether it has the GPU of `support.fake_gpu`.
        file_bytes: The largest file that it can write, as on a full disk.
        memory_bytes: How much more memory it can have than it has at its start.
        signal_when: Words on standard error, and the number of the signal that the command then gets.
        instead: By "module:function" what happens when that is called: ("signal", number), or
            ("error", "module:exception", message).
    """
    return _server().run([str(word) for word in words], options)


def run_here(*words: object, cwd: Path) -> Outcome:
    """Runs `pyro-sri` with these words in this process: quicker, for what is refused at once."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(cwd)
        patch.setattr("sys.argv", ["pyro-sri", *map(str, words)])
        status = _run()
    return Outcome(status, out.getvalue(), err.getvalue())


@functools.cache
def _server() -> "_Server":
    server = _Server()
    atexit.register(server.close)
    return server


class _Server:
    """The process that imports, seen from the tests."""

    def __init__(self) -> None:
        command = [sys.executable, "-W", os.environ.get("PYTHONWARNINGS", "error"), "-m", "support.forking"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, env=environment, **pipes)

    def run(self, words: list[str], options: Mapping[str, Any]) -> Outcome:
        given = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
        print(json.dumps([words, given]), file=self._process.stdin, flush=True)
        outcome = Outcome(*json.loads(self._process.stdout.readline()))
        if outcome.status == -signal.SIGALRM:
            pytest.fail(f"{words} takes more than {PATIENCE} seconds")
        return outcome

    def close(self) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def _serve() -> None:
    """Runs commands as lines of standard input say, and answers each with its exit status."""
    import pyro_sri.scripts.bench
    import pyro_sri.scripts.data
    import pyro_sri.scripts.evaluate
    import pyro_sri.scripts.import_weights
    import pyro_sri.scripts.main
    import pyro_sri.scripts.presets
    import pyro_sri.scripts.report
    import pyro_sri.scripts.sample
    import pyro_sri.scripts.study
    import pyro_sri.scripts.train
    import pyro_sri.scripts.visualize  # noqa: F401

    gc.freeze()  # what the collector does not touch is shared with those that are forked
    for line in sys.stdin:
        pipes = [os.pipe(), os.pipe()]
        child = os.fork()
        words, options = json.loads(line)
        if child == 0:
            _become(pipes, words, options)
        for _, end in pipes:
            os.close(end)
        contents = _read_all([end for end, _ in pipes], child, *options.get("signal_when", ("", 0)))
        texts = [content.decode(errors="surrogateescape") for content in contents]
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps([status, *texts]), flush=True)


def _read_all(ends: list[int], process: int, said: str, number: int) -> list[bytes]:
    """What comes out of a process's pipes until they are closed; sends it a signal when it says something."""
    content = dict.fromkeys(ends, b"")
    reading = list(ends)
    while reading:
        for end in select.select(reading, [], [])[0]:
            part = os.read(end, 1 << 16)
            content[end] += part
            if said and said.encode() in content[end]:
                os.kill(process, number)
                said = ""
            if not part:
                os.close(end)
                reading.remove(end)
    return [content[end] for end in ends]


def _become(pipes: list[tuple[int, int]], words: list[str], options: dict[str, Any]) -> None:
    """Turns this process into the command; never returns."""
    for descriptor, ends in zip((1, 2), pipes, strict=True):
        os.dup2(ends[1], descriptor)
        for end in ends:
            os.close(end)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    if "stdout" in options:
        with open(options["stdout"], "w") as output:
            os.dup2(output.fileno(), 1)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    status = 1
    try:
        signal.alarm(PATIENCE)
        _prepare(words, options)
        status = _run()
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _prepare(words: list[str], options: dict[str, Any]) -> None:
    sys.argv = ["pyro-sri", *words]
    os.chdir(options.get("cwd", "."))
    for name, value in options.get("env", {}).items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    for place, (kind, *given) in options.get("instead", {}).items():
        _replace(place, {"signal": _signalling, "error": _raising}[kind](*given))
    if options.get("on_fake_gpu", False):
        from support.fake_gpu import install

        install()
    if options.get("without_privileges", False):
        _drop_privileges()
    if (size := options.get("file_bytes")) is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    if (size := options.get("memory_bytes")) is not None:
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + size, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _replace(place: str, function: Any) -> None:
    module, path = place.split(":")
    *owners, name = path.split(".")
    setattr(functools.reduce(getattr, owners, importlib.import_module(module)), name, function)


def _signalling(number: int) -> Any:
    return lambda *_, **__: signal.raise_signal(number)


def _raising(place: str, message: str) -> Any:
    module, name = place.split(":")
    kind = getattr(importlib.import_module(module), name)

    def fail(*_: Any, **__: Any) -> None:
        raise kind(message)

    return fail


def _drop_privileges() -> None:
    """Lets the permissions of files hold for the superuser too: capset(2) with no capabilities at all."""
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")


def _run() -> int:
    from pyro_sri.scripts.main import main

    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    _serve()
