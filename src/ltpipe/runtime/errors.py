"""Errors that a user can mend: one line, no traceback."""


class UserError(Exception):
    """Bad input. The message says what, where, what is allowed and how to mend it; it is always one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class DamagedFileError(UserError):
    """An artefact or input file that is not what it claims to be."""
