"""Kinds of sources on this machine, one a file: `my_kind.py` finds what `my-kind:…` names."""

from pkgutil import iter_modules


def kinds() -> list[str]:
    """Names of all kinds; none of them is imported."""
    return sorted(name.replace("_", "-") for _, name, _ in iter_modules(__path__))
