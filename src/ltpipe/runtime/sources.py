"""Where models and texts come from: one string.

hub:owner/name@revision     a Hugging Face Hub repository; without @revision its main branch
package:module/path/inside  a file or folder inside an installed Python package
anything else               a file or folder, relative to the working directory; in a configuration, to its file

To add a kind like `package`, add a file to the folder `places` with a function from the text after the colon to a
`Place`, named in its last line. The file `my_kind.py` resolves `my-kind:…`.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Literal

from ltpipe.runtime.errors import UserError
from ltpipe.runtime.places import kinds

_PLACES = "ltpipe.runtime.places"
_NAME = "[A-Za-z0-9][A-Za-z0-9._-]*"
_HUB = re.compile(rf"hub:{_NAME}(/{_NAME})?(@{_NAME}(/{_NAME})*)?")


@dataclass(frozen=True)
class Place:
    """A file or folder on this machine.

    Attributes:
        path: its path, which need not exist.
        version: what pins its content: the content is the same while the version is. None if nothing does; then the
            files themselves are checked before every run.
    """

    path: Path
    version: str | None = None


@dataclass(frozen=True)
class Source:
    """A parsed source. `key` is its configuration key, for error messages."""

    text: str
    key: str = "source"

    @property
    def is_hub(self) -> bool:
        """Whether this is a Hub repository, which has no local path until it is fetched."""
        return self.text.startswith("hub:")

    @property
    def is_path(self) -> bool:
        """Whether this is the path of a file or folder."""
        return not self.is_hub and self.text.partition(":")[0] not in kinds()

    @property
    def is_relative(self) -> bool:
        """Whether this is a path that names another file in another folder."""
        return self.is_path and not Path(self.text).is_absolute()

    @property
    def repository(self) -> tuple[str, str | None]:
        """Hub repository and revision."""
        name, _, revision = self.text.removeprefix("hub:").partition("@")
        return name, revision or None

    @cached_property
    def path(self) -> Path:
        """The local file or folder.

        Raises:
            UserError: it does not exist, or its package is not installed.
        """
        path = self._place.path
        if not (os.path.isfile(path) or os.path.isdir(path)):  # noqa: PTH112, PTH113 (Path raises on absurd names)
            own = ", ".join(f"{kind}:…" for kind in kinds() if kind != "package")
            raise UserError(
                f"{self.key}: '{self.text}' does not exist; use an existing file or folder, "
                f"package:module/path/inside, hub:owner/name@revision{own and f', {own}'}"
            )
        return path

    def local(self, hub_patterns: Sequence[str], hub_type: Literal["model", "dataset"]) -> Path:
        """Return the local file or folder, fetched first if it is on the Hub; the folder's name is then the commit.

        Args:
            hub_patterns: patterns of the files to fetch from a Hub repository.
            hub_type: kind of Hub repository.

        Raises:
            UserError: the source does not exist, or the Hub cannot be reached.
        """
        if not self.is_hub:
            return self.path
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        name, revision = self.repository
        try:
            wanted = list(hub_patterns)
            return Path(snapshot_download(name, repo_type=hub_type, revision=revision, allow_patterns=wanted))
        except (HfHubHTTPError, LocalEntryNotFoundError, ValueError, OSError) as error:
            raise UserError(
                f"{self.key}: cannot fetch '{self.text}' from the Hub ({type(error).__name__}); check name, revision, "
                "network and HF_TOKEN"
            ) from None

    @property
    def identity(self) -> str:
        """The source with whatever pins its content: a package's version or a Hub revision."""
        return self.text if self.is_hub or not self._place.version else f"{self.text} {self._place.version}"

    def files(self, *suffixes: str) -> list[str]:
        """Return this source's files whose changes matter; none for a Hub repository or if a version pins them.

        Raises:
            UserError: the source does not exist, or Snakemake cannot handle a file's name.
        """
        if self.is_hub or self._place.version is not None:
            return []
        found = sorted(self.path.rglob("*")) if self.path.is_dir() else [self.path]
        names = [str(path) for path in found if path.is_file() and (path == self.path or path.suffix in suffixes)]
        if odd := [name for name in names if "{" in name or "}" in name]:
            raise UserError(f"{self.key}: '{odd[0]}' has a brace in its name, a wildcard to Snakemake; rename it")
        return names

    def check(self) -> None:
        """Raise UserError unless the source is well-formed and, if local, exists."""
        if not self.is_hub:
            _ = self.path
        elif not _HUB.fullmatch(self.text):
            raise UserError(
                f"{self.key}: '{self.text}' is not a Hub repository; use hub:owner/name@revision, each of letters, "
                "digits, '.', '_' and '-' (a revision may contain '/')"
            )

    @cached_property
    def _place(self) -> Place:
        kind, _, inside = self.text.partition(":")
        if kind not in kinds():
            return Place(Path(self.text))
        try:
            return import_module(f"{_PLACES}.{kind.replace('-', '_')}").FIND(inside)
        except UserError as error:
            raise UserError(f"{self.key}: {error} (from '{self.text}')") from None
