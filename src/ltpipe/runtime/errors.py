"""Errors that a user can fix: one line, no traceback."""

from collections.abc import Sequence
from difflib import get_close_matches


class UserError(Exception):
    """Bad input. The message is always one line: where, what is wrong, and how to fix it or what is accepted."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


MEND = "delete it and run again"
"""What to do with a damaged artefact: Snakemake, or its stage run by hand, makes missing artefacts again."""
MEND_ANY = f"fetch it again, or if it lies in the results folder {MEND}"
"""The same for a file that may belong to the user."""


def few(names: Sequence[str]) -> str:
    """Return the first three names, for a message that would list many."""
    return ", ".join(names[:3]) + " …" * (len(names) > 3)


class DamagedFileError(UserError):
    """A damaged artefact or input file, or one of the wrong kind."""


class OtherSettingsError(UserError):
    """An artefact made with settings other than those in the configuration."""


def first_line(error: Exception) -> str:
    """Return the first line of another library's error, which may have many."""
    return str(error).strip().split("\n")[0]


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return a hint at the most similar known word, to follow an unknown one; empty if none is similar."""
    return "".join(f" (did you mean '{close}'?)" for close in get_close_matches(word, known, 1))
