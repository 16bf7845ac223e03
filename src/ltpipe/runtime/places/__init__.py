"""Kinds of local sources, one per file: `my_kind.py` resolves `my-kind:…`."""

from pkgutil import iter_modules


def kinds() -> list[str]:
    """Return the names of all kinds without importing them."""
    return sorted(name.replace("_", "-") for _, name, _ in iter_modules(__path__))
