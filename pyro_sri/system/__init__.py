"""The library's interface to the machine: files, locks, errors, seeds, signals, memory, processes."""

try:
    import fcntl  # noqa: F401
except ImportError:
    raise ImportError(
        "this package needs a POSIX system, such as Linux or macOS; on Windows use WSL (Windows Subsystem for Linux)"
    ) from None
