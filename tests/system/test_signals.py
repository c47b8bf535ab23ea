"""Signals that end a process, while it works and while it waits for another one."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pyro_sri.system.signals import ENDING, handling, hearing
from support import small_world
from support.forking import run_command
from support.launching import address
from support.small_world import DATA, FIELDS

UNDER_NOHUP = """
import signal
from pyro_sri.system.signals import ENDING, handling
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with handling(lambda number, _: print(number), *ENDING):
    signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGTERM)
"""


def test_all_are_handled_and_given_back() -> None:
    came: list[int] = []
    before = [signal.getsignal(number) for number in ENDING]
    with handling(lambda number, _: came.append(number), *ENDING):
        for number in ENDING:
            signal.raise_signal(number)
    assert came == list(ENDING)
    assert [signal.getsignal(number) for number in ENDING] == before


def test_nohup_is_obeyed() -> None:
    done = subprocess.run([sys.executable, "-c", UNDER_NOHUP], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(int(signal.SIGTERM))]


def test_signals_are_heard_where_no_handler_runs() -> None:
    """The main thread handles them only after the other thread has heard of them."""
    heard, handled = threading.Event(), []
    with handling(lambda *_: handled.append(heard.wait(60)), signal.SIGTERM), hearing(lambda *_: heard.set()):
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard.wait(60)
    assert handled == [True]


@pytest.mark.parametrize(
    ("number", "says"),
    [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated"), (signal.SIGHUP, "ended by SIGHUP")],
)
def test_a_wait_for_another_machine_says_who_is_missing_and_ends(
    tmp_path: Path, number: signal.Signals, says: str
) -> None:
    folder, where = small_world.settle(tmp_path), address()
    words = ("train", "sri-g-shapestacks", "--data", DATA, *FIELDS.split(), "--steps", "1", "--nodes", "2")
    signalled = {"signal_when": ["Ctrl-C ends", number], "env": where | {"NODE_RANK": "0"}}
    outcome = run_command(*words, "--out", "new", cwd=folder, **signalled)
    assert outcome.status == 128 + number, outcome.err
    *_, waits, ends = outcome.err.splitlines()
    assert waits.startswith("waiting for the other processes of the run (2 in all): start the same command")
    assert f"MASTER_ADDR=127.0.0.1 MASTER_PORT={where['MASTER_PORT']} NODE_RANK=1" in waits
    assert ends == f"pyro-sri: {says}"
    assert not (folder / "new").exists()
