"""Any two configurations that differ run again what they touch, and nothing else: over all rules and keys."""

import contextlib
import importlib.util
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from math import ceil
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
import tyro
import yaml
from checkouts import ROOT, plain_environment
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from ltpipe.runtime.labels import pruned_by, recovery_of
from ltpipe.workflow.config import check_config
from ltpipe.workflow.configuration.section import inner_section, keys
from ltpipe.workflow.configuration.study import StudySection
from ltpipe.workflow.configuration.training import TASKS, ArchitectureSection
from ltpipe.workflow.normal_form import ELSEWHERE
from ltpipe.workflow.rules import RULES
from ltpipe.workflow.settings import JobSettings

COMPUTING = frozenset({
    "score", "baseline", "ticket", "perturbed_dense", "perturbed_ticket", "simulation", "dense_responses",
    "ticket_responses",
})  # fmt: skip
TRAINING = frozenset({"rewind_point", "level_mask", "training", "connectivity", "early_bird"})

TOUCHES: dict[str, frozenset[str]] = {
    "models.<name>.source": frozenset({"checkpoint"}),
    "models.<name>.tokenizer": frozenset({"checkpoint"}),
    "models.<name>.dtype": frozenset({"checkpoint"}),
    "models.<name>.prunable": frozenset({"score", "hybrid", "histogram", "perturbed_dense"}),
    "data.<name>": frozenset({"sequences", "calibration", "recovery_text"}),
    "score.sequence_length": frozenset({"calibration"}),
    "score.num_sequences": frozenset({"calibration"}),
    "score.options": frozenset({"score"}),
    "grid.scope_options": frozenset({"mask"}),
    "score.hybrids": frozenset({"hybrid"}),
    "evaluate.sequence_length": frozenset({"sequences"}),
    "evaluate.num_sequences": frozenset({"sequences"}),
    "evaluate.precision": COMPUTING,
    "evaluate.micro_batch": COMPUTING,
    "evaluate.execution": COMPUTING,
    "evaluate.device": COMPUTING,
    "evaluate.top_k": frozenset({"baseline"}),
    "evaluate.tasks.<name>": frozenset({"task_requests", "task_results"}),
    "recover.<name>": frozenset({"recover"}),
    "recover.<name>.tokens": frozenset({"recovery_text", "recover"}),
    "recover.<name>.epochs": frozenset({"recovery_text", "recover"}),
    "recover.<name>.sequence_length": frozenset({"recovery_text", "recover"}),
    "recover.<name>.batch_size": frozenset({"recovery_text", "recover"}),
    "simulation": frozenset({"simulation"}),
    "grid.refine": frozenset({"refinement"}),
    "grid.seeds": frozenset({"refinement"}),
    "imp.<name>.task": frozenset({"task"}),
    "imp.<name>.train": frozenset({"rewind_point", "training", "early_bird"}),
    "imp.<name>.train.trainer_fn": frozenset({"rewind_point", "training"}),
    "imp.<name>.compute": TRAINING,
    "imp.<name>.compute.processes": frozenset({"rewind_point", "training"}),
    "imp.<name>.rewind.step": frozenset({"rewind_point"}),
    "imp.<name>.rewind.mode": frozenset({"training"}),
    "imp.<name>.prune": frozenset({"level_mask"}),
    "imp.<name>.prune.scope": frozenset({"level_mask", "early_bird"}),
    "imp.<name>.prune.exclude": frozenset({"level_mask", "early_bird"}),
    "imp.<name>.branches.gradual": frozenset({"training"}),
    "imp.<name>.branches.distilled": frozenset({"training"}),
    "imp.<name>.early_bird": frozenset({"early_bird"}),
}
"""The rules that a key, or all keys below it, are said to; what reads their results follows. The longest fits."""

AXES = (
    "name", "grid", "score.data", "evaluate.data", "robustness", "imp.<name>.levels", "imp.<name>.replicates",
    "imp.<name>.branches.reinitialised", "imp.<name>.branches.shuffled", "imp.<name>.branches.random",
    "imp.<name>.branches.order", "imp.<name>.branches.transplanted", "imp.<name>.branches.levels",
    "imp.<name>.early_bird.sparsities", "score.settings", "evaluate.settings", "recover.<name>.data",
    "recover.<name>.criteria", "recover.<name>.scopes", "recover.<name>.sparsities", "recover.<name>.control",
)  # fmt: skip
"""Keys that say which jobs there are, not what one of them does; for named settings see tests/dag/test_named_settings.
"""

NO_RESULT = tuple(".".join(path).replace("*", "<name>") for path in ELSEWHERE)
"""Keys that change no result."""

ROUNDING = ("evaluate.micro_batch", "evaluate.execution", "evaluate.device", "imp.<name>.compute.device",
            "imp.<name>.compute.threads", "recover.<name>.compute.device",
            "recover.<name>.compute.threads")  # fmt: skip
"""Keys that change results by float rounding: their jobs run again, but what others read is not refused."""

BASE = {
    "models": {"a": {"source": "m.gguf", "tokenizer": "t"}, "b": {"source": "m.gguf"}},
    "data": {
        "words": {"source": "w.txt"},
        "lit": {"source": "l.txt", "protocol": "wikitext2"},
        "calib": {"source": "c.txt"},
    },
    "grid": {"criteria": ["magnitude", "random", "wanda", "synflow", "mix"], "sparsities": [0.5], "refine": {}},
    "score": {"data": "calib", "hybrids": {"mix": {"snip": 1, "magnitude": 2}}},
    "evaluate": {"tasks": {"mix": {"task": "arc_easy"}}},
    "simulation": {},
    "recover": {
        "lora": {"mode": "lora", "tokens": 5000, "distillation": {}},
        "norms": {"mode": "norms-and-biases", "tokens": 9000, "data": "calib"},
    },
    "robustness": {"perturbations": ["int4"]},
    "imp": {
        "small": {
            "task": {"kind": "images", "model": "lenet-300-100", "source": "d.csv", "validation": 1, "test": 1},
            "train": {"optimizer": "sgd", "learning_rate": 0.1, "iterations": 300, "batch_size": 10},
            "levels": 3,
            "branches": {"order": 1, "gradual": {"end": 200}, "distilled": {}, "transplanted": ["other"]},
            "early_bird": {"sparsities": [0.5]},
        },
        "other": {
            "task": {"kind": "text", "source": "d.txt", "pretrained": "a"},
            "train": {"optimizer": "sgd", "learning_rate": 0.1, "iterations": 300, "batch_size": 10},
            "levels": 3,
        },
    },
}

Job = tuple[str, dict[str, str]]


def jobs() -> Iterator[Job]:
    """At least one job of every rule, of each kind that depends on other keys."""
    for model in "ab":
        yield "refinement", {"model": model, "round": "2"}
        for rule in ("checkpoint", "overlap", "validation", "tables"):
            yield rule, {"model": model}
        yield "calibration", {"model": model, "data": "calib"}
        for criterion in ("wanda", "synflow", "snip"):
            yield "score", {"model": model, "criterion": criterion}
        yield "hybrid", {"model": model, "criterion": "mix"}
        for data in ("words", "lit"):
            for rule in ("sequences", "baseline", "simulation"):
                yield rule, {"model": model, "data": data}
        for rule in ("task_requests", "dense_responses", "task_results"):
            yield rule, {"model": model, "task": "mix"}
        for data in ("words", "lit"):
            yield "perturbed_dense", {"model": model, "data": data, "perturbation": "int4", "perturbation_seed": "none"}
        for criterion in BASE["grid"]["criteria"]:
            drawn = {"model": model, "criterion": criterion, "seed": "none"}
            yield "histogram", drawn
            masked = {**drawn, "scope": "global", "sparsity": "0.5"}
            yield "mask", masked
            yield "mask", {**masked, "scope": "heads"}  # asked for by its name
            yield "smaller", masked
            yield "ticket", {**masked, "data": "words"}
            yield "ticket_responses", {**masked, "task": "mix"}
            for recovery in ("lora", "norms"):
                trained = {**masked, "criterion": f"{criterion}+{recovery}"}
                yield "recovery_text", {"model": model, "data": "calib", "recovery": recovery}
                yield "recover", trained
                yield "ticket", {**trained, "data": "words"}
                yield "ticket_responses", {**trained, "task": "mix"}
            yield (
                "perturbed_ticket",
                {**masked, "data": "lit", "perturbation": "int4", "perturbation_seed": "none"},
            )
    for training in ("small", "other"):
        yield "task", {"training": training}
        yield "rewind_point", {"training": training, "replicate": "0"}
        yield "early_bird", {"training": "small", "replicate": "0", "sparsity": "0.5"}
        for level in "0123":
            place = {"training": training, "replicate": "0", "level": level}
            if level != "0":
                yield "level_mask", place
            yield "training", {**place, "branch": "ticket"}
            for branch in ("order-1", *(["gradual", "distilled", "transplanted-other"] if level != "0" else [])):
                if training == "small":
                    yield "training", {**place, "branch": branch}
        yield "connectivity", {"training": "small", "replicate": "0", "level": "1", "order": "1"}
    yield "report", {}
    yield "plan", {}


JOBS = list(jobs())


@cache
def all_keys() -> dict[str, FieldInfo]:
    """Every key that has a value, with its type and default; those of tasks too."""
    found = [*keys(StudySection), *(key for task in TASKS.values() for key in keys(task, "imp.<name>.task."))]
    return {key.path: key.field for key in sorted(found, key=lambda key: key.path)}


def longest(path: str, table: Any) -> str | None:
    """The entry of a table that is the key or the nearest above it."""
    fitting = [entry for entry in table if path == entry or path.startswith(f"{entry}.")]
    return max(fitting, key=len, default=None)


def test_every_key_is_said_to_rules_or_known_to_say_nothing_to_them():
    unknown = [path for path in all_keys() if not longest(path, (*TOUCHES, *AXES, *NO_RESULT))]
    assert not unknown, (
        f"{', '.join(unknown)}: which jobs does it change? Add it to the rules in src/ltpipe/workflow/rules.py and "
        "to TOUCHES here; to AXES if it says which jobs there are; to ELSEWHERE in "
        "src/ltpipe/workflow/normal_form.py if it "
        "changes no result (docs/extending.md)"
    )


def concrete(path: str, name: str) -> list[str]:
    return path.replace("<name>", name).split(".")


@cache
def base() -> dict[str, Any]:
    """All keys with their values. That sources are there is asked elsewhere."""
    filled = deepcopy(BASE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ltpipe.workflow.config.Source.check", lambda _: None)
        patch.setattr("ltpipe.workflow.checks._apart", lambda *_: True)
        return check_config(filled)


def get(config: Any, path: list[str]) -> Any:
    for part in path:
        config = config[part]
    return config


def put(config: Any, path: list[str], value: Any) -> None:
    get(config, path[:-1])[path[-1]] = value


WORDS = st.sampled_from(["x", "-x", "a b", "*mlp*", "{model}", "it's", "", "\n\n", "1", "None", "auto", "é"])


def values(annotation: Any, path: str, least: float = 0) -> st.SearchStrategy[Any]:
    """What a key accepts, and what looks like another value; numbers are of at least `least`."""
    if isinstance(annotation, FieldInfo):
        return values(annotation.annotation, path, lower_bound(annotation.metadata))
    if get_origin(annotation) is Annotated:
        return values(get_args(annotation)[0], path, lower_bound(get_args(annotation)[1:]))
    if get_origin(annotation) is Literal:
        return st.sampled_from(get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return st.one_of([values(each, path) for each in get_args(annotation)])
    least_count = ceil(least)
    made = {
        NoneType: st.none(),
        bool: st.booleans(),
        int: st.integers(least_count, least_count + 9),
        float: st.sampled_from([least, least + 0.5, least + 1, least + 1.0]),
        str: WORDS,
        list: st.lists(st.integers(0, 9) if path.endswith("milestones") else WORDS, max_size=3),
        dict: st.dictionaries(st.sampled_from(["convolution", "hidden", "output"]), st.sampled_from([0, 0.5, 1])),
    }
    made[ArchitectureSection] = made[dict]
    return made[get_origin(annotation) or annotation]


def lower_bound(metadata: Any) -> float:
    """The least value that a number's constraints allow, or about that."""
    bounds = [getattr(each, name, None) for each in metadata for name in ("ge", "gt")]
    return next((bound for bound in bounds if bound is not None), 0)


def branches_off(field: FieldInfo) -> bool:
    """Whether a key says, by being null, that a kind of job is not there; the keys below it say how it works."""
    return inner_section(field.annotation)[0] not in (None, ArchitectureSection)


ASKED = [
    (concrete(path, name), values(field, path))
    for path, field in all_keys().items()
    for name in (["a", "b"] if path.startswith("models") else ["words", "lit", "calib"] if path.startswith("data")
                 else ["small", "other"] if path.startswith("imp")
                 else ["lora", "norms"] if path.startswith("recover") else ["mix"])
    if (longest(path, AXES) is None or path in ("grid.refine.to", "grid.seeds"))
    and path not in ("score.hybrids", "score.options") and not branches_off(field)
]  # fmt: skip


def there(path: list[str]) -> bool:
    try:
        get(base(), path)
    except (KeyError, TypeError):
        return False
    return True


ASKED = [(path, drawn) for path, drawn in ASKED if there(path) and path[-1] not in ("kind", "pretrained", "protocol")]
HYBRID = (["score", "hybrids", "mix"], st.permutations(["snip", "magnitude", "taylor"]).map(
    lambda names: {names[0]: 1, names[1]: 2}
))  # fmt: skip


OPTIONS = st.sampled_from([
    (["score", "options", "synflow"], {"iterations": 7, "density": 0.01}),
    (["score", "options", "synflow"], {"iterations": 100, "density": 0.5}),
    (["score", "options", "snip"], {"mode": "train"}),
    (["score", "options", "grasp"], {"temperature": 1, "mode": "eval"}),
    (["grid", "scope_options", "global"], {"counts": "truncated"}),
    (["imp", "small", "prune", "options"], {"temperature": 1}),
])  # fmt: skip


@st.composite
def changes(draw: Any) -> dict[str, Any]:
    """A configuration that differs from the base in one key, in several, or in two whose values have changed places."""
    config = deepcopy(base())
    kind = draw(st.sampled_from(["one", "one", "several", "swap", "hybrid", "options"]))
    if kind == "options":
        put(config, *draw(OPTIONS))
        return config
    if kind == "swap":
        first = draw(st.sampled_from([path for path, _ in ASKED]))
        mine = get(config, first)
        others = [path for path, _ in ASKED if path != first and type(get(config, path)) is type(mine)]
        second = draw(st.sampled_from(others or [first]))
        if "recover" in (first[0], second[0]) and 0 in (mine, get(config, second)):
            return config  # of a batch of 0 sequences there are no steps
        put(config, first, get(base(), second))
        put(config, second, mine)
        return config
    chosen = [HYBRID] if kind == "hybrid" else draw(
        st.lists(st.sampled_from(ASKED), min_size=1, max_size=1 if kind == "one" else 4)
    )  # fmt: skip
    for path, value in chosen:
        put(config, path, draw(value))
    return config


def changed_keys(one: Any, other: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Keys with a value of their own that two configurations give other values; 1.0 is 1, and true is not."""
    if isinstance(one, dict) and isinstance(other, dict) and path[:2] != ("score", "hybrids"):
        for name in one.keys() | other.keys():
            yield from changed_keys(one.get(name), other.get(name), (*path, name))
    elif text(one) != text(other):
        yield path


def text(value: Any) -> str:
    whole = json.loads(
        json.dumps(value), parse_float=lambda found: int(float(found)) if float(found) % 1 == 0 else float(found)
    )
    return json.dumps(whole)


def says(path: tuple[str, ...], rule: str, axes: dict[str, str]) -> bool:
    """Whether a changed key is said to a job itself."""
    entry = longest(generic(path), (*TOUCHES, *NO_RESULT))
    if entry is None or rule not in TOUCHES.get(entry, ()):
        return False
    if path[0] == "recover":
        return path[1] == (axes.get("recovery") or recovery_of(axes["criterion"]))
    axis = {"models": "model", "data": "data", "imp": "training"}.get(path[0])
    if axis and axes[axis] != path[1]:
        return False
    if path[1:2] in (("options",), ("scope_options",)):
        return pruned_by(axes["criterion"]) == path[2] if path[0] == "score" else axes["scope"] == path[2]
    if path == ("evaluate", "num_sequences"):
        return axes["data"] != "lit"
    if path[2:3] == ("branches",):
        return axes["branch"] == path[3]
    return path[2:] != ("rewind", "mode") or (axes["level"] != "0" and axes["branch"] != "gradual")


class Touched:
    """Whether changed keys are said to a job, or, but for those of rounding, to one whose results it goes back to."""

    def __init__(self, changed: list[tuple[str, ...]], config: dict[str, Any]) -> None:
        self.changed, self.config = changed, config
        self.exact = [path for path in changed if longest(generic(path), ROUNDING) is None]
        self.known: dict[Any, bool] = {}

    def __call__(self, rule: str, axes: dict[str, str]) -> bool:
        return any(says(path, rule, axes) for path in self.changed) or self.below(rule, axes)

    def below(self, rule: str, axes: dict[str, str]) -> bool:
        place = rule, tuple(sorted(axes.items()))
        if place not in self.known:
            self.known[place] = any(
                any(says(path, *job) for path in self.exact) or self.below(*job)
                for job in RULES[rule].inputs(self.config, axes)
            )
        return self.known[place]


def generic(path: tuple[str, ...]) -> str:
    """A key with `<name>` for names of the user's."""
    if path[:2] == ("evaluate", "tasks"):
        return ".".join((*path[:2], "<name>", *path[3:]))
    return ".".join((path[0], "<name>", *path[2:]) if path[0] in ("models", "data", "imp", "recover") else path)


BEFORE = JobSettings(base())


def recorded(study: JobSettings, rule: str, axes: dict[str, str]) -> str:
    """What Snakemake keeps of a job's one param."""
    return repr(study.of(rule, axes))


@settings(deadline=None, max_examples=50)
@given(other=changes())
def test_what_a_change_touches_runs_again_and_nothing_else(other: dict[str, Any]):
    changed = list(changed_keys(base(), other))
    touched, now = Touched(changed, other), JobSettings(other)
    for rule, axes in JOBS:
        assert (recorded(now, rule, axes) != recorded(BEFORE, rule, axes)) == touched(rule, axes), (rule, axes, changed)


def test_another_calibration_text_is_scored_with_by_criteria_that_need_one():
    other = deepcopy(base())
    other["score"]["data"] = "words"
    for criterion, needed in (("wanda", True), ("synflow", False), ("mix", True)):
        job = "mask", {"model": "a", "criterion": criterion, "scope": "global", "seed": "none", "sparsity": "0.5"}
        assert (recorded(JobSettings(other), *job) != recorded(BEFORE, *job)) == needed


def test_what_a_study_of_200_models_is_made_with_fits_on_a_command_line():
    """Linux takes a shell command of at most 128 KiB, and the report's says the whole configuration besides."""
    config = deepcopy(base())
    config["models"] = {f"model-{number:03}": config["models"]["a"] for number in range(200)}
    config["imp"] = {}
    assert len(JobSettings(config).of("report", {})["made_with"]) < 40 * 1024


RECORDED = """
import inspect, json, re, sys
from pathlib import Path
from snakemake.api import SnakemakeApi
from snakemake.rules import Rule
from snakemake.settings.types import ConfigSettings, OutputSettings, Quietness, ResourceSettings

with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
    workflow = api.workflow(
        ResourceSettings(cores=1), ConfigSettings(configfiles=[Path("study.yaml")]), snakefile=Path(sys.argv[1])
    )._workflow
    found = {}
    for rule in workflow.rules:
        kept = {name: value for name, value in rule.params.items() if not Rule._is_deriving_function(value)}
        told = inspect.getclosurevars(kept["settings"]).nonlocals if "settings" in kept else {}
        script = re.search(r'"[$]LTPIPE/scripts/(\\w+[.]py)"', rule.shellcmd or "")
        found[rule.name] = [sorted(kept), told.get("rule"), script and script[1]]
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Of every rule the params that Snakemake records, what its settings say that it is and runs, and its script."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "w.txt").write_text("words")
    (folder / "study.yaml").write_text(yaml.safe_dump({
        "models": {"a": {"source": "."}},
        "data": {"words": {"source": "w.txt"}},
        "grid": {"criteria": ["magnitude"], "sparsities": [0.5]},
    }))  # fmt: skip
    command = [sys.executable, "-c", RECORDED, ROOT / "Snakefile"]
    done = subprocess.run(command, cwd=folder, env=plain_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[Any]] = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("all") == [[], None, None]
    return found


def test_every_rule_records_its_settings_and_nothing_else(rules: dict[str, list[Any]]):
    """Of several params Snakemake would compare the set of values. A rule that takes over another's names itself."""
    assert rules.keys() == RULES.keys()
    expected = {name: [["settings"], name, f"{rule.script or name}.py"] for name, rule in RULES.items()}
    assert {name: told for name, told in rules.items() if told != expected[name]} == {}


@cache
def help_of(script: str) -> str:
    """What a script says of its options."""
    specification = importlib.util.spec_from_file_location(Path(script).stem, ROOT / "scripts" / script)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit):
        tyro.cli(module.main, args=["--help"], config=(tyro.conf.OmitArgPrefixes,))
    return printed.getvalue()


def test_every_option_is_one_of_the_script_and_comes_from_one_key():
    for rule, axes in JOBS:
        said = [
            name
            for key in RULES[rule].keys
            if (values := {path[-1]: value for path, value in key.values(base(), axes)})
            for name in key.options(values)
        ]
        assert len(said) == len(set(said)), (rule, said)
        known = set(re.findall(r"--([a-z-]+)", help_of(f"{RULES[rule].script or rule}.py"))) if said else set()
        assert {name.replace("_", "-") for name in said} <= known, (rule, said)


PAGE = ROOT / "config/README.md"
FOLLOWS = frozenset({"overlap", "validation", "refinement", "tables", "report"})
"""Rules that the page says follow whatever masks, tickets or trainings are made again."""


def said_to(job: Job, key: str) -> bool:
    """Whether a job is told a setting, and not a more special one below it."""
    rule, axes = job
    paths = (path for each in RULES[rule].keys for path, _ in each.values(base(), axes))
    return any(longest(generic(path), TOUCHES) == key for path in paths)


def made_again(key: str) -> set[str]:
    """Rules with a job that is told a setting, or that reads the results of such a job."""
    known: dict[Any, bool] = {}

    def runs(rule: str, axes: dict[str, str]) -> bool:
        place = rule, frozenset(axes.items())
        if place not in known:
            reads = [runs(*job) for job in RULES[rule].inputs(base(), axes)]
            known[place] = said_to((rule, axes), key) or any(reads)
        return known[place]

    # Beside those above, jobs of the other study that begin with a model, and of a text whose sequences are counted.
    perturbed = {"perturbation": "int4", "perturbation_seed": "none", "seed": "none", "scope": "global"}
    more: list[Job] = [
        ("connectivity", {"training": "other", "replicate": "0", "level": "1", "order": "1"}),
        ("early_bird", {"training": "other", "replicate": "0", "sparsity": "0.5"}),
        ("perturbed_ticket", {"model": "a", "data": "words", "criterion": "wanda", "sparsity": "0.5", **perturbed}),
    ]
    return {rule for rule, axes in [*JOBS, *more] if runs(rule, axes)}


def rows() -> dict[str, set[str]]:
    """The keys of the page's table of settings, and the rules it names for each."""
    table = PAGE.read_text().partition("| setting | jobs that run again |\n")[2].partition("\n\n")[0]
    found = {}
    for line in table.splitlines()[1:]:
        settings, rules = (set(re.findall(r"`([^`]+)`", cell)) for cell in line.strip("|").split("|"))
        found |= dict.fromkeys(settings, rules)
    return found


def test_the_page_names_every_setting_and_what_it_makes_run_again():
    said = rows()
    assert said.keys() == TOUCHES.keys()
    for key, rules in said.items():
        real = made_again(key)
        assert rules - FOLLOWS == real - FOLLOWS - {"smaller"}, key
