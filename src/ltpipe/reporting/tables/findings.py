"""Which findings of Frankle & Carbin 2019 (1803.03635) and Frankle et al. 2020 (1912.05671) hold in a training.

A finding holds ("yes") only if the 95 % interval over replicates lies entirely on its side, does not hold ("no") only
if the interval lies entirely on the other side, and is "undecided" otherwise, as always with a single replicate.
Findings about tickets use differences paired by replicate, with a control's seeds averaged within each replicate; the
finding about barriers uses the barrier itself. There is no correction for the number of findings or levels.

That tickets are no worse than the dense model is a non-inferiority claim: their difference in accuracy lies above -0.2
points. It is "yes" only if every level down to 8.7 % shows it, and "no" if any of these levels excludes it.

If the dense model has learned nothing, that is, its accuracy is not significantly better than that of always naming the
most frequent label, every finding of the training is "undecided".
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import log
from statistics import fmean

from ltpipe.analysis.replicates import Estimate, Holds, averaged, estimate, paired
from ltpipe.reporting.cells import percent, value
from ltpipe.reporting.table import Table
from ltpipe.reporting.trainings import CONTROLS, Trainings, Treatment, label
from ltpipe.runtime.frames import Columns, Frame, frame, word
from ltpipe.training.connectivity import STABLE, Connectivity
from ltpipe.training.record import TICKET

COLUMNS: Columns = {
    "training": word("name of the training"),
    "finding": word("what a paper found"),
    "holds": word("yes, no or undecided"),
    "evidence": word("the numbers behind it"),
}

MARGIN = 0.002
"""Loss of accuracy, as a fraction, up to which a ticket counts as no worse."""
DOWN_TO = 0.087
COMPARED_AT = (0.211, 0.135)
"""Weights remaining at which the papers state their findings."""
NEAR = 0.05
"""Relative distance up to which a level of the training counts as one of these."""


@dataclass(frozen=True)
class Finding:
    """A finding, whether it holds in a training, and the evidence."""

    training: str
    finding: str
    holds: Holds
    evidence: str


def findings_table(trainings: Trainings, lines: Sequence[Connectivity]) -> Frame:
    """Return one row per training and finding; a finding without branches or lines in the training has no row."""
    names = sorted({*trainings.names, *(line.training for line in lines)})
    found = [
        _at_chance(finding, dense)
        if (dense := trainings.treatment(training, 0)) and not dense.beats_chance
        else finding
        for training in names
        for finding in _findings(training, trainings, lines)
    ]
    return frame([asdict(finding) for finding in found], COLUMNS)


def _at_chance(finding: Finding, dense: Treatment) -> Finding:
    """Make a finding undecided because the dense model has learned nothing."""
    learned = (
        "The dense model is not significantly better than always naming the most frequent label: difference in "
        f"accuracy {_points(dense.over_majority)}. "
    )
    return replace(finding, holds="undecided", evidence=learned + finding.evidence)


def _findings(training: str, trainings: Trainings, lines: Sequence[Connectivity]) -> Iterator[Finding]:
    tickets = [found for found in trainings if (found.training, found.kind) == (training, TICKET) and found.level > 0]
    dense = trainings.treatment(training, 0)
    if dense:
        yield from _no_worse(training, tickets, dense)
    for kind in CONTROLS:
        controls = {ticket.level: trainings.treatment(training, ticket.level, kind) for ticket in tickets}
        for ticket, remaining in _compared([ticket for ticket in tickets if controls[ticket.level]]):
            control = controls[ticket.level]
            if control:
                yield from _against(ticket, control, remaining)
    for level in sorted({line.level for line in lines if line.training == training}):
        alike = [line for line in lines if (line.training, line.level) == (training, level)]
        yield _connected(training, level, alike, trainings.treatment(training, level))


def _no_worse(training: str, tickets: Sequence[Treatment], dense: Treatment) -> Iterator[Finding]:
    """Judge every level down to 8.7 % of the weights; the evidence also says how much further the claim holds."""
    reference = dense.values("test_accuracy")
    levels = [
        (ticket, difference)
        for ticket in sorted(tickets, key=lambda ticket: -ticket.weights_remaining)
        if (difference := paired(ticket.values("test_accuracy"), reference))
    ]
    claimed = sum(ticket.weights_remaining >= DOWN_TO * (1 - NEAR) for ticket, _ in levels)
    if not claimed or levels[-1][0].weights_remaining > DOWN_TO * (1 + NEAR):
        return
    shown = [difference.above(-MARGIN) for _, difference in levels]
    first = next((index for index, one in enumerate(shown) if one != "yes"), len(levels))
    # The last level that shows it, the first that does not, and the claim's levels that show the contrary.
    told = {first - 1, first, *(index for index in range(claimed) if shown[index] == "no")}
    parts = [
        f"shown down to {_where(levels[first - 1][0])}" if first else "shown at no level",
        *(
            f"difference {_points(difference)} at {_where(ticket)}"
            for index, (ticket, difference) in enumerate(levels)
            if index in told
        ),
    ]
    yield Finding(
        training,
        f"Tickets are at most {100 * MARGIN:g} points less accurate than the dense model, down to "
        f"{percent(DOWN_TO)} of the weights",
        _all(shown[:claimed]),
        _sentence(parts),
    )


def _against(ticket: Treatment, control: Treatment, remaining: float) -> Iterator[Finding]:
    """Judge whether tickets stop earlier and are more accurate than a control of the same level."""
    claims: tuple[tuple[str, str, str, Callable[[Estimate], Holds], Callable[[Estimate], str]], ...] = (
        ("stop earlier", "early_stop_iteration", "early stop", lambda found: found.below(0), _iterations),
        ("are more accurate", "test_accuracy", "test accuracy", lambda found: found.above(0), _points),
    )
    for claim, measure, what, holds, shown in claims:
        values, others = ticket.values(measure), control.values(measure)
        difference = paired(values, others)
        if difference is None:
            continue
        both = values.keys() & others.keys()
        means = [fmean(found[replicate] for replicate in both) for found in (values, others)]
        first, second = (f"{100 * mean:.2f}%" if measure == "test_accuracy" else f"{mean:,.0f}" for mean in means)
        yield Finding(
            ticket.training,
            f"Tickets {claim} than {_others(control)}, at {percent(remaining)} of the weights",
            holds(difference),
            _sentence(
                [
                    f"{_where(ticket)}: {what} {first} against {second}",
                    f"difference {shown(difference)}",
                ]
            ),
        )


def _connected(training: str, level: int, lines: Sequence[Connectivity], ticket: Treatment | None) -> Finding:
    """Judge the barrier between two trainings from one rewinding point."""
    barrier = estimate(list(averaged((line.replicate, line.barrier) for line in lines).values()))
    where = f"level {level}"
    if ticket:
        steps = sorted({str(record.rewind_step) for record in ticket.records if record.rewind_step is not None})
        step = f"k = {' or '.join(steps)}" if steps else "k not recorded"
        where += f", {percent(ticket.weights_remaining, 1)} of the weights, {step}"
    return Finding(
        training,
        f"Trainings from one rewinding point with different data orders are linearly connected (barrier below "
        f"{percent(STABLE)}), at level {level}",
        barrier.below(STABLE),
        _sentence([f"{where}: barrier {_points(barrier, sign='')}"]),
    )


def _where(ticket: Treatment) -> str:
    return f"{percent(ticket.weights_remaining, 1)} of the weights (level {ticket.level})"


def _compared(tickets: Sequence[Treatment]) -> list[tuple[Treatment, float]]:
    """Return the levels at which the papers state their findings, by weights remaining; else the nearest level."""
    found = [(ticket, remaining) for remaining in COMPARED_AT if (ticket := _nearest(tickets, remaining))]
    if found or not tickets:
        return found
    nearest = min(tickets, key=lambda ticket: abs(log(ticket.weights_remaining / COMPARED_AT[0])))
    return [(nearest, round(nearest.weights_remaining, 3))]


def _nearest(tickets: Sequence[Treatment], remaining: float) -> Treatment | None:
    """Return the level nearest to a fraction of the weights, if it is close enough."""
    near = [ticket for ticket in tickets if abs(ticket.weights_remaining / remaining - 1) <= NEAR]
    return min(near, key=lambda ticket: abs(ticket.weights_remaining - remaining), default=None)


def _all(holds: Sequence[Holds]) -> Holds:
    return "no" if "no" in holds else "undecided" if "undecided" in holds else "yes"


def _others(control: Treatment) -> str:
    return {"reinitialised": "re-initialised tickets"}.get(control.kind, f"{label(control.kind)}s")


def _points(found: Estimate, sign: str = "+") -> str:
    return _with_interval(found, lambda value: f"{100 * value:{sign}.2f}", " points")


def _iterations(found: Estimate) -> str:
    return _with_interval(found, lambda value: f"{value:+,.0f}", " iterations")


def _with_interval(found: Estimate, show: Callable[[float], str], unit: str) -> str:
    """Format a mean with its interval, or why there is none, and the number of replicates."""
    replicates = f"{found.replicates} replicate{'s' if found.replicates > 1 else ''}"
    low, high = found.interval.low, found.interval.high
    if low != low:  # NaN
        return f"{show(found.mean)}{unit} (no interval: {replicates}{', all equal' if found.replicates > 1 else ''})"
    return f"{show(found.mean)}{unit} [{show(low)}, {show(high)}] ({replicates})"


def _sentence(parts: Sequence[str]) -> str:
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


TABLE = Table(
    name="findings",
    of="findings",
    row="a training and finding",
    columns=COLUMNS,
    needs="trainings",
    trained=lambda found: findings_table(found.trainings, found.lines),
    title="Findings",
    note="What Frankle & Carbin 2019 and Frankle et al. 2020 found, and whether it holds here: yes or no only if the "
    "95% interval over replicates shows it, otherwise undecided. Differences are paired by replicate.",
    cells={key: value(key) for key in COLUMNS},
    prose=True,
    category="Trainings",
    captioned=True,
)
