"""Starts the processes of a run as a launcher (torchrun) does, and waits for them."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence

PATIENCE = 900  # seconds until a process counts as hanging, on a machine however busy


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def address() -> dict[str, str]:
    """Where the first process will listen, as environment variables."""
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}


def as_torchrun(rank: int, num_processes: int) -> dict[str, str]:
    """What torchrun tells one of the processes on a single machine, but for the address."""
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "ROLE_RANK": rank, "GROUP_RANK": 0}
    sizes = {"WORLD_SIZE": num_processes, "LOCAL_WORLD_SIZE": num_processes, "ROLE_WORLD_SIZE": num_processes}
    return {name: str(value) for name, value in (ranks | sizes | {"TORCHELASTIC_RUN_ID": "test"}).items()}


def start(arguments: Sequence[str], environment: Mapping[str, str] = {}) -> subprocess.Popen[str]:
    """Starts `python ARGUMENTS` on one thread."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_pair(arguments: Sequence[str]) -> list[subprocess.Popen[str]]:
    """Starts two processes of one run."""
    where = address()
    return [start(arguments, as_torchrun(rank, 2) | where) for rank in range(2)]


def finish(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, list[str]]]:
    """Waits for processes, and ends them should one hang: the exit status and the lines of standard error of each."""
    try:
        errors = [process.communicate(timeout=PATIENCE)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, error.splitlines()) for process, error in zip(processes, errors, strict=True)]
