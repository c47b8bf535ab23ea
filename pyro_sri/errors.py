"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """A mistake that the user can mend: wrong file, wrong option, wrong size.

    The message is one plain line that says what is wrong, where, and what to do. The commands print it on standard
    error and exit with status 2; library callers catch it like any exception.
    """
