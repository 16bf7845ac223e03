"""Where a curve of tickets stops winning, in words, from a row of the curves table."""

from ltpipe.evaluation.quality import WINNING_RETENTION
from ltpipe.reporting.cells import MISSING, Row, percent
from ltpipe.runtime.frames import is_missing

NOTE = (
    f"The critical sparsity, where retention falls below {WINNING_RETENTION}, lies between the last winning and the "
    "first losing ticket, which are measured. The estimate between them is interpolated linearly. Its 95% interval "
    "shows how it would vary with other text of this kind; it does not include the error of interpolating, which only "
    "the bracket bounds. grid.refine narrows the bracket. If a curve falls several times, the first fall counts."
)


def winning_text(row: Row) -> str:
    """The winning end of the bracket, in words."""
    return "dense model" if is_missing(row["last_winning_kept"]) else _end(row, "last_winning")


def losing_text(row: Row) -> str:
    """The losing end of the bracket, in words."""
    if is_missing(row["first_losing_sparsity"]):
        return f"none up to {percent(row['largest_sparsity'])}"
    return _end(row, "first_losing")


def estimate_text(row: Row) -> str:
    """The estimate with its interval; a dash if all tickets win."""
    if is_missing(row["first_losing_sparsity"]):
        return MISSING
    estimates = [row[f"critical_sparsity_estimate{bound}"] for bound in ("", "_low", "_high")]
    beyond = f"≥ {percent(row['largest_sparsity'])}"
    value, low, high = (beyond if is_missing(estimate) else percent(estimate, 1) for estimate in estimates)
    return value if is_missing(row["area_low"]) else f"{value} [{low}, {high}]"  # a single sequence has no interval


def _end(row: Row, name: str) -> str:
    """An end's sparsity, the fraction actually pruned if that differs, and whether it is close to the threshold."""
    sparsity, significant = row[f"{name}_sparsity"], row[f"{name}_significant"]
    pruned = 1 - row[f"{name}_kept"] / row["total"]
    text = percent(sparsity)
    if abs(pruned - sparsity) > max(0.0005, 1 / row["total"]):
        text += f" (prunes {percent(pruned, 1)})"
    if is_missing(significant) or significant:
        return text
    return f"{text}, not significantly different from {WINNING_RETENTION}"
