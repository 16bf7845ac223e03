"""JSON artefacts: metrics, records, manifests, plans. Each is read as strictly as by its own reader."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ltpipe.checkpoints.manifest import Manifest
from ltpipe.evaluation.metrics import Metrics
from ltpipe.inspection.description import Description, Listing, describe_file
from ltpipe.runtime.errors import MEND, DamagedFileError, UserError
from ltpipe.runtime.jsonfiles import read_json, read_record


def describe_json(path: Path) -> Description:
    """Describe a JSON file.

    Raises:
        UserError: the file is not an artefact of ltpipe, or it is damaged.
    """
    content = read_json(path)
    if content.get("kind") in _KINDS:
        return _KINDS[content["kind"]](path)
    for keys, describe in _UNNAMED:
        if keys <= content.keys():
            return describe(path)
    raise UserError(f"{path}: JSON, but not an artefact of ltpipe")


def describe_checkpoint(manifest: Path) -> Description:
    """Describe a canonical checkpoint folder by its manifest."""
    found = Manifest.read(manifest)
    facts = {
        "architecture": found.architecture,
        "source": found.source,
        "fingerprint": found.fingerprint,
        "parameters": found.parameters,
        "bytes": found.nbytes,
        "dtypes": sorted({entry.dtype for entry in found.tensors.values()}),
        "blocks": [found.blocks, *found.further],
        "tied": [f"{alias} = {name}" for alias, name in sorted(found.tied.items())],
    }
    rows = (
        {"tensor": name, "module": entry.module, "dtype": entry.dtype, "shape": " × ".join(map(str, entry.shape))}
        for name, entry in found.tensors.items()
    )
    left_out = ({"tensors": pattern, "because": reason} for pattern, reason in found.left_out().items())
    return describe_file(
        manifest.parent,
        "checkpoint",
        facts,
        Listing.of("left out of pruning", left_out),
        Listing.of("tensors", rows),
    )


def _metrics(path: Path) -> Description:
    found = Metrics.read(path)
    left_out = ("sequence_sums", "provenance", "planned_parts")
    facts = {field.name: getattr(found, field.name) for field in fields(found) if field.name not in left_out}
    kind = "metrics of a ticket" if found.sparsity is not None else "metrics of a dense model"
    return describe_file(path, kind, facts | _origin(found.provenance))


def _simulation(path: Path) -> Description:
    from ltpipe.evaluation.simulated import Simulation

    found = Simulation.read(path)
    facts = {name: value for name, value in asdict(found).items() if name not in ("iterations", "provenance")}
    rows = (asdict(iteration) for iteration in found.iterations)
    return describe_file(path, "simulation of iterative pruning", facts, Listing.of("iterations", rows))


def _learning(path: Path) -> Description:
    from ltpipe.training.record import LearningRecord

    found = LearningRecord.read(path)
    curve = ("iterations", "validation_losses", "validation_accuracies")
    rows = (
        dict(zip(curve, point, strict=True)) for point in zip(*(getattr(found, each) for each in curve), strict=True)
    )
    return _record(path, found, (*curve, "provenance"), Listing.of("validation curve", rows))


def _connectivity(path: Path) -> Description:
    from ltpipe.training.connectivity import Connectivity

    found = Connectivity.read(path)
    rows = ({"alpha": alpha, "error": error} for alpha, error in zip(found.alphas, found.errors, strict=True))
    return _record(path, found, ("alphas", "errors"), Listing.of("line", rows))


def _early_bird(path: Path) -> Description:
    from ltpipe.analysis.early_bird import EarlyBird

    found = EarlyBird.read(path)
    rows = ({"iteration": at, "distance": far} for at, far in zip(found.iterations, found.distances, strict=True))
    return _record(path, found, ("iterations", "distances"), Listing.of("distances", rows))


def _refinement(path: Path) -> Description:
    from ltpipe.workflow.grid import Ticket
    from ltpipe.workflow.refinement import Refinement

    found = Refinement.read(path)
    return _record(path, found, ("tickets",), Listing.of("tickets", (vars(Ticket(*cell)) for cell in found.tickets)))


def _record(path: Path, found: Any, left_out: tuple[str, ...], *listings: Listing) -> Description:
    facts = {name: value for name, value in asdict(found).items() if name not in left_out}
    return describe_file(path, found.KIND, facts | _origin(getattr(found, "provenance", {})), *listings)


def _plan(path: Path) -> Description:
    content = read_record(path)
    try:
        rows = [
            {key: stage[key] for key in ("stage", "model", "data", "jobs", "host", "disk", "problem")}
            | {"device": stage["device"]["total"]}
            for stage in content["stages"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedFileError(f"{path}: damaged plan ({type(error).__name__}: {error}); {MEND}") from None
    return describe_file(path, "plan", {"fits": content["fits"]}, Listing.of("stages, bytes", rows))


_KINDS: Mapping[str, Callable[[Path], Description]] = {
    "learning record": _learning,
    "linear connectivity": _connectivity,
    "early-bird detection": _early_bird,
    "simulation of iterative pruning": _simulation,
    "refinement": _refinement,
}
_UNNAMED = (
    ({"fingerprint", "tensors"}, describe_checkpoint),
    ({"performance_retention"}, _metrics),
    ({"fits", "stages"}, _plan),
)
"""Files that do not state their kind, by keys unique to them."""


def _origin(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a provenance that identify inputs and code."""
    inputs = provenance.get("inputs", {})
    said = {f"input {name}": value for name, value in inputs.items()}
    return said | {name: provenance[name] for name in ("ltpipe", "git_commit", "created") if name in provenance}
