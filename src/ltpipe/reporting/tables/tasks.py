"""What sparsity costs in tasks of lm-evaluation-harness: one row per dense model or ticket, task and metric."""

from collections.abc import Iterator, Sequence
from typing import Any

from ltpipe.analysis.confidence import bounds
from ltpipe.analysis.items import interval_over_tasks, mcnemar, paired_interval
from ltpipe.reporting.cells import MISSING, mask_name, value, with_interval
from ltpipe.reporting.table import Table
from ltpipe.reporting.tables.axes import CURVE, SPARSITY
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.frames import Columns, Frame, count, frame, is_missing, measured, number, truth, word
from ltpipe.tasks.results import TaskResults, TaskScore

TASK: Columns = {
    "model": word("name of the model"),
    "task": word("name of the task, with / and its name in the harness if it is one of a group; or mean over tasks"),
    "metric": word("name of the metric, with a comma and the harness's filter if it is not none"),
}
COLUMNS: Columns = {
    **TASK,
    **CURVE,
    **SPARSITY,
    "higher_is_better": truth("whether more of the metric is better"),
    "value": number("the metric over all documents; of the mean over tasks, each task counts the same"),
    "stderr": number("standard error, as lm-evaluation-harness computes it"),
    "chance": number("the metric of random answers, for accuracies of a choice"),
    "dense_value": number("the metric of the dense model"),
    **measured("difference", "value minus that of the dense model, paired by document"),
    "p_value": number("exact two-sided p of McNemar's test that both are right equally often, for right and wrong"),
    "documents": count("documents that were asked about"),
    "available": count("documents that the task has"),
    "num_fewshot": count("examples before each question"),
    "version": word("version of the task"),
}
MEAN = "mean over tasks"  # no name of a task has a space

Cell = tuple[Any, ...]


def cell_of(score: TaskScore) -> Cell:
    """Return the axes of a ticket, or of the dense model."""
    return score.criterion, score.scope, score.seed, score.sparsity


def task_scores(found: Sequence[TaskResults]) -> Iterator[tuple[str, str, str, dict[Cell, TaskScore]]]:
    """Yield model, task and metric, and the scores of its models: the dense one, and its tickets in a fixed order.

    Raises:
        UserError: results have no dense model, or two are of one task.
    """
    groups: dict[tuple[str, str, str], dict[Cell, TaskScore]] = {}
    for results in sorted(found, key=lambda each: (each.model, each.task)):
        grouped = len({score.task for score in results.scores}) > 1
        for score in results.scores:
            task = f"{results.task}/{score.task}" if grouped else results.task
            metric = score.metric if score.filter == "none" else f"{score.metric},{score.filter}"
            scores = groups.setdefault((results.model, task, metric), {})
            if cell_of(score) in scores:
                raise UserError(f"two results of task {task} for model '{results.model}'; give each once")
            scores[cell_of(score)] = score
    for (model, task, metric), scores in groups.items():
        if _DENSE not in scores:
            raise UserError(f"task {task}: no results of the dense model '{model}'; give them too")
        yield model, task, metric, dict(sorted(scores.items(), key=lambda each: _order(each[0])))


_DENSE: Cell = (None, None, None, None)


def _order(cell: Cell) -> tuple[Any, ...]:
    criterion, scope, seed, sparsity = cell
    return criterion or "", scope or "", -1 if seed is None else seed, float(sparsity or 0)


def tasks_table(found: Sequence[TaskResults]) -> Frame:
    """Return one row per task, metric and model, dense first, and rows of the mean over tasks with the same metric.

    Raises:
        UserError: as `task_scores`.
    """
    rows: list[dict[str, Any]] = []
    together: dict[tuple[str, str], list[dict[Cell, TaskScore]]] = {}
    for model, task, metric, scores in task_scores(found):
        rows += [
            _axes(model, task, metric, cell)
            | {name: getattr(score, name) for name in _AS_THEY_ARE}
            | _against(score, scores[_DENSE])
            for cell, score in scores.items()
        ]
        if all(score.items is not None for score in scores.values()):
            together.setdefault((model, metric), []).append(scores)
    for (model, metric), tasks in together.items():
        cells = set.intersection(*(set(scores) for scores in tasks))
        if len(tasks) > 1:
            rows += [_mean(model, metric, tasks, cell) for cell in sorted(cells, key=_order)]
    return frame(rows, COLUMNS)


_AS_THEY_ARE = ("higher_is_better", "value", "stderr", "chance", "documents", "available", "num_fewshot", "version")


def _axes(model: str, task: str, metric: str, cell: Cell) -> dict[str, Any]:
    criterion, scope, seed, sparsity = cell
    return {
        "model": model, "task": task, "metric": metric, "criterion": criterion, "scope": scope, "seed": seed,
        "sparsity": float(sparsity or 0),
    }  # fmt: skip


def _against(score: TaskScore, dense: TaskScore) -> dict[str, Any]:
    """Return the difference from the dense model; a metric that is no mean over documents has no interval."""
    if score is dense:
        return {"dense_value": dense.value}
    found = {"dense_value": dense.value, "difference": score.value - dense.value}
    if score.items is None or dense.items is None:
        return found
    p_value = mcnemar(score.items, dense.items)
    return found | bounds("difference", paired_interval(score.items, dense.items)) | {"p_value": p_value}


def _mean(model: str, metric: str, tasks: Sequence[dict[Cell, TaskScore]], cell: Cell) -> dict[str, Any]:
    def mean(of: Cell) -> float:
        return sum(scores[of].value for scores in tasks) / len(tasks)

    found = _axes(model, MEAN, metric, cell) | {"value": mean(cell), "dense_value": mean(_DENSE)}
    found["higher_is_better"] = tasks[0][cell].higher_is_better
    chances = [scores[cell].chance for scores in tasks]
    if None not in chances:
        found["chance"] = sum(chance for chance in chances if chance is not None) / len(chances)
    found |= {name: sum(getattr(scores[cell], name) for scores in tasks) for name in ("documents", "available")}
    if cell == _DENSE:
        return found
    pairs = [(scores[cell].items or [], scores[_DENSE].items or []) for scores in tasks]
    return found | {"difference": mean(cell) - mean(_DENSE)} | bounds("difference", interval_over_tasks(pairs))


def _short(found: float) -> str:
    """Show a metric; a perplexity may be huge."""
    return f"{found:.4f}" if abs(found) < 1e4 else f"{found:.1e}"


TABLE = Table(
    name="tasks",
    of="results of tasks",
    row="a dense model or ticket, task and metric",
    columns=COLUMNS,
    needs="tasks",
    key=(*TASK, *CURVE, *SPARSITY),
    stage="tables",
    measured=lambda found: tasks_table(found.tasks),
    title="Tasks",
    note="Metrics of lm-evaluation-harness with its standard errors. The difference from the dense model is paired by "
    "document, with its 95% interval; p is that of McNemar's exact test, for answers that are right or wrong. It "
    "counts where documents are few, for which such intervals are too narrow. Each row "
    "is tested by itself: of twenty tickets as good as the dense model, about one looks different. Chance is the "
    "metric of random answers. Fewer documents than available: the study has a limit.",
    figure="tasks",
    category="Tasks",
    captioned=True,
    cells={
        "model": value("model"),
        "task": value("task"),
        "metric": value("metric"),
        "ticket": lambda row: "dense" if is_missing(row["criterion"]) else mask_name(row),
        "value": lambda row: (
            _short(row["value"]) + ("" if is_missing(row["stderr"]) else f" ± {_short(row['stderr'])}")
        ),
        "chance": value("chance", "{:.3f}".format),
        "difference": with_interval("difference", lambda found: f"+{_short(found)}" if found >= 0 else _short(found)),
        "p": value("p_value", "{:.2g}".format),
        "documents": lambda row: MISSING if is_missing(row["documents"]) else f"{row['documents']}/{row['available']}",
    },
)
