"""The folder of a report: tables, figures and page, and one `SHA256SUMS` for all of them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from ltpipe.reporting.registry import TABLES
from ltpipe.reporting.table import Table
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import atomic_write, remove
from ltpipe.runtime.frames import Frame
from ltpipe.runtime.sums import FOLDER, Sums, write_sums

PAGE, CONFIG = "index.html", "config.yaml"
PICTURES = (".svg", ".png")
"""Files of a figure."""


def write_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write the files of a report by their names, and their checksums last; tables and figures it lacks are removed.

    Those were left by another study that the folder reported on before.
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
    """A report that was written before, all of it as it was written.

    Args:
        path: of the folder.

    Raises:
        UserError: it is no folder of a report.
        DamagedFileError: a file is damaged or missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / FOLDER).exists():
            raise UserError(f"{path}: not a report ({FOLDER} is not in it); name a folder as results/report is one")
        self.sums = Sums.read(path / FOLDER)
        for name in self.sums.digests:
            self.sums.check(name)

    def table(self, table: Table) -> Frame:
        """One of its tables, without rows if the report does not have it; DamagedFileError if its format is another."""
        name = next((name for name in reversed(table.files) if name in self.sums.digests), None)
        return table.parsed(self.path / name) if name else table.empty
