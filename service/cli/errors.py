"""What a command cannot go on with, and what it can.

CliError     the command ends: one line on stderr, an exit code
InputError   one input, or one line of it, is bad: reported, and the rest is done
"""

from __future__ import annotations


class CliError(Exception):
    """The message is one line; exit code 2 is for arguments that cannot be used."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class InputError(Exception):
    """The message says the place, what is there and what was expected; never the text itself."""
