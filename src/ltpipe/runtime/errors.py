"""Errors that a user can mend: one line, no traceback."""


class UserError(Exception):
    """Bad input. The message says what, where, what is allowed and how to mend it; it is always one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


MEND = "delete it and run again"
"""What to do with an artefact that is damaged: Snakemake, or its stage called by hand, makes what is missing."""
MEND_ANY = f"fetch it again, or if it lies in the results folder {MEND}"
"""The same for a file that may be the user's own."""


class DamagedFileError(UserError):
    """An artefact or input file that is not what it claims to be."""


class OtherSettingsError(UserError):
    """An artefact that was made with other settings than the configuration asks for."""
