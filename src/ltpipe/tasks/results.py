"""The results of a task: metrics of a model and its tickets, document by document, as a JSON file."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import MinLen

from ltpipe.evaluation.metrics import CanonicalSparsity
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import sha256_of
from ltpipe.runtime.progress import track
from ltpipe.runtime.provenance import provenance
from ltpipe.runtime.records import Amount, Count, Positive, Record, Share, Word
from ltpipe.tasks.answers import Responses
from ltpipe.tasks.requests import Requests
from ltpipe.tasks.settings import TaskSettings


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric of a task, for one model.

    Attributes:
        task: name of the task in the harness; a group has several.
        version: the task's version.
        num_fewshot: number of examples before each question.
        metric, filter: names of the metric, and of the filter that responses went through.
        higher_is_better: whether more of it is better.
        value: over all documents.
        stderr: the harness's standard error; None if it has none.
        items: of each document, if the value is their mean; otherwise None.
        documents: number of documents that were asked about.
        available: number of documents that the task has.
        chance: value of random answers, for accuracies of a choice; otherwise None.
    """

    task: Word
    version: Word
    num_fewshot: Count
    metric: Word
    filter: Word
    higher_is_better: bool
    value: float
    stderr: Amount | None
    items: list[float] | None
    documents: Positive
    available: Positive
    chance: Share | None


@dataclass(frozen=True, kw_only=True)
class TaskScore(Score):
    """The same with the ticket's criterion, scope, seed and sparsity; None for the dense model."""

    criterion: Word | None
    scope: Word | None
    seed: Count | None
    sparsity: CanonicalSparsity | None


@dataclass(frozen=True, kw_only=True)
class TaskResults(Record):
    """The results of a task, or of a group of tasks, for a model and its tickets.

    Attributes:
        model, task: names in the configuration.
        limit: number of documents that were asked about at most; None for all.
        scores: metrics of the dense model, then of its tickets.
        provenance: versions, commit, input hashes, settings.
    """

    KIND: ClassVar[str] = "results of a task"
    FORMAT: ClassVar[int] = 1

    model: Word
    task: Word
    limit: Positive | None
    scores: Annotated[list[TaskScore], MinLen(1)]
    provenance: Mapping[str, Any]

    def __str__(self) -> str:
        """Return a one-line summary."""
        tickets = {(score.criterion, score.scope, score.seed, score.sparsity) for score in self.scores}
        metrics = sorted({score.metric for score in self.scores})
        documents = sum({score.task: score.documents for score in self.scores}.values())
        return f"{self.model} on {self.task}: {', '.join(metrics)} of {len(tickets)} models on {documents} documents"


def task_results(
    settings: TaskSettings, requests: Path, responses: Sequence[Path], names: Mapping[str, str]
) -> TaskResults:
    """Compute the metrics of responses to a task's requests.

    Args:
        settings: the task.
        requests: its requests.
        responses: files with the dense model's responses and those of tickets.
        names: names of `model` and `task`.

    Raises:
        UserError: responses belong to other requests or another model, or two are of one ticket.
    """
    from ltpipe.tasks.harness import Scorer

    digest = sha256_of(requests)
    scorer = Scorer(settings, Requests.read(requests))
    scores: list[TaskScore] = []
    found: dict[tuple[Any, ...], Path] = {}
    checkpoints: set[str] = set()
    for path in track(list(responses), "scoring", "ticket"):
        given = Responses.read(path)
        inputs = given.provenance["inputs"]
        checkpoints.add(inputs.get("checkpoint"))
        if inputs.get("requests") != digest or len(checkpoints) > 1:
            raise UserError(f"{path}: responses to other requests, or of another model; run the responses stage again")
        cell = {name: getattr(given, name) for name in ("criterion", "scope", "seed", "sparsity")}
        if (other := found.setdefault(tuple(cell.values()), path)) != path:
            raise UserError(f"{other} and {path}: responses of one ticket; give each once")
        scores += [TaskScore(**cell, **asdict(score)) for score in scorer.scores(given)]
    inputs = {"requests": digest, "checkpoint": checkpoints.pop() if checkpoints else ""}
    return TaskResults(
        model=names["model"],
        task=names["task"],
        limit=settings.limit,
        scores=scores,
        provenance=provenance(inputs, asdict(settings)),
    )
