"""The verdict on the tickets of each model and text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import pandas as pd

from ltpipe.analysis.confidence import Interval
from ltpipe.evaluation.quality import WINNING_RETENTION, beats_chance, changed_nothing
from ltpipe.reporting.columns import places
from ltpipe.reporting.critical import CriticalSparsity

RANDOM = "random"
"""The criterion of the control."""

Standing = Literal["chance", "none", "uncontrolled", "control", "won"]
"""What a verdict may say: nothing, since the dense model is not told apart from a uniform guess; that no ticket wins;
nothing, since no random ticket of the winner's sparsity was evaluated; that the winner is not told apart from a random
ticket; that it wins."""


@dataclass(frozen=True)
class EvaluatedTicket:
    """One evaluated ticket: losses in nats/token; sparsity, accuracies and retention as fractions."""

    criterion: str
    scope: str
    seed: int | None
    sparsity: float
    kept: int
    total: int
    loss: float
    perplexity: float
    accuracy: float
    performance_retention: float
    performance_retention_low: float
    performance_retention_high: float
    baseline_loss: float
    baseline_perplexity: float
    baseline_accuracy: float

    @property
    def wins(self) -> bool:
        """Whether it retains enough, by what was measured."""
        return self.performance_retention >= WINNING_RETENTION

    @property
    def is_significant(self) -> bool:
        """Whether its interval excludes the retention that is just enough; False also where there is no interval."""
        low, high = self.performance_retention_low, self.performance_retention_high
        return Interval(low, high).excludes(WINNING_RETENTION)


@dataclass(frozen=True)
class Dense:
    """The dense model: its loss with its interval over sequences, and the loss of a uniform guess, nats/token."""

    loss: float
    low: float
    high: float
    uniform: float

    @property
    def beats_chance(self) -> bool:
        """Whether it is told apart from a uniform guess."""
        return beats_chance(self.loss, self.high, self.uniform)


@dataclass(frozen=True)
class Verdict:
    """What the tickets of one model and text show.

    Attributes:
        model: name of the model.
        data: name of the text.
        dense: the dense model.
        evaluated: number of tickets.
        untouched: how many of them prune half of the weights or more and have the dense model's loss to the bit: an
            alarm.
        sparsest: highest sparsity (fraction) of any ticket, winning or not.
        winner: the sparsest winning ticket, of several the one that retains most; None if there is none.
        beside: tickets of its sparsity that are not told apart from it, random ones aside, by falling retention.
        seeds: number of tickets that differ from the winner at most by their seed (0 without a winner).
        seeds_winning: how many of those are winning tickets.
        randoms: number of random tickets at the winner's sparsity, the winner aside.
        random: of those the one that retains most; None if there is none.
        random_significant: whether that one is told apart from the winner; with a single sequence nothing is.
        closest: the ticket that retains most; None if none removes weights and has a loss that is a number.
        critical: where the curve that wins farthest stops winning; None if there are no curves.
        critical_shared: number of other curves with the same bracket.
        tokens, sequences: what was predicted, and the windows it lies in.
        protocol: how the text became windows.
    """

    model: str
    data: str
    dense: Dense
    evaluated: int
    untouched: int
    sparsest: float
    winner: EvaluatedTicket | None
    beside: tuple[EvaluatedTicket, ...]
    seeds: int
    seeds_winning: int
    randoms: int
    random: EvaluatedTicket | None
    random_significant: bool
    closest: EvaluatedTicket | None
    critical: CriticalSparsity | None
    critical_shared: int
    tokens: int
    sequences: int
    protocol: str

    @property
    def standing(self) -> Standing:
        """What may be said."""
        if not self.dense.beats_chance:
            return "chance"
        if self.winner is None:
            return "none"
        if self.winner.criterion == RANDOM:
            return "control"
        if self.random is None:
            return "uncontrolled"
        ahead = self.winner.performance_retention > self.random.performance_retention
        return "won" if ahead and (self.random_significant or self.sequences < 2) else "control"


def verdicts(tickets: pd.DataFrame, curves: pd.DataFrame, comparisons: pd.DataFrame) -> list[Verdict]:
    """Judge the tickets of each model and text, and of each study where there are several, in the order of their names.

    Args:
        tickets: the tickets table.
        curves: the curves table.
        comparisons: the comparisons table.
    """
    axes = places(tickets)

    def of(table: pd.DataFrame, place: Sequence[str]) -> pd.DataFrame:
        return table[(table[axes] == list(place)).all(axis=1)]

    return [
        _verdict(": ".join(place[:-1]), place[-1], rows, of(curves, place), of(comparisons, place))
        for place, rows in tickets.groupby(axes)
    ]


def named(ticket: Any) -> str:
    """A ticket, or a curve of tickets, in words."""
    return ", ".join([ticket.criterion, ticket.scope, *([] if ticket.seed is None else [f"seed {ticket.seed}"])])


def _verdict(model: str, data: str, rows: pd.DataFrame, curves: pd.DataFrame, comparisons: pd.DataFrame) -> Verdict:
    untouched = [
        changed_nothing(row["kept"], row["total"], row["baseline_loss"], row["loss"]) for row in rows.to_dict("records")
    ]
    # A loss that is no number has no place in an order; a mask that removes nothing shows nothing.
    sound = rows[rows["performance_retention"].notna() & (rows["kept"] < rows["total"])]
    tickets = sorted(map(_ticket, sound.to_dict("records")), key=_preference)
    winner = min((one for one in tickets if one.wins), key=lambda ticket: -ticket.sparsity, default=None)
    rivals = [ticket for ticket in tickets if winner and ticket.sparsity == winner.sparsity and ticket != winner]
    alike = [one for one in rivals if winner and (one.criterion, one.scope) == (winner.criterion, winner.scope)]
    randoms = [ticket for ticket in rivals if ticket.criterion == RANDOM]
    different = _different(winner, comparisons) if winner else set()
    critical, shared = _critical(curves)
    return Verdict(
        model=model,
        data=data,
        dense=_dense(rows.iloc[0].to_dict()),
        evaluated=len(rows),
        untouched=sum(untouched),
        sparsest=float(rows["sparsity"].max()),
        winner=winner,
        beside=tuple(one for one in rivals if one.criterion != RANDOM and _identity(one) not in different),
        seeds=len(alike) + (winner is not None),
        seeds_winning=sum(one.wins for one in alike) + (winner is not None),
        randoms=len(randoms),
        random=randoms[0] if randoms else None,
        random_significant=bool(randoms) and _identity(randoms[0]) in different,
        closest=tickets[0] if tickets else None,
        critical=critical,
        critical_shared=shared,
        tokens=int(rows["tokens"].max()),
        sequences=int(rows["sequences"].max()),
        protocol=" or ".join(sorted(rows["protocol"].unique())),
    )


def _preference(ticket: EvaluatedTicket) -> tuple[float, bool, str, str, int]:
    """Sort key of tickets: most retention first; among equals those not random, then by name and seed."""
    seed = -1 if ticket.seed is None else ticket.seed
    return -ticket.performance_retention, ticket.criterion == RANDOM, ticket.criterion, ticket.scope, seed


def _ticket(row: dict[str, Any]) -> EvaluatedTicket:
    values = {field.name: row[field.name] for field in fields(EvaluatedTicket)}
    return EvaluatedTicket(**{**values, "seed": None if pd.isna(row["seed"]) else int(row["seed"])})


def _dense(row: Mapping[str, Any]) -> Dense:
    return Dense(*(row[key] for key in ("baseline_loss", "baseline_loss_low", "baseline_loss_high", "uniform_loss")))


Identity = tuple[str, str, int | None]


def _identity(ticket: EvaluatedTicket) -> Identity:
    return ticket.criterion, ticket.scope, ticket.seed


def _different(winner: EvaluatedTicket, comparisons: pd.DataFrame) -> set[Identity]:
    """Tickets of the winner's sparsity whose paired interval of the difference in loss excludes 0."""
    found = set()
    apart = comparisons[(comparisons["sparsity"] == winner.sparsity) & comparisons["significant"]]
    for row in apart.to_dict("records"):
        seeds = [None if pd.isna(row[f"seed_{side}"]) else int(row[f"seed_{side}"]) for side in "ab"]
        pair = [(row[f"criterion_{side}"], row[f"scope_{side}"], seed) for side, seed in zip("ab", seeds, strict=True)]
        if _identity(winner) in pair:
            pair.remove(_identity(winner))
            found.update(pair)
    return found


def _critical(curves: pd.DataFrame) -> tuple[CriticalSparsity | None, int]:
    """The curve that wins farthest, of equals that of the largest estimate, and how many others share its bracket.

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
    return CriticalSparsity.of(best.to_dict()), int(same.sum()) - 1
