"""What a case of the catalogue is."""

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bad_input.study import Study


def nothing(here: Path, study: Study) -> None:
    """Makes no file."""


@dataclass(frozen=True)
class Case:
    """Bad input, and what it ends with.

    Attributes:
        script: a stage's script, or `ltpipe`.
        arguments: its command line; `@name` is a path in the study, `%name` one in a folder of the case's own.
        words: that its one line has to hold, paths as in `arguments`.
        make: makes the bad files in the case's own folder.
    """

    script: str
    arguments: str
    words: tuple[str, ...]
    make: Callable[[Path, Study], object] = nothing


def on(arguments: str, **changes: str) -> str:
    """Arguments with some of them changed: the last of two equal flags wins."""
    return " ".join([arguments, *(f"--{flag.replace('_', '-')}={value}" for flag, value in changes.items())])


def expand(text: str, study: Study, here: Path = Path()) -> str:
    """Put paths in place of `@` and `%`."""
    return re.sub(r"%(?=\w)", f"{here}/", text.replace("@", f"{study.root}/"))


def command(case: Case, study: Study, here: Path, output: Path) -> list[str]:
    """The words of the command line, with an output where the case names none."""
    words = [expand(word, study, here) for word in shlex.split(case.arguments)]
    given = case.script in ("print_table", "ltpipe") or "--output" in case.arguments
    return words if given else [*words, "--output", str(output)]
