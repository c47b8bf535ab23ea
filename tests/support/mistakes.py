"""What an error message must be."""

import pytest


def one_line(caught: pytest.ExceptionInfo[BaseException], *words: str) -> str:
    """Asserts that an error's message is one line with these words; returns it."""
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message
