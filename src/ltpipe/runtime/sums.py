"""Checksums of files that have no room for one: in a text file beside them, as `sha256sum --check` reads it.

A table on its own has a file `<table>.sha256`; a folder that is written as a whole has one `SHA256SUMS` for all its
files. What they were made with stands there too, in a comment.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltpipe.runtime.errors import MEND, DamagedFileError
from ltpipe.runtime.files import atomic_write, check_file, sha256_of
from ltpipe.runtime.made_with import asked

FOLDER = "SHA256SUMS"
"""Name of the file that has the checksums of a folder."""
_COMMENT = "# made with "
_LINE = re.compile(r"([0-9a-f]{64})  ([^/]+)")


@dataclass(frozen=True)
class Sums:
    """The checksums in a file.

    Attributes:
        path: of that file.
        digests: SHA-256 of the files beside it, by their names.
        made_with: what they were made with; None where it says nothing.
    """

    path: Path
    digests: Mapping[str, str]
    made_with: dict[str, Any] | None

    @classmethod
    def read(cls, path: Path) -> "Sums":
        """Read a file that `write_sums` wrote.

        Raises:
            UserError: there is no such file.
            DamagedFileError: it holds something else.
        """
        check_file(path)
        try:
            sums, mark, comment = path.read_text(encoding="utf-8").partition(_COMMENT)
            lines = [_LINE.fullmatch(line) for line in sums.removesuffix("\n").split("\n")]
            digests = {line[2]: line[1] for line in lines if line}
            if len(digests) != len(lines) or not sums.endswith("\n"):
                raise ValueError("no list of checksums")
            made_with = dict(json.loads(comment)) if mark else None
        except (ValueError, TypeError) as error:
            raise DamagedFileError(f"{path}: damaged ({error}); {MEND}") from None
        return cls(path, digests, made_with)

    def check(self, name: str) -> Path:
        """The file of that name, which is as it was written; raises DamagedFileError if it is not, or missing."""
        file = self.path.with_name(name)
        if not file.is_file():
            raise DamagedFileError(f"{file}: missing, {self.path} lists it; {MEND}")
        if self.digests.get(name) != sha256_of(file):
            raise DamagedFileError(f"{file}: damaged, does not match {self.path}; {MEND}")
        return file


def write_sums(path: Path, digests: Mapping[str, str]) -> None:
    """Write the SHA-256 of files that lie beside `path`, by their names, and what the stage makes them with."""
    made_with = asked()
    comment = "" if made_with is None else f"{_COMMENT}{json.dumps(made_with, ensure_ascii=False)}\n"
    lines = (f"{digest}  {name}\n" for name, digest in digests.items())
    with atomic_write(path) as file:
        file.write(f"{''.join(lines)}{comment}".encode())


def sums_file(path: Path) -> Path:
    """Where the checksum of a file stands: in that of its folder, if it has one, or in a file of its own."""
    folder = path.with_name(FOLDER)
    return folder if folder.is_file() else path.with_name(f"{path.name}.sha256")
