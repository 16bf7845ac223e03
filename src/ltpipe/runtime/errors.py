"""Errors that a user can mend: one line, no traceback."""


class UserError(Exception):
    """Bad input. The message is one line: what, where, what is allowed, how to mend it."""


class DamagedFileError(UserError):
    """An artefact or input file that is not what it claims to be."""
