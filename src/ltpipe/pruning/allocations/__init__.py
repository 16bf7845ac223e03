"""Layer allocations, one per file: `my_rule.py` provides the scopes `my-rule` and `my-rule-row`."""

from pkgutil import iter_modules
from typing import TYPE_CHECKING

from ltpipe.runtime.plugins import check_takes, load

if TYPE_CHECKING:
    from ltpipe.pruning.allocation import Allocation


def allocation_names() -> list[str]:
    """Return the names of all allocations without importing them."""
    return sorted(name.replace("_", "-") for _, name, _ in iter_modules(__path__))


def allocation_named(name: str) -> "Allocation":
    """Import and return an allocation, one of `allocation_names`.

    Raises:
        UserError: its file is damaged, or its function cannot be called with a request.
    """
    what = f"allocation '{name}'"
    found: Allocation = load(f"{__name__}.{name.replace('-', '_')}", "ALLOCATION", what)
    check_takes(found.counts, ("request",), f"{what}: {getattr(found.counts, '__name__', 'it')}")
    return found
