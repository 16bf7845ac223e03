"""Simulations of iterative pruning: one row per iteration."""

from collections.abc import Sequence
from dataclasses import asdict

from ltpipe.evaluation.simulated import SIMULATION, Simulation
from ltpipe.reporting.cells import mebibytes, value
from ltpipe.reporting.table import Table
from ltpipe.reporting.tables.axes import SPARSITY, TEXT
from ltpipe.runtime.frames import Columns, Frame, count, frame, number, truth

COLUMNS: Columns = {
    **TEXT,
    "iteration": count("number of the iteration, from 1"),
    **SPARSITY,
    "kept": count("prunable weights kept"),
    "total": count("prunable weights"),
    "loss": number("loss of the ticket, nats/token"),
    "accuracy": number("accuracy of the ticket, a fraction"),
    "performance_retention": number("dense loss on the same sequences / loss"),
    "winning": truth("whether the ticket wins"),
    "best": truth("whether it is the best ticket of the simulation"),
    "baseline_loss": number("loss of the dense model, on more sequences than the tickets', nats/token"),
    "baseline_sequences": count("sequences that the dense model is measured on"),
    "ticket_sequences": count("sequences that a ticket is measured on"),
    "peak_host_private_bytes": count("peak of main memory without pages of mapped files, bytes"),
    "peak_device_bytes": count("peak of tensors on the accelerator, bytes"),
}


def simulations_table(simulations: Sequence[Simulation]) -> Frame:
    """Return one row per iteration, in the order of the simulations."""
    rows = [
        asdict(found) | asdict(entry) | {"best": entry.iteration == found.best}
        for found in simulations
        for entry in found.iterations
    ]
    return frame(rows, COLUMNS)


TABLE = Table(
    name="simulations",
    of="simulated iterations",
    row="an iteration of a simulation",
    columns=COLUMNS,
    needs="simulation",
    key=(*TEXT, "iteration"),
    stage="tables",
    measured=lambda found: simulations_table(found.simulations),
    title="Simulation of iterative pruning",
    note=f"{SIMULATION[0].upper()}{SIMULATION[1:]} Retention is against the dense model on the same sequences.",
    cells={
        "model": value("model"),
        "text": value("data"),
        "iteration": lambda row: f"{row['iteration']}{' (best)' if row['best'] else ''}",
        "sparsity": value("sparsity", "{:.1%}".format),
        "loss": value("loss", "{:.4f}".format),
        "retention": value("performance_retention", "{:.4f}".format),
        "sequences": value("ticket_sequences"),
        "private memory, MiB": value("peak_host_private_bytes", mebibytes),
    },
    suffixes=(".csv",),
)
