"""Temporary handlers for signals that end a process."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator

# Ctrl-C, and what shells, terminals and batch systems send before they kill.
ENDING = (
    signal.SIGINT,
    signal.SIGTERM,
    *(signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU),
)
URGENT = (signal.SIGINT, signal.SIGTERM)  # sent by a user; the others may come twice on their own


@contextlib.contextmanager
def handling(handler: Callable[[int, object], object], *numbers: int) -> Iterator[None]:
    """Handles signals inside by a function, which is called with their number and the interrupted frame.

    Except for Ctrl-C and SIGTERM, signals that are ignored stay ignored, such as SIGHUP under nohup. Outside the main
    thread, where Python handles no signals, it does nothing.
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
    """Calls a function in another thread for each signal inside, even while Python cannot run a handler.

    It cannot while the main thread waits in a library, for example for another process. The signals must have handlers.

    Args:
        hear: Called with the number of the signal, and with an event that is set at the end of the context.
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
    """Lets the signals of ENDING end this process at once, even while it waits in a library.

    Args:
        for_what: What it waits for and what the user can do, for a message on standard error.
        patience: Seconds until this message.
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
    """Ends this process with the exit status for a signal, if the signal is in ENDING."""
    if number in ENDING:
        say(f"pyro-sri: {ended_by(number)}")
        os._exit(128 + number)


def ended_by(number: int) -> str:
    """The message of a command that a signal ended."""
    names: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
    return names.get(number, f"ended by {signal.Signals(number).name}")


def say(line: str) -> None:
    """Prints a line on standard error, from any thread."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)
