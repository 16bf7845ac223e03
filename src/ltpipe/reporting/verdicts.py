"""The verdict on the tickets of each model and text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from ltpipe.analysis.confidence import Interval
from ltpipe.evaluation.quality import WINNING_RETENTION, beats_chance, changed_nothing
from ltpipe.reporting.cells import Row, ticket_name
from ltpipe.reporting.ticket_columns import places
from ltpipe.runtime.labels import recovery_of

RANDOM = "random"
"""The criterion of the control."""

Standing = Literal["chance", "none", "uncontrolled", "control", "won"]
"""What a verdict may conclude: nothing, since the dense model is not significantly better than a uniform guess; that no
ticket wins; nothing, since no random ticket of the winner's sparsity was evaluated; that the winner is not
significantly better than a random ticket; that it wins."""


@dataclass(frozen=True)
class Verdict:
    """What the tickets of one model and text show. Tickets are rows of the tickets table.

    Attributes:
        model: name of the model.
        data: name of the text.
        dense: any ticket, for the columns of its dense model.
        evaluated: number of tickets.
        untouched: how many of them prune half of the weights or more and have exactly the dense model's loss: an alarm.
        sparsest: highest sparsity (fraction) of any ticket, winning or not.
        winner: the sparsest winning ticket; among equals the one that retains most; None if there is none.
        beside: tickets of its sparsity that do not differ significantly from it, without random ones, by falling
            retention.
        seeds: number of tickets that differ from the winner at most by their seed (0 without a winner).
        seeds_winning: how many of those are winning tickets.
        randoms: number of random tickets at the winner's sparsity, without the winner.
        random: of those the one that retains most; None if there is none.
        random_significant: whether that one differs significantly from the winner; with a single sequence nothing does.
        closest: the ticket that retains most; None if none removes weights and has a loss other than NaN.
        critical: row of the curves table that wins farthest; None if there are no curves.
        critical_shared: number of other curves with the same bracket.
        tokens, sequences: number of predicted tokens, and of the sequences that they are in.
        protocol: how the text became sequences.
    """

    model: str
    data: str
    dense: Row
    evaluated: int
    untouched: int
    sparsest: float
    winner: Row | None
    beside: tuple[Row, ...]
    seeds: int
    seeds_winning: int
    randoms: int
    random: Row | None
    random_significant: bool
    closest: Row | None
    critical: Row | None
    critical_shared: int
    tokens: int
    sequences: int
    protocol: str

    @property
    def best(self) -> Row | None:
        """The winner, or else the closest ticket."""
        return self.winner or self.closest

    @property
    def surely_wins(self) -> bool:
        """Whether the interval of the winner's retention excludes the threshold; False also without an interval."""
        if self.winner is None:
            return False
        bounds = (self.winner[f"performance_retention_{bound}"] for bound in ("low", "high"))
        return Interval(*bounds).excludes(WINNING_RETENTION)

    @property
    def standing(self) -> Standing:
        """What the verdict may say."""
        if not beats_chance(*(self.dense[key] for key in ("baseline_loss", "baseline_loss_high", "uniform_loss"))):
            return "chance"
        if self.winner is None:
            return "none"
        if self.winner["criterion"] == RANDOM:
            return "control"
        if self.random is None:
            return "uncontrolled"
        ahead = self.winner["performance_retention"] > self.random["performance_retention"]
        return "won" if ahead and (self.random_significant or self.sequences < 2) else "control"


def verdicts(tickets: pd.DataFrame, curves: pd.DataFrame, comparisons: pd.DataFrame) -> list[Verdict]:
    """Judge the tickets of each model and text, and of each study if there are several, in the order of their names.

    Recovered tickets are left out. They were trained and the dense model was not, so they could win by what they
    learned of the text; the table of recoveries compares them with the trained dense model.

    Args:
        tickets: the tickets table.
        curves: the curves table.
        comparisons: the comparisons table.
    """
    axes = places(tickets)
    tickets, curves = _pruned(tickets), _pruned(curves)

    def of(table: pd.DataFrame, place: Sequence[str]) -> pd.DataFrame:
        return table[(table[axes] == list(place)).all(axis=1)]

    return [
        _verdict(": ".join(place[:-1]), place[-1], rows, of(curves, place), of(comparisons, place))
        for place, rows in tickets.groupby(axes)
    ]


def _pruned(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["criterion"].map(recovery_of).eq("")]


def _verdict(model: str, data: str, rows: pd.DataFrame, curves: pd.DataFrame, comparisons: pd.DataFrame) -> Verdict:
    every: list[Row] = rows.to_dict("records")
    untouched = [changed_nothing(row["kept"], row["total"], row["baseline_loss"], row["loss"]) for row in every]
    # A loss that is NaN has no place in an order; a mask that removes nothing shows nothing.
    sound = [row for row in every if not pd.isna(row["performance_retention"]) and row["kept"] < row["total"]]
    tickets = sorted(sound, key=_preference)
    winner = min(filter(_retains, tickets), key=lambda ticket: -ticket["sparsity"], default=None)
    rivals = [one for one in tickets if winner and one["sparsity"] == winner["sparsity"] and one is not winner]
    family = [one for one in (winner, *rivals) if winner and one and _curve(one)[:2] == _curve(winner)[:2]]
    randoms = [ticket for ticket in rivals if ticket["criterion"] == RANDOM]
    different = _different(winner, comparisons) if winner else set()
    critical, shared = _critical(curves)
    return Verdict(
        model=model,
        data=data,
        dense=every[0],
        evaluated=len(rows),
        untouched=sum(untouched),
        sparsest=float(rows["sparsity"].max()),
        winner=winner,
        beside=tuple(one for one in rivals if one["criterion"] != RANDOM and ticket_name(one) not in different),
        seeds=len(family),
        seeds_winning=sum(map(_retains, family)),
        randoms=len(randoms),
        random=randoms[0] if randoms else None,
        random_significant=bool(randoms) and ticket_name(randoms[0]) in different,
        closest=tickets[0] if tickets else None,
        critical=critical,
        critical_shared=shared,
        tokens=int(rows["tokens"].max()),
        sequences=int(rows["sequences"].max()),
        protocol=" or ".join(sorted(rows["protocol"].unique())),
    )


def _retains(ticket: Row) -> bool:
    return bool(ticket["performance_retention"] >= WINNING_RETENTION)


def _curve(ticket: Row) -> tuple[str, str, int]:
    return ticket["criterion"], ticket["scope"], -1 if pd.isna(ticket["seed"]) else ticket["seed"]


def _preference(ticket: Row) -> tuple[float, bool, str, str, int]:
    """Sort key of tickets: most retention first; among equals those not random, then by name and seed."""
    return -ticket["performance_retention"], ticket["criterion"] == RANDOM, *_curve(ticket)


def _different(winner: Row, comparisons: pd.DataFrame) -> set[str]:
    """Return the tickets of the winner's sparsity whose paired interval of the difference in loss excludes 0."""
    found = comparisons[(comparisons["sparsity"] == winner["sparsity"]) & comparisons["significant"]]
    pairs = [{ticket_name(row, "_a"), ticket_name(row, "_b")} for row in found.to_dict("records")]
    return {name for pair in pairs if ticket_name(winner) in pair for name in pair - {ticket_name(winner)}}


def _critical(curves: pd.DataFrame) -> tuple[Row | None, int]:
    """Return the curve that wins farthest, by estimate among equals, and how many others share its bracket.

    A curve that never falls is ahead of one that falls.
    """
    if curves.empty:
        return None, 0
    ends = ["last_winning_sparsity", "first_losing_sparsity"]
    ordered = curves.assign(falls=curves[ends[1]].notna()).sort_values(
        [ends[0], "falls", "critical_sparsity_estimate", "criterion", "scope", "seed"],
        ascending=[False, True, False, True, True, True],
    )
    best = ordered.iloc[0]
    same = (curves[ends].fillna(1.0) == best[ends].fillna(1.0)).all(axis=1)
    return best.to_dict(), int(same.sum()) - 1
