"""The exception for mistakes that the user can correct, and helpers for other errors."""

from collections.abc import Iterator

# Messages of PyTorch and its libraries if memory runs out and they do not raise MemoryError.
OUT_OF_MEMORY = (
    *("out of memory", "DefaultCPUAllocator", "ALLOC_FAILED", "bad_alloc"),
    *("Storage size calculation overflowed", "can't start new thread"),
    *("could not create a primitive", "could not execute a primitive"),
)


class UserError(Exception):
    """A mistake that the user can correct: a wrong file, a wrong option, a wrong size.

    The message is one plain line that says what is wrong, where, and what to do. The commands print it on standard
    error and exit with status 2. Library callers catch it like any exception.
    """


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception, or one that led to it, says that memory ran out: on the CPU or on a GPU."""
    return any(
        isinstance(cause, MemoryError)
        or (isinstance(cause, RuntimeError) and any(sign in str(cause) for sign in OUT_OF_MEMORY))
        for cause in causes(error)
    )


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, the exception that caused it, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def printable(text: str) -> str:
    """Escapes the characters of a text that end a line, control a terminal, or cannot be shown."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def one_line(message: object) -> str:
    """A message on one line. A damaged file may have made it long or unprintable."""
    line = "".join(letter if letter.isprintable() else " " for letter in str(message))
    return " ".join(line.split())[:300]
