"""One row per pair of tickets of one sparsity, task and metric."""

from collections.abc import Sequence
from itertools import combinations

from ltpipe.analysis.confidence import bounds
from ltpipe.analysis.items import differ, mcnemar, paired_interval
from ltpipe.reporting.table import Table
from ltpipe.reporting.tables.axes import curve_of, pair_of_tickets
from ltpipe.reporting.tables.tasks import TASK, task_scores
from ltpipe.runtime.frames import Columns, Frame, frame, measured, number, truth
from ltpipe.tasks.results import TaskResults

_PAIR = pair_of_tickets(TASK)
COLUMNS: Columns = {
    **_PAIR,
    **measured("difference", "metric of ticket a minus that of ticket b, paired by document"),
    "p_value": number("exact two-sided p of McNemar's test that both are right equally often, for right and wrong"),
    "significant": truth("whether the two differ: a p below 0.05; where there is no p, an interval that excludes 0"),
}


def task_comparisons_table(found: Sequence[TaskResults]) -> Frame:
    """Return one row per pair of tickets of the same model and sparsity, for metrics that are means over documents."""
    rows = []
    for model, task, metric, scores in task_scores(found):
        for a, b in combinations([score for score in scores.values() if score.sparsity is not None], 2):
            if a.sparsity != b.sparsity or a.items is None or b.items is None:
                continue
            interval, p_value = paired_interval(a.items, b.items), mcnemar(a.items, b.items)
            rows.append(
                {
                    "model": model,
                    "task": task,
                    "metric": metric,
                    "sparsity": float(a.sparsity or 0),
                    **curve_of(a, "_a"),
                    **curve_of(b, "_b"),
                    "difference": a.value - b.value,
                    **bounds("difference", interval),
                    "p_value": p_value,
                    "significant": differ(interval, p_value),
                }
            )
    return frame(rows, COLUMNS)


TABLE = Table(
    name="task_comparisons",
    of="comparisons of tickets in tasks",
    row="a pair of tickets of one sparsity, task and metric",
    columns=COLUMNS,
    needs="tasks",
    key=tuple(_PAIR),
    stage="tables",
    measured=lambda found: task_comparisons_table(found.tasks),
)
