"""The verdict on the tickets of each model and text."""

from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from ltpipe.evaluation.quality import WINNING_RETENTION


@dataclass(frozen=True)
class Ticket:
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


@dataclass(frozen=True)
class Critical:
    """The curve that stops winning last: criterion, scope and seed, and the sparsity, a fraction, at which it does.

    None where no ticket of the curve falls below the limit: then it is at least `largest`.
    """

    criterion: str
    scope: str
    seed: int | None
    sparsity: float | None
    low: float | None
    high: float | None
    largest: float
    sure: bool

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Critical":
        """A row of the curves table."""

        def known(key: str) -> float | None:
            return None if pd.isna(row[key]) else float(row[key])

        return cls(
            criterion=row["criterion"],
            scope=row["scope"],
            seed=None if pd.isna(row["seed"]) else int(row["seed"]),
            sparsity=known("critical_sparsity"),
            low=known("critical_sparsity_low"),
            high=known("critical_sparsity_high"),
            largest=float(row["largest_sparsity"]),
            sure=known("area_low") is not None,  # one sequence gives no interval at all
        )


@dataclass(frozen=True)
class Verdict:
    """What the tickets of one model and text show.

    Attributes:
        model: name of the model.
        data: name of the text.
        evaluated: number of tickets.
        sparsest: highest sparsity (fraction) of any ticket, winning or not.
        winner: the sparsest winning ticket, of several the one that retains most; None if there is none.
        seeds: number of tickets that differ from the winner at most by their seed (0 without a winner).
        seeds_winning: how many of those are winning tickets.
        randoms: number of random tickets at the winner's sparsity, the winner aside.
        random: of those the one that retains most; None if there is none.
        closest: the ticket that retains most; None if none removes weights and has a loss that is a number.
        critical: where the best curve stops winning; None if there are no curves.
        tokens, sequences: what was predicted, and the windows it lies in.
        protocol: how the text became windows.
    """

    model: str
    data: str
    evaluated: int
    sparsest: float
    winner: Ticket | None
    seeds: int
    seeds_winning: int
    randoms: int
    random: Ticket | None
    closest: Ticket | None
    critical: Critical | None
    tokens: int
    sequences: int
    protocol: str


def _wins(ticket: Ticket) -> bool:
    return ticket.performance_retention >= WINNING_RETENTION


def _preference(ticket: Ticket) -> tuple[float, bool, str, str, int]:
    """Sort key of tickets: most retention first; among equals those not random, then by name and seed."""
    seed = -1 if ticket.seed is None else ticket.seed
    return -ticket.performance_retention, ticket.criterion == "random", ticket.criterion, ticket.scope, seed


def _ticket(row: dict[str, Any]) -> Ticket:
    values = {field.name: row[field.name] for field in fields(Ticket)}
    return Ticket(**{**values, "seed": None if pd.isna(row["seed"]) else int(row["seed"])})


def _verdict(model: str, data: str, rows: pd.DataFrame, curves: pd.DataFrame) -> Verdict:
    # A loss that is no number has no place in an order; a mask that removes nothing shows nothing.
    sound = rows[rows["performance_retention"].notna() & (rows["kept"] < rows["total"])]
    tickets = sorted(map(_ticket, sound.to_dict("records")), key=_preference)
    winner = min(filter(_wins, tickets), key=lambda ticket: -ticket.sparsity, default=None)
    alike = [
        ticket
        for ticket in tickets
        if winner
        and (ticket.criterion, ticket.scope, ticket.sparsity) == (winner.criterion, winner.scope, winner.sparsity)
    ]
    randoms = [
        ticket
        for ticket in tickets
        if winner and ticket.criterion == "random" and ticket.sparsity == winner.sparsity and ticket != winner
    ]
    return Verdict(
        model=model,
        data=data,
        evaluated=len(rows),
        sparsest=float(rows["sparsity"].max()),
        winner=winner,
        seeds=len(alike),
        seeds_winning=sum(map(_wins, alike)),
        randoms=len(randoms),
        random=randoms[0] if randoms else None,
        closest=tickets[0] if tickets else None,
        critical=_critical(curves),
        tokens=int(rows["tokens"].max()),
        sequences=int(rows["sequences"].max()),
        protocol=" or ".join(sorted(rows["protocol"].unique())),
    )


def _critical(curves: pd.DataFrame) -> Critical | None:
    """The curve of the largest critical sparsity, of equals the first by name; one that never falls is ahead."""
    if curves.empty:
        return None
    reached = curves["critical_sparsity"].fillna(curves["largest_sparsity"])
    ordered = curves.assign(reached=reached, falls=curves["critical_sparsity"].notna()).sort_values(
        ["reached", "falls", "criterion", "scope", "seed"], ascending=[False, True, True, True, True]
    )
    return Critical.of(ordered.iloc[0].to_dict())


def verdicts(tickets: pd.DataFrame, curves: pd.DataFrame) -> list[Verdict]:
    """Judge the tickets of each model and text, by model and text.

    Args:
        tickets: the tickets table.
        curves: the curves table.
    """
    return [
        _verdict(model, data, rows, curves[(curves["model"] == model) & (curves["data"] == data)])
        for (model, data), rows in tickets.groupby(["model", "data"])
    ]
