"""What each rule is told, as one value: the keys of the configuration that its jobs depend on, and what follows.

Snakemake compares the set of a job's params, so that values which change places, or become equal, are lost. Hence a
rule has one param, `settings`: the code of its script, its wildcards, the options of its command, and what its results
are made with (`ltpipe.runtime.made_with`), all of them text. The command is made of the same text.

A key of the configuration that a rule is to know is a line in `RULES` (docs/extending.md).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from ltpipe.runtime.sources import Source
from ltpipe.scoring.criterion import scored_criterion
from ltpipe.workflow import grid, refinement, studies
from ltpipe.workflow.arguments import as_options

Config = dict[str, Any]
Axes = Mapping[str, str]
"""Wildcards of a job, by name."""
Path = tuple[str, ...]
"""A key of the configuration, part by part: names may hold dots."""


def _always(_: Config, __: Axes) -> bool:
    return True


def _by_name(values: dict[str, Any]) -> dict[str, Any]:
    return values


def _not_said(_: dict[str, Any]) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Key:
    """A key of the configuration that a rule's jobs depend on.

    Attributes:
        pattern: the key, with wildcards for the names that a job has; `.*` at the end means all keys below.
        when: whether the key says something to a job; where it does not, changing it reruns nothing.
        options: of the command, from values by the last parts of their keys; usually options that are called so too.
        rounding: the key changes no result beyond float rounding: jobs run again, but what is there is not refused.
        without: of the keys below those that say nothing to the rule.
        ordered: the value is a mapping whose order says something: it becomes a list of pairs.
        axis: the value is a list whose order says nothing: it is sorted.
    """

    pattern: str
    when: Callable[[Config, Axes], bool] = _always
    options: Callable[[dict[str, Any]], dict[str, Any]] = _by_name
    rounding: bool = False
    without: frozenset[str] = frozenset()
    ordered: bool = False
    axis: bool = False

    def values(self, config: Config, axes: Axes) -> Iterator[tuple[Path, Any]]:
        """The keys that a job depends on, with the wildcards filled in, and their values."""
        if not self.when(config, axes):
            return
        parts = self.pattern.split(".")
        path = tuple(part.format(**axes) for part in parts)
        below = path[-1] == "*"
        value: Any = config
        for part, name in zip(parts[: -1 if below else None], path, strict=False):
            # What is asked for by its name may be of no cell of the grid, and has no settings of its own there.
            value = value.get(name, {}) if "{" in part else value[name]
        if not below:
            if self.ordered:
                value = [[*pair] for pair in value.items()]
            yield path, _plain(sorted(value) if self.axis else value)
            return
        for name in sorted((value or {}).keys() - self.without):
            yield (*path[:-1], name), _plain(value[name])


Job = tuple[str, Axes]
"""A rule and the axes of one of its jobs."""


def _nothing(_: Config, __: Axes) -> Iterable[Job]:
    return ()


@dataclass(frozen=True)
class Rule:
    """What the jobs of a rule depend on.

    Attributes:
        keys: that the rule itself depends on.
        inputs: the jobs whose results a job reads; what they depend on it depends on too.
    """

    keys: tuple[Key, ...] = ()
    inputs: Callable[[Config, Axes], Iterable[Job]] = _nothing


def _from(*rules: str) -> Callable[[Config, Axes], Iterable[Job]]:
    return lambda _, axes: [(rule, axes) for rule in rules]


def _micro_batch(values: dict[str, Any]) -> dict[str, Any]:
    return {name: 0 if value == "auto" else value for name, value in values.items()}


_PRUNABLE = Key("models.{model}.prunable.*")
_TEXT = Key("data.{data}.*")
_COMPUTING = (
    Key("evaluate.precision"),
    Key("evaluate.micro_batch", options=_micro_batch, rounding=True),
    Key("evaluate.execution", rounding=True),
    Key("evaluate.device", rounding=True),
)
_TRAINING = (
    Key("imp.{study}.compute.device", rounding=True),
    Key("imp.{study}.compute.mixed_precision"),
    Key("imp.{study}.compute.threads", rounding=True),
)
_PROCESSES = Key("imp.{study}.compute.processes", options=_not_said)
_TRAIN = Key("imp.{study}.train.*")


def _scores(config: Config, axes: Axes) -> list[Job]:
    """The scores that a criterion ranks by."""
    if axes["criterion"] in config["score"]["hybrids"]:
        return [("hybrid", axes)]
    return [("score", axes)] if grid.has_scores(config, axes["criterion"]) else []


def _calibration(config: Config, axes: Axes) -> list[Job]:
    needed = scored_criterion(axes["criterion"]).needs_data
    return [("calibration", {**axes, "data": config["score"]["data"]})] if needed else []


def _parts(config: Config, axes: Axes) -> list[Job]:
    """The scores that a hybrid adds up."""
    parts = config["score"]["hybrids"][axes["criterion"]]
    return [("score", {**axes, "criterion": part}) for part in parts if grid.has_scores(config, part)]


def _options(values: dict[str, Any]) -> dict[str, Any]:
    """Options of a criterion or a scope."""
    (given,) = values.values()
    return {"options": given} if given else {}


def _weights(values: dict[str, Any]) -> dict[str, Any]:
    return {"weights": [weight for parts in values.values() for _, weight in parts]}


def _task(values: dict[str, Any]) -> dict[str, Any]:
    """A task's kind, and its other options as JSON."""
    task = values["task"]
    options = {name: value for name, value in task.items() if name not in ("kind", "pretrained")}
    return {"task": task["kind"], "options": json.dumps(options)}


def _pretrained(config: Config, axes: Axes) -> list[Job]:
    model = config["imp"][axes["study"]]["task"].get("pretrained")
    return [("checkpoint", {"model": model})] if model else []


def _has_mode(_: Config, axes: Axes) -> bool:
    """Whether a training rewinds as the study says; some begin with the weights of the step whatever that is."""
    return axes["level"] != "0" and not axes["branch"].startswith(("reinitialised-", "gradual"))


def rewinds_weights(config: Config, axes: Axes) -> bool:
    """Whether a training begins with the weights of the rewinding step."""
    return not _has_mode(config, axes) or config["imp"][axes["study"]]["rewind"]["mode"] == "weights"


def _branch(name: str) -> Key:
    return Key(f"imp.{{study}}.branches.{name}.*", when=lambda _, axes: axes["branch"] == name)


def level_mask_of(config: Config, axes: Axes) -> Axes | None:
    """Study, replicate and level of the mask that a training holds on to; level 0 has none."""
    if axes["level"] == "0":
        return None
    name = axes["branch"].removeprefix("transplanted-")
    if name == axes["branch"]:
        return axes
    replicate = studies.donor(config, axes["study"], axes["replicate"], name)
    return {**axes, "study": name, "replicate": replicate}


def _ticket(axes: Axes, level: int) -> Job:
    return "training", {**axes, "level": str(level), "branch": "ticket"}


def prunes_trained(config: Config, axes: Axes) -> bool:
    """Whether a level ranks the weights that the level before trained, not those that training starts from."""
    return config["imp"][axes["study"]]["prune"]["at"] == "end"


def _before(config: Config, axes: Axes) -> list[Job]:
    """What a level prunes. From the third level on it depends on the same settings."""
    level = min(int(axes["level"]), 2) - 1
    if prunes_trained(config, axes):
        return [("task", axes), _ticket(axes, level)]
    mask: list[Job] = [("level_mask", {**axes, "level": str(level)})] if level else []
    return [("task", axes), ("rewind_point", axes), *mask]


def _learned(config: Config, axes: Axes) -> list[Job]:
    """What a training begins with."""
    jobs: list[Job] = [("task", axes), ("rewind_point", axes)]
    if (mask := level_mask_of(config, axes)) is not None:
        jobs.append(("level_mask", mask))
    if not rewinds_weights(config, axes):
        jobs.append(_ticket(axes, min(int(axes["level"]), 2) - 1))
    return [*jobs, _ticket(axes, 0)] if axes["branch"] == "distilled" else jobs


def _line(_: Config, axes: Axes) -> list[Job]:
    """The two ends of a line."""
    return [("training", {**axes, "branch": branch}) for branch in ("ticket", f"order-{axes['order']}")]


def _simulated(_: Config, axes: Axes) -> list[Job]:
    counted = {"model": axes["model"], "criterion": "magnitude"}
    return [("checkpoint", axes), ("sequences", axes), ("histogram", counted)]


def _tickets(rule: str, config: Config, axes: Axes) -> list[Job]:
    """Jobs of a rule for all tickets of a model; neither seed nor sparsity decides which settings they depend on."""
    cells = {(cell.data, cell.criterion, cell.scope) for cell in grid.tickets(config, axes["model"])}
    names = ("data", "criterion", "scope")
    return [(rule, {"model": axes["model"], **dict(zip(names, cell, strict=True))}) for cell in sorted(cells)]


def _has_controls(config: Config, _: Axes) -> bool:
    return refinement.CONTROL in config["grid"]["criteria"]


def _controls(values: dict[str, Any]) -> dict[str, Any]:
    return {"controls": values["seeds"]}


def _masks(config: Config, axes: Axes) -> list[Job]:
    """Every mask of a model."""
    return _tickets("mask", config, axes) + _refinement(config, axes)


def _refinement(config: Config, axes: Axes) -> list[Job]:
    """What says which tickets there are beside those of the grid."""
    return [("refinement", {"model": axes["model"]})] if config["grid"]["refine"] else []


def _measured(config: Config, axes: Axes) -> list[Job]:
    """Everything that was measured of a model."""
    texts = [{"model": axes["model"], "data": text} for text in grid.evaluated_texts(config)]
    jobs = _tickets("ticket", config, axes) + _refinement(config, axes) + [("baseline", text) for text in texts]
    if grid.perturbations(config):
        jobs += _tickets("perturbed_ticket", config, axes) + [("perturbed_dense", text) for text in texts]
    return jobs + [("simulation", text) for text in texts if config["simulation"] is not None]


def _everything(config: Config, _: Axes) -> list[Job]:
    """All that is reported on."""
    per_model = ("overlap", "validation", "tables")
    jobs: list[Job] = [
        (rule, {"model": model}) for rule in per_model for model in sorted(config["models"]) if config["grid"]
    ]
    jobs += [("training", vars(cell)) for cell in studies.trainings(config)]
    return jobs + [("early_bird", {"study": name}) for name, study in config["imp"].items() if study["early_bird"]]


RULES: Mapping[str, Rule] = {
    "checkpoint": Rule(
        (Key("models.{model}.source"), Key("models.{model}.tokenizer"), Key("models.{model}.dtype")),
    ),
    "sequences": Rule(
        (
            _TEXT,
            Key("evaluate.sequence_length"),
            Key(
                "evaluate.num_sequences",
                # wikitext2 takes all of them, and the command does so where nothing is said.
                when=lambda config, axes: config["data"][axes["data"]]["protocol"] != "wikitext2",
            ),
        ),
        _from("checkpoint"),
    ),
    "calibration": Rule((_TEXT, Key("score.sequence_length"), Key("score.num_sequences")), _from("checkpoint")),
    "score": Rule(
        (
            *_COMPUTING,
            _PRUNABLE,
            Key("score.options.{criterion}", options=_options),
        ),
        lambda config, axes: [("checkpoint", axes), *_calibration(config, axes)],
    ),
    "hybrid": Rule(
        (_PRUNABLE, Key("score.hybrids.{criterion}", options=_weights, ordered=True)),
        lambda config, axes: [("checkpoint", axes), *_parts(config, axes)],
    ),
    "histogram": Rule((_PRUNABLE,), lambda config, axes: [("checkpoint", axes), *_scores(config, axes)]),
    "mask": Rule((Key("grid.scope_options.{scope}", options=_options),), _from("histogram")),
    "baseline": Rule((*_COMPUTING, Key("evaluate.top_k")), _from("checkpoint", "sequences")),
    "ticket": Rule(_COMPUTING, _from("mask", "baseline")),
    "perturbed_dense": Rule((*_COMPUTING, _PRUNABLE), _from("baseline")),
    "perturbed_ticket": Rule(_COMPUTING, _from("mask", "baseline")),
    "simulation": Rule((*_COMPUTING, Key("simulation.*")), _simulated),
    "refinement": Rule(
        (Key("grid.refine.*"), Key("grid.seeds", when=_has_controls, options=_controls, axis=True)),
        partial(_tickets, "ticket"),
    ),
    "overlap": Rule((), _masks),
    "validation": Rule((), _masks),
    "tables": Rule((), _measured),
    "smaller": Rule((), _from("mask")),
    "task": Rule((Key("imp.{study}.task", options=_task),), _pretrained),
    "rewind_point": Rule((_TRAIN, *_TRAINING, _PROCESSES, Key("imp.{study}.rewind.step")), _from("task")),
    "level_mask": Rule((Key("imp.{study}.prune.*"), *_TRAINING), _before),
    "training": Rule(
        (
            _TRAIN,
            *_TRAINING,
            _PROCESSES,
            Key(
                "imp.{study}.rewind.mode",
                when=_has_mode,
                options=lambda values: {"rewind": values["mode"]},
            ),
            _branch("gradual"),
            _branch("distilled"),
        ),
        _learned,
    ),
    "connectivity": Rule(_TRAINING, _line),
    "early_bird": Rule(
        (
            Key("imp.{study}.train.*", without=frozenset({"trainer_fn"})),
            *_TRAINING,
            Key("imp.{study}.prune.scope"),
            Key("imp.{study}.early_bird.*", without=frozenset({"sparsities"})),
        ),
        _from("task"),
    ),
    "report": Rule((), _everything),
    "plan": Rule(),
}
"""Every rule that runs as a job. The report and the plan are told the whole configuration besides."""

_DRAWS = frozenset({"seed", "sparsity", "perturbation", "perturbation_seed", "replicate", "order", "round"})
"""Axes that decide nothing about which keys a job depends on."""


@dataclass(frozen=True, eq=False)
class Settings:
    """The settings of a study's jobs.

    Attributes:
        config: checked, with all defaults.
    """

    config: Config
    _texts: dict[Any, dict[str, str]] = field(default_factory=dict, repr=False)
    _known: dict[Any, dict[Path, Any]] = field(default_factory=dict, repr=False)

    def of(self, rule: str, axes: Axes) -> dict[str, Any]:
        """What a job is told: `axes`, `options` (words of a shell command) and `made_with` (JSON).

        Plain values in one dict, since Snakemake records nothing else (no `Path`, no number of NumPy) and only so
        sees which value is which.
        """
        place = _place(rule, axes)
        if place not in self._texts:
            options: dict[str, Any] = {}
            for key in RULES[rule].keys:
                values = {path[-1]: value for path, value in key.values(self.config, axes)}
                options |= key.options(values) if values else {}
            made_with = json.dumps(self.made_with(rule, axes), ensure_ascii=False)
            self._texts[place] = {"options": as_options(options), "made_with": made_with}
        return {"axes": dict(axes), **self._texts[place]}

    def made_with(self, rule: str, axes: Axes) -> dict[str, Any]:
        """The part of the configuration that the results of a job depend on, what its inputs depend on included.

        Beside a source stands its version, where it has one.
        """
        part: dict[str, Any] = {}
        for path, value in sorted(self._depends_on(rule, axes).items()):
            below = part
            for name in path[:-1]:
                below = below.setdefault(name, {})
            below[path[-1]] = value
        return part

    def _depends_on(self, rule: str, axes: Axes) -> dict[Path, Any]:
        place = _place(rule, axes)
        if place not in self._known:
            found: dict[Path, Any] = {}
            for job in RULES[rule].inputs(self.config, axes):
                found |= self._depends_on(*job)
            for key in RULES[rule].keys:
                if not key.rounding:
                    for path, value in key.values(self.config, axes):
                        found |= {path: _paired(value)} | dict(_versions(path, value))
            self._known[place] = found
        return self._known[place]


def _place(rule: str, axes: Axes) -> tuple[str, frozenset[tuple[str, str]]]:
    return rule, frozenset((name, value) for name, value in axes.items() if name not in _DRAWS)


def _versions(path: Path, value: Any) -> Iterator[tuple[Path, str]]:
    """What pins the content of a source beside its text: the version of a package."""
    if path[0] == "imp" and path[2:] == ("task",):
        yield from _versions((*path[:-1], "source"), value.get("source"))
    elif isinstance(value, str) and path[-1] in ("source", "tokenizer"):
        identity = _identity(value)
        if identity != value:
            yield (*path[:-1], f"{path[-1]} version"), identity.removeprefix(value).strip()


@cache  # of thousands of jobs
def _identity(source: str) -> str:
    return Source(source).identity


def _paired(value: Any) -> Any:
    """A mapping that is a value, not keys of the configuration, as pairs: one that lacks some is another."""
    return [[*pair] for pair in value.items()] if isinstance(value, Mapping) else value


def _plain(value: Any) -> Any:
    """A value as it is compared: 2.0 is 2, and mappings are in the order of their keys."""
    if isinstance(value, Mapping):
        return {name: _plain(value[name]) for name in sorted(value)}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
