"""Layer allocations, one a file: `my_rule.py` gives the scopes `my-rule` and `my-rule-row`."""

from pkgutil import iter_modules


def allocation_names() -> list[str]:
    """Names of all allocations; none of them is imported."""
    return sorted(name.replace("_", "-") for _, name, _ in iter_modules(__path__))
