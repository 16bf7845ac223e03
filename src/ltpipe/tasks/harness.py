"""lm-evaluation-harness: it makes the requests of a task, and computes the metrics of their responses.

The harness's own code does both, so prompts, few-shot examples, tokenization, filters, metrics and standard errors are
its own. Between the two, the model answers elsewhere (`ltpipe.tasks.respond`). The harness can also cache answers;
that is never used, since its keys do not name the model.

Import this module only where the harness is installed.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, NoReturn

import lm_eval.api.metrics
import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import TOKENIZER
from ltpipe.runtime.errors import UserError, did_you_mean, first_line
from ltpipe.runtime.sources import Source
from ltpipe.streaming.skeleton import build_skeleton
from ltpipe.tasks.answers import Responses
from ltpipe.tasks.requests import Generation, Requests
from ltpipe.tasks.results import Score
from ltpipe.tasks.settings import TaskSettings

BOOTSTRAPS = 1000
"""Resamples for the harness's standard errors of metrics that are not means."""


def make_requests(settings: TaskSettings, checkpoint: Checkpoint) -> Requests:
    """Return what the harness asks of a model.

    Raises:
        UserError: the harness has no such task, cannot load its documents, asks for more than log-likelihoods and
            greedy continuations, or its metrics cannot be compared document by document.
    """
    from transformers import AutoTokenizer

    tasks = _loaded(settings)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, trust_remote_code=False)
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise UserError(
            f"{checkpoint.folder}: the tokenizer has no BOS or EOS token, which a request without context begins with"
        )
    asking = _Asking(build_skeleton(checkpoint, getattr(torch, checkpoint.precision)), tokenizer)
    found = _evaluated(settings, asking, tasks)
    if not any(score.items is not None for score in found):
        raise UserError(
            f"{settings.task}: no metric is a mean over documents ({', '.join(sorted({s.metric for s in found}))}), "
            "so tickets cannot be compared document by document; choose another task"
        )
    facts = {
        "task": settings.task,
        "tasks": {score.task: score.version for score in found},
        "num_fewshot": settings.num_fewshot,
        "limit": settings.limit,
        "harness": version("lm-eval"),
    }
    return Requests.of(
        asking.windows,
        asking.kinds,
        asking.generations,
        asking.asked.hexdigest(),
        checkpoint.manifest.files[TOKENIZER],
        facts,
    )


class Scorer:
    """Computes the metrics of responses to a task's requests; the task is loaded once.

    Args:
        settings: the task.
        requests: its requests.

    Raises:
        UserError: as `make_requests`.
    """

    def __init__(self, settings: TaskSettings, requests: Requests) -> None:
        self._settings, self._requests = settings, requests
        self._tasks = _loaded(settings)

    def scores(self, responses: Responses) -> list[Score]:
        """Return the metrics of a model's responses.

        Raises:
            UserError: the harness asks something else than when the requests were made.
        """
        telling = _Telling(responses, self._requests)
        found = _evaluated(self._settings, telling, self._tasks)
        if telling.asked.hexdigest() != self._requests.asked:
            raise UserError(
                f"{self._settings.task}: the harness asks something else than when the requests were made; "
                "delete results/tasks/requests and run again"
            )
        return found


class _Asking(HFLM):
    """Writes down the tokens of every request, and answers nothing."""

    def __init__(self, skeleton: Any, tokenizer: Any) -> None:
        with _quiet():
            super().__init__(pretrained=skeleton, tokenizer=tokenizer, backend="causal", batch_size=1)
        self._device = torch.device("cpu")  # tokens have values, unlike the skeleton
        self.windows: list[tuple[int, list[int], int]] = []
        self.kinds: list[tuple[str, int]] = []
        self.generations: list[Generation] = []
        self.asked = hashlib.sha256()
        self._request = 0

    def loglikelihood(self, requests: Sequence[Instance], **_: Any) -> list[tuple[float, bool]]:
        return self._each("loglikelihood", requests, super().loglikelihood)

    def loglikelihood_rolling(self, requests: Sequence[Instance], **_: Any) -> list[float]:
        return self._each("loglikelihood_rolling", requests, super().loglikelihood_rolling)

    def generate_until(self, requests: Sequence[Instance], **_: Any) -> list[str]:
        return self._each("generate_until", requests, super().generate_until)

    def _each(self, kind: str, requests: Sequence[Instance], ask: Any) -> list[Any]:
        """Ask one request after the other, so that each knows its windows."""
        self.kinds.append((kind, len(requests)))
        answers = []
        for request in requests:
            _write_down(self.asked, request)
            answers += ask([request], disable_tqdm=True)
            self._request += 1
        return answers

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        for _text, context, continuation in requests:
            tokens = (list(context) + list(continuation))[-(self.max_length + 1) :]
            if not context or not continuation or len(continuation) >= len(tokens):
                raise UserError(
                    f"a request of {len(continuation)} tokens to predict after {len(context)} does not fit the model's "
                    f"{self.max_length}; choose another task"
                )
            self.windows.append((self._request, tokens, len(continuation)))
        return [(0.0, False)] * len(requests)

    def _model_generate(self, context: Any, max_length: int, stop: list[str], **options: Any) -> Any:
        if options.get("do_sample") or options.get("temperature") or options.get("num_beams", 1) != 1:
            raise UserError("the task samples its answers; only greedy generation (do_sample: false) is supported")
        self.windows.append((self._request, context[0].tolist(), 0))
        self.generations.append(Generation(tuple(stop), max_length - context.shape[1]))
        return context


class _Telling(LM):
    """Gives the responses in the order in which the requests were made."""

    def __init__(self, responses: Responses, requests: Requests) -> None:
        super().__init__()
        self._answers = iter(zip(responses.loglikelihoods, responses.greedy, strict=True))
        self._texts = iter(responses.texts)
        self._kinds = iter(requests.kinds)
        self.asked = hashlib.sha256()

    def loglikelihood(self, requests: Sequence[Instance], **_: Any) -> list[tuple[float, bool]]:
        return self._each("loglikelihood", requests)

    def loglikelihood_rolling(self, requests: Sequence[Instance], **_: Any) -> list[float]:
        return [loglikelihood for loglikelihood, _ in self._each("loglikelihood_rolling", requests)]

    def generate_until(self, requests: Sequence[Instance], **_: Any) -> list[str]:
        return [next(self._texts) for _ in self._each("generate_until", requests)]

    def _each(self, kind: str, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        if next(self._kinds, None) != (kind, len(requests)):
            return [(0.0, False)] * len(requests)  # what was asked differs too, which is reported
        for request in requests:
            _write_down(self.asked, request)
        return [next(self._answers) for _ in requests]


def _write_down(asked: Any, request: Instance) -> None:
    text = json.dumps([request.request_type, request.task_name, request.doc_id, request.idx, request.args], default=str)
    asked.update(text.encode())


def _manager(settings: TaskSettings) -> TaskManager:
    if settings.folder is None:
        with _quiet():
            return TaskManager()
    with _quiet():  # without the harness's own thousands of files, which take ten seconds to list
        return TaskManager(include_path=str(Source(settings.folder, "folder").path), include_defaults=False)


def _loaded(settings: TaskSettings) -> Any:
    """Return the tasks as the harness's command loads them."""
    manager = _manager(settings)
    if settings.task not in manager.all_tasks:
        hint = did_you_mean(settings.task, manager.all_tasks)
        where = settings.folder or f"lm-evaluation-harness {version('lm-eval')}"
        raise UserError(f"'{settings.task}' is not a task of {where}{hint}")
    try:
        with _quiet():
            tasks = manager.load([settings.task])
    except UserError:
        raise
    except Exception as error:  # data sets and a folder's own code raise anything
        _refuse(f"{settings.task}: the harness cannot load it", error, "it needs the Hub or its cache, and valid YAML")
    for task in tasks["tasks"].values():
        if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
            raise UserError(f"{settings.task}: it runs generated code or needs images or sound; choose another task")
        given = task.get_config("num_fewshot")
        if settings.num_fewshot is None or given == 0:
            task.set_config(key="num_fewshot", value=given or 0)
        else:
            task.set_config(key="num_fewshot", value=settings.num_fewshot)
        if settings.num_fewshot and given == 0:
            raise UserError(f"{settings.task}: the task fixes num_fewshot to 0; remove the key")
    return tasks


def _refuse(what: str, error: Exception, advice: str) -> NoReturn:
    raise UserError(f"{what} ({type(error).__name__}: {first_line(error)}); {advice}") from None


def _evaluated(settings: TaskSettings, model: LM, tasks: Any) -> list[Score]:
    """Return the metrics of the harness for a model, whose answers may be empty."""
    for task in tasks["tasks"].values():
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)  # each time: drawing examples goes on where it ended
    try:
        with _quiet():
            found = evaluate(
                lm=model,
                task_dict=tasks,
                limit=settings.limit,
                bootstrap_iters=0 if isinstance(model, _Asking) else BOOTSTRAPS,
            )
    except UserError:
        raise
    except Exception as error:
        _refuse(f"{settings.task}: the harness cannot evaluate it", error, "check its YAML, or choose another task")
    return [score for name, task in sorted(tasks["tasks"].items()) for score in _scores(name, task, found)]


def _scores(name: str, task: Any, found: Mapping[str, Any]) -> Iterator[Score]:
    samples = found["samples"][name]
    for key, value in found["results"][name].items():
        metric, comma, kept = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        chosen = [sample for sample in samples if sample["filter"] == kept and metric in sample]
        stderr = found["results"][name].get(f"{metric}_stderr,{kept}")
        yield Score(
            task=name,
            version=str(found["versions"].get(name)),
            num_fewshot=int(found["n-shot"].get(name) or 0),
            metric=metric,
            filter=kept,
            higher_is_better=found["higher_is_better"][name].get(metric) is not False,
            value=float(value),
            stderr=float(stderr) if isinstance(stderr, int | float) and np.isfinite(stderr) else None,
            items=_items(task, metric, chosen),
            documents=len({sample["doc_id"] for sample in chosen}),
            available=int(found["n-samples"][name]["original"]),
            chance=_chance(task, metric, chosen),
        )


def _items(task: Any, metric: str, samples: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """Return the metric of each document, if the task's value is their mean."""
    values = [sample[metric] for sample in samples]
    is_mean = task.aggregation().get(metric, lm_eval.api.metrics.mean) is lm_eval.api.metrics.mean
    numbers = all(isinstance(value, int | float | np.number) for value in values)
    return [float(value) for value in values] if is_mean and numbers and values else None


def _chance(task: Any, metric: str, samples: Sequence[Mapping[str, Any]]) -> float | None:
    if task.OUTPUT_TYPE != "multiple_choice" or not metric.startswith("acc") or not samples:
        return None
    return float(np.mean([1 / len(task.doc_to_choice(sample["doc"])) for sample in samples]))


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave the log to the stage's own lines."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "transformers")]
    before = [each.level for each in loggers]
    try:
        for each in loggers:
            each.setLevel(logging.ERROR)
        yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)
