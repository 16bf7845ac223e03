"""Checksums of files whose format cannot hold one: in a text file beside them that `sha256sum --check` reads.

A single table has a file `<table>.sha256`; a folder written as a whole has one `SHA256SUMS` for all its files. A
comment there records the settings they were made with.
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
"""Name of the file with a folder's checksums."""
_COMMENT = "# made with "
_LINE = re.compile(r"([0-9a-f]{64})  ([^/]+)")


@dataclass(frozen=True)
class Sums:
    """The content of a checksum file.

    Attributes:
        path: the checksum file.
        digests: SHA-256 of the files beside it, by name.
        made_with: the settings they were made with; None if not recorded.
    """

    path: Path
    digests: Mapping[str, str]
    made_with: dict[str, Any] | None

    @classmethod
    def read(cls, path: Path) -> "Sums":
        """Read a file that `write_sums` wrote.

        Raises:
            UserError: there is no such file.
            DamagedFileError: the file is not a list of checksums.
        """
        check_file(path)
        try:
            sums, mark, comment = path.read_text(encoding="utf-8").partition(_COMMENT)
            lines = [_LINE.fullmatch(line) for line in sums.removesuffix("\n").split("\n")]
            digests = {line[2]: line[1] for line in lines if line}
            if len(digests) != len(lines) or not sums.endswith("\n"):
                raise ValueError("not a list of checksums")
            made_with = dict(json.loads(comment)) if mark else None
        except (ValueError, TypeError) as error:
            raise DamagedFileError(f"{path}: damaged ({error}); {MEND}") from None
        return cls(path, digests, made_with)

    def check(self, name: str) -> Path:
        """Return the path of the file of that name; raise DamagedFileError if it is missing or changed."""
        file = self.path.with_name(name)
        if not file.is_file():
            raise DamagedFileError(f"{file}: missing, but {self.path} lists it; {MEND}")
        if self.digests.get(name) != sha256_of(file):
            raise DamagedFileError(f"{file}: damaged: does not match {self.path}; {MEND}")
        return file


def write_sums(path: Path, digests: Mapping[str, str]) -> None:
    """Write the SHA-256 of files beside `path`, by name, and the settings the stage makes them with."""
    made_with = asked()
    comment = "" if made_with is None else f"{_COMMENT}{json.dumps(made_with, ensure_ascii=False)}\n"
    lines = (f"{digest}  {name}\n" for name, digest in digests.items())
    with atomic_write(path) as file:
        file.write(f"{''.join(lines)}{comment}".encode())


def sums_file(path: Path) -> Path:
    """Return the file with another file's checksum: its folder's, if there is one, or its own."""
    folder = path.with_name(FOLDER)
    return folder if folder.is_file() else path.with_name(f"{path.name}.sha256")
