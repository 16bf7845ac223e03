"""The folder of a report: tables, figures and page, and one `SHA256SUMS` for all of them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from ltpipe.reporting.registry import TABLES
from ltpipe.reporting.table import Table
from ltpipe.runtime.errors import MEND, DamagedFileError, UserError
from ltpipe.runtime.files import atomic_write, remove
from ltpipe.runtime.frames import Frame
from ltpipe.runtime.sums import FOLDER, Sums, write_sums

PAGE, CONFIG = "index.html", "config.yaml"
PICTURES = (".svg", ".png")
"""Files of a figure."""


def write_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write the files of a report by their names, then their checksums, and remove tables and figures that it lacks.

    Those are left over from an earlier study in the same folder.
    """
    figures = [f"{table.figure}{suffix}" for table in TABLES if table.figure for suffix in PICTURES]
    for name in {*figures, *(name for table in TABLES for name in table.files), CONFIG} - contents.keys():
        if (folder / name).exists():
            remove(folder / name)
    for name, content in sorted(contents.items()):
        with atomic_write(folder / name) as file:
            file.write(content)
    write_sums(folder / FOLDER, {name: hashlib.sha256(contents[name]).hexdigest() for name in sorted(contents)})


class ReportFolder:
    """A finished report whose files match their checksums.

    Args:
        path: the folder.

    Raises:
        UserError: the folder is not a report.
        DamagedFileError: a file is damaged or missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / FOLDER).exists():
            raise UserError(f"{path}: not a report ({FOLDER} is not in it); name a folder such as results/report")
        self.sums = Sums.read(path / FOLDER)
        for name in self.sums.digests:
            self.sums.check(name)
        for table in TABLES:
            there = [name for name in table.files if (path / name).exists()]
            if there and self.sums.digests.keys().isdisjoint(there):  # it would be read as empty
                raise DamagedFileError(f"{path / FOLDER}: damaged: it does not list {there[0]}, which is there; {MEND}")

    def table(self, table: Table) -> Frame:
        """Return one of its tables, empty if the report lacks it; raises DamagedFileError for another format."""
        name = next((name for name in reversed(table.files) if name in self.sums.digests), None)
        return table.parsed(self.path / name) if name else table.empty
