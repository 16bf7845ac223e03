"""The inputs and the files of a configuration's report."""

from collections import defaultdict
from collections.abc import Mapping

from ltpipe.pruning.scopes import has_own_sparsity
from ltpipe.reporting.folder import CONFIG, PAGE, PICTURES
from ltpipe.reporting.registry import TABLES
from ltpipe.reporting.table import Need, Stage, Table
from ltpipe.runtime.labels import recovery_of
from ltpipe.workflow import grid, trainings
from ltpipe.workflow.grid import Config

_STAGES: Mapping[Stage, str] = {
    "tables": f"{grid.TABLES}/{{name}}.parquet",
    "overlap": f"{grid.OVERLAP}{{suffix}}",
    "validation": f"{grid.VALIDATION}{{suffix}}",
}
"""Path of a model's table, by the stage that writes it."""


def folder(config: Config) -> str:
    """Return the folder of the report; a study with a name has its own."""
    return f"{grid.REPORT}/{config['name']}" if config["name"] else grid.REPORT


def tables(config: Config) -> list[Table]:
    """Return the tables of the report."""
    has: dict[Need, object] = {
        "anything": True,
        "tickets": config["grid"],
        "perturbations": config["grid"] and config["robustness"]["perturbations"],
        "simulation": config["grid"] and config["simulation"],
        "solvers": config["grid"] and grid.solvers(config),
        "tasks": config["grid"] and config["evaluate"]["tasks"],
        "recoveries": config["grid"] and config["recover"],
        "several models": config["grid"] and len(config["models"]) > 1,
        "trainings": config["imp"],
        "lines": trainings.connectivities(config),
        "early birds": trainings.early_birds(config),
    }
    return [table for table in TABLES if has[table.needs]]


def gathered(config: Config) -> list[str]:
    """Return the names of the tables of all models that the report gathers."""
    written = [
        _STAGES[table.stage].format(model="{model}", name=table.name, suffix=table.suffixes[0])
        for table in tables(config)
        if table.stage
    ]
    return [file for pattern in written for file in grid.models(config, pattern)]


def files(config: Config) -> dict[str, str]:
    """Return the names of the report's files, each with its category in Snakemake's own report; empty for none."""
    shown = {
        name: table.category if table.captioned and name.endswith(".csv") else ""
        for table in tables(config)
        for name in table.files
    }
    drawn = {
        f"{table.figure}{suffix}": table.category if suffix == ".svg" else ""
        for table in figures(config)
        for suffix in PICTURES
    }
    return shown | drawn | {CONFIG: "", PAGE: "The page"}


def figures(config: Config) -> list[Table]:
    """Return the tables that have a figure."""
    tickets = [ticket for ticket in grid.tickets(config) if not recovery_of(ticket.criterion)]
    nothing = {
        "critical": all(has_own_sparsity(ticket.scope) for ticket in tickets),
        "overlap": not _compared(tickets),
    }
    return [table for table in tables(config) if table.figure and not nothing.get(table.figure)]


def _compared(tickets: list[grid.Ticket]) -> bool:
    """Return whether any two masks of one model and sparsity differ only in scope, or only in criterion and seed."""
    alike: defaultdict[tuple[str, ...], set[tuple[str, ...]]] = defaultdict(set)
    for ticket in tickets:
        place, drawn = (ticket.model, ticket.sparsity), (ticket.criterion, ticket.seed)
        alike[*place, "scope", ticket.scope].add(drawn)
        alike[*place, "criterion", *drawn].add((ticket.scope,))
    return any(len(masks) > 1 for masks in alike.values())
