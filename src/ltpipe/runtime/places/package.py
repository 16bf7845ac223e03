"""Files inside an installed Python package: package:module/path/inside."""

from functools import cache
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path

from ltpipe.runtime.errors import UserError
from ltpipe.runtime.sources import Place


def find(inside: str) -> Place:
    """Return the file or folder inside the package, and the versions of the package's distributions.

    Raises:
        UserError: the package is not installed.
    """
    module, _, path = inside.partition("/")
    spec = find_spec(module) if module.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"package '{module}' is not installed; pip install --no-deps {module}")
    distributions = sorted({f"{name}=={version(name)}" for name in _distributions().get(module, [])})
    return Place(Path(next(iter(spec.submodule_search_locations)), path), " ".join(distributions))


_distributions = cache(packages_distributions)
"""Names of distributions by module; scanning everything installed takes a tenth of a second or more."""

FIND = find
