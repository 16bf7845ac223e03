"""JSON artefacts: metrics, records, manifests, plans. Each is read as strictly as by its own reader."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ltpipe.checkpoints.manifest import Manifest
from ltpipe.evaluation.metrics import Metrics
from ltpipe.inspection.description import Description, Listing, describe_file
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.jsonfiles import read_json
from ltpipe.runtime.records import Record


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
    kind = "metrics of a ticket" if found.sparsity is not None else "metrics of a dense model"
    facts = {field.name: getattr(found, field.name) for field in fields(found)}
    return _described(path, kind, facts, ("sequence_sums", "provenance", "planned_parts"), found.provenance)


def _simulation(path: Path) -> Description:
    from ltpipe.evaluation.simulated import Simulation

    facts = asdict(Simulation.read(path))
    rows = Listing.of("iterations", facts["iterations"])
    return _described(path, "simulation of iterative pruning", facts, ("iterations", "provenance"), {}, rows)


def _learning(path: Path) -> Description:
    from ltpipe.training.record import LearningRecord

    return _record(path, LearningRecord, "validation curve", "iterations", "validation_losses", "validation_accuracies")


def _connectivity(path: Path) -> Description:
    from ltpipe.training.connectivity import Connectivity

    return _record(path, Connectivity, "line", "alphas", "errors")


def _early_bird(path: Path) -> Description:
    from ltpipe.analysis.early_bird import EarlyBird

    return _record(path, EarlyBird, "distances", "iterations", "distances")


def _refinement(path: Path) -> Description:
    from ltpipe.workflow.grid import Ticket
    from ltpipe.workflow.refinement import Refinement

    found = Refinement.read(path)
    rows = Listing.of("tickets", (vars(Ticket(*cell)) for cell in found.tickets))
    return _described(path, found.KIND, asdict(found), ("tickets",), {}, rows)


def _responses(path: Path) -> Description:
    from ltpipe.tasks.answers import Responses

    found = Responses.read(path)
    pairs = zip(found.loglikelihoods, found.greedy, strict=True)
    rows = Listing.of("responses", ({"loglikelihood": value, "greedy": greedy} for value, greedy in pairs))
    left_out = ("loglikelihoods", "greedy", "texts", "provenance")
    return _described(path, found.KIND, found.content(), left_out, found.provenance, rows)


def _task_results(path: Path) -> Description:
    from ltpipe.tasks.results import TaskResults

    found = TaskResults.read(path)
    kept = ("task", "metric", "criterion", "scope", "seed", "sparsity", "value", "stderr", "chance", "documents")
    rows = Listing.of("scores", ({name: getattr(score, name) for name in kept} for score in found.scores))
    return _described(path, found.KIND, found.content(), ("scores", "provenance"), found.provenance, rows)


def _record(path: Path, kind: type[Record], title: str, *columns: str) -> Description:
    """Describe a record with columns of equal length."""
    facts = kind.read(path).content()
    points = zip(*(facts[column] for column in columns), strict=True)
    rows = Listing.of(title, (dict(zip(columns, point, strict=True)) for point in points))
    provenance = facts.get("provenance", {})
    return _described(path, kind.KIND, facts, (*columns, "provenance"), provenance, rows)


def _described(
    path: Path,
    kind: str,
    facts: Mapping[str, Any],
    left_out: tuple[str, ...],
    provenance: Mapping[str, Any],
    *listings: Listing,
) -> Description:
    """Describe an artefact without some of its facts, but with the inputs and code of its provenance."""
    inputs = {f"input {name}": value for name, value in provenance.get("inputs", {}).items()}
    code = {name: provenance[name] for name in ("ltpipe", "git_commit", "created") if name in provenance}
    shown = {name: value for name, value in facts.items() if name not in left_out}
    return describe_file(path, kind, shown | inputs | code, *listings)


def _plan(path: Path) -> Description:
    from ltpipe.workflow.plan import StudyPlan

    found = StudyPlan.read(path)
    kept = ("stage", "model", "data", "jobs", "host", "disk", "problem")
    rows = ({name: getattr(stage, name) for name in kept} | {"device": stage.device.total} for stage in found.stages)
    return describe_file(path, found.KIND, {"fits": found.fits}, Listing.of("stages, bytes", rows))


def _recovery(path: Path) -> Description:
    from ltpipe.recovery.record import RecoveryRecord

    found = RecoveryRecord.read(path)
    facts = {name: value for name, value in vars(found).items() if name != "provenance"}
    inputs = {f"{name} sha256": value for name, value in found.provenance["inputs"].items()}
    return describe_file(path, found.KIND, facts | inputs)


_KINDS: Mapping[str, Callable[[Path], Description]] = {
    "learning record": _learning,
    "linear connectivity": _connectivity,
    "early-bird detection": _early_bird,
    "simulation of iterative pruning": _simulation,
    "refinement": _refinement,
    "recovery record": _recovery,
    "plan": _plan,
    "set of responses": _responses,
    "results of a task": _task_results,
}
_UNNAMED = (
    ({"fingerprint", "tensors"}, describe_checkpoint),
    ({"performance_retention"}, _metrics),
)
"""Files that do not state their kind, by keys unique to them."""
