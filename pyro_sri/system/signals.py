"""Signals that end a process, handled in another way for a while."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator

# Ctrl-C; and what shells, terminals and batch systems send before they kill.
ENDING = (
    signal.SIGINT,
    signal.SIGTERM,
    *(signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU),
)
URGENT = (signal.SIGINT, signal.SIGTERM)  # what a user sends; the others may come twice by themselves


@contextlib.contextmanager
def handling(handler: Callable[[int, object], object], *numbers: int) -> Iterator[None]:
    """Has signals handled by a function inside, called with their number and the frame that they interrupted.

    SIGHUP and its like stay ignored where they are, as under nohup. Outside the main thread, where Python handles
    none, it changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = [number for number in numbers if number not in URGENT and signal.getsignal(number) == signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in numbers if number not in kept}
    try:
        yield
    finally:
        for number, handled in before.items():
            signal.signal(number, handled)


@contextlib.contextmanager
def hearing(hear: Callable[[int, threading.Event], object]) -> Iterator[None]:
    """Has a function called in another thread for each signal that comes inside, even where Python runs no handler.

    That is so while the main thread is in a library that waits, for another process say. The signals must be handled.

    Args:
        hear: Called with the number of the signal, and with an event that is set when the inside is left.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    left = threading.Event()

    def listen() -> None:
        while number := reader.recv(1):
            hear(number[0], left)

    thread = threading.Thread(target=listen, daemon=True)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    thread.start()
    try:
        yield
    finally:
        left.set()
        signal.set_wakeup_fd(before)
        writer.close()
        thread.join()
        reader.close()


@contextlib.contextmanager
def waiting(for_what: str, patience: float) -> Iterator[None]:
    """Lets the signals of ENDING end this process at once while it waits in a library that runs no handler.

    Args:
        for_what: What it waits for and what the user can do, which is said on standard error when it takes long.
        patience: How many seconds are long.
    """
    timer = threading.Timer(patience, say, [f"waiting for {for_what}"])
    timer.daemon = True
    timer.start()
    try:
        with hearing(lambda number, _: end_now(number)), handling(lambda *_: None, *ENDING):
            yield
    finally:
        timer.cancel()


def end_now(number: int) -> None:
    """Ends this process with the status of one that a signal ended, if it is one that does."""
    if number in ENDING:
        say(f"pyro-sri: {ended_by(number)}")
        os._exit(128 + number)


def ended_by(number: int) -> str:
    """How a command that a signal ended says so."""
    names: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
    return names.get(number, f"ended by {signal.Signals(number).name}")


def say(line: str) -> None:
    """Prints a line on standard error, from any thread."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)
