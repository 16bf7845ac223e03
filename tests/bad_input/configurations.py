"""Configurations that cannot be run, as files."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import yaml
from bad_input.case import Case
from bad_input.study import Study

CHECK = "check --config %c.yaml"
HERE = "%c.yaml: "


def sound(study: Study) -> dict:
    """A configuration that is accepted."""
    return {
        "models": {"tiny": {"source": str(study / "source")}},
        "data": {"words": {"source": str(study / "text.txt")}},
        "grid": {"criteria": ["magnitude"], "sparsities": [0.5]},
        "evaluate": {"sequence_length": 16, "num_sequences": 4},
    }


def trained(study: Study) -> dict:
    """A study of training that is accepted."""
    task = {"kind": "images", "model": "lenet-300-100", "source": str(study / "images.csv"), "validation": 8, "test": 8}
    train = {"optimizer": "sgd", "learning_rate": 0.1, "iterations": 4, "batch_size": 4}
    return {"imp": {"small": {"task": task, "train": train, "levels": 1, "compute": {"device": "cpu"}}}}


def raw(content: str | bytes, *words: str) -> Case:
    """A file of this content."""
    given = content if isinstance(content, bytes) else content.encode()
    return Case("ltpipe", CHECK, words, lambda here, study: (here / "c.yaml").write_bytes(given))


def changed(place: str, value: object, *words: str, base: Callable[[Study], dict] = sound) -> Case:
    """A sound configuration with one key, given by its path, set."""

    def make(here: Path, study: Study) -> None:
        config = node = base(study)
        *parents, last = place.split("/")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
        (here / "c.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))

    return Case("ltpipe", CHECK, words, make)


def written(key: str, text: str, *words: str) -> Case:
    """A sound configuration with the text of YAML behind a key of its own."""
    return Case(
        "ltpipe",
        CHECK,
        words,
        lambda here, study: (here / "c.yaml").write_text(f"{json.dumps(sound(study))[:-1]}, {key}: {text}}}"),
    )


def name(value: str) -> Case:
    return changed("models", {value: {"source": "x"}}, "models: ", "letters, digits, '.', '_' and '-'")


LAUGHS = "\n".join(["a0: &a0 [ha, ha]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)])

CONFIGURATIONS = {
    "yaml-absent": Case("ltpipe", CHECK, (HERE + "no such file",)),
    "yaml-is-a-folder": Case("ltpipe", CHECK, (HERE + "is a folder",), lambda h, s: (h / "c.yaml").mkdir()),
    "yaml-is-a-fifo": Case("ltpipe", CHECK, (HERE + "is a pipe",), lambda h, s: os.mkfifo(h / "c.yaml")),
    "yaml-is-a-symlink-loop": Case(
        "ltpipe", CHECK, (HERE + "no such file",), lambda h, s: (h / "c.yaml").symlink_to(h / "c.yaml")
    ),
    "yaml-of-an-open-bracket": raw("models: [", HERE + "not YAML", "line 1"),
    "yaml-of-tabs": raw("models:\n\ttiny: 1\n", HERE + "not YAML", "line 2"),
    "yaml-latin-1": raw("models: {ä: 1}".encode("latin-1"), HERE + "not YAML"),
    "yaml-utf16": raw("models: {a: 1}".encode("utf-16"), HERE + "not YAML"),
    "yaml-of-nul-bytes": raw(bytes(100), HERE + "not YAML"),
    "yaml-of-control-characters": raw("models: \x07", HERE + "not YAML"),
    "yaml-empty": raw("", HERE + "not a mapping"),
    "yaml-is-a-list": raw("[1, 2]", HERE + "not a mapping"),
    "yaml-is-a-word": raw("models", HERE + "not a mapping"),
    "yaml-of-two-documents": raw("models: {}\n---\ndata: {}\n", HERE + "not YAML", "another document"),
    "yaml-of-an-unknown-anchor": raw("models: *x", HERE + "not YAML", "undefined alias"),
    "yaml-of-a-key-twice": raw("threads: 1\nthreads: 2\n", HERE + "not YAML", "'threads' appears twice", "line 2"),
    "yaml-of-a-key-twice-below": raw(
        "grid:\n  seeds: [0]\n  seeds: [1]\n", HERE + "not YAML", "'seeds' appears twice", "line 3"
    ),
    "yaml-of-code": raw("models: !!python/object/apply:os.system ['true']", HERE + "not YAML", "python/object"),
    "yaml-of-a-python-name": raw("models: !!python/name:os.system", HERE + "not YAML", "python/name"),
    "yaml-is-a-program": raw("__use_yte__: true\nthreads: ?1+1\n", HERE, "__use_yte__", "program"),
    "yaml-of-a-billion-laughs": raw(LAUGHS, HERE, "more than 1,000,000 values"),
    "yaml-of-itself": raw("models: &m {tiny: *m}", HERE, "nested too deeply"),
    "yaml-of-a-list-of-itself": raw("models: &m [*m]", HERE, "nested too deeply"),
    "yaml-nested-deeply": raw("models: " + "[" * 3000 + "]" * 3000, HERE, "nested too deeply"),
    "yaml-nested-a-hundred-times": raw("models: " + "[" * 100 + "]" * 100, HERE, "nested too deeply"),
    "yaml-of-a-date": written("threads", "2020-01-01", HERE, "threads: '2020-01-01' is a date", "quotes"),
    "yaml-of-bytes": written("threads", "!!binary aGk=", HERE, "threads: ", "bytes"),
    "yaml-of-a-set": written("threads", "!!set {a, b}", HERE, "threads: ", "set"),
    "yaml-of-number-keys": written("data2", "{1: 2}", "1", "is a key that is not text"),
    "yaml-of-a-null-key": written("data2", "{~: 2}", "is a key that is not text"),
    "yaml-of-a-list-for-a-key": raw("? [1, 2]\n: 3\n", HERE + "not YAML"),
    "yaml-of-nul-in-text": written("data2", '"a\\0b"', "data2: ", "NUL"),
    "yaml-of-half-a-surrogate": written("data2", '"\\uD800"', "data2: ", "surrogate"),
    "yaml-of-a-huge-number": written("threads", "9" * 5000, HERE),
    "yaml-of-merged-keys-that-are-unknown": raw("a: &a {zork: 1}\ngrid: {<<: *a}\n", "unknown key 'a'"),
    "json-truncated": raw('{"models": {"a": ', HERE + "not YAML"),
    "key-unknown": changed("zork", 1, "configuration: unknown key 'zork'", "use data, evaluate"),
    "key-misspelt": changed("grid/sparsity", [1], "grid: unknown key 'sparsity'", "did you mean 'sparsities'"),
    "section-is-a-list": changed("models", [1], "models: [1] is not allowed"),
    "section-is-text": changed("grid", "all", "grid: 'all' is not allowed"),
    "section-is-null": changed("evaluate", None, "evaluate: None is not allowed"),
    "sparsity-is-text": changed("grid/sparsities", ["0.5"], "grid.sparsities[0]: '0.5'", "numbers from 0 to 1"),
    "sparsity-in-percent": changed(
        "grid/sparsities", [50], "grid.sparsities[0]: sparsity 50 is not allowed; use", "did you mean 0.5?"
    ),
    "sparsity-5e-1-is-text-to-yaml": Case(
        "ltpipe",
        CHECK,
        ("grid.sparsities[0]: '5e-1' is not allowed (YAML reads it as text; write 0.5)", "numbers from 0 to 1"),
        lambda here, study: (here / "c.yaml").write_text(
            yaml.safe_dump({**sound(study), "grid": {"criteria": ["magnitude"], "sparsities": ["X"]}}).replace(
                "X", "5e-1"
            )
        ),
    ),
    "sparsity-is-nan": changed("grid/sparsities", [float("nan")], "grid.sparsities[0]: nan", "finite"),
    "sparsity-is-infinite": changed("grid/sparsities", [float("-inf")], "grid.sparsities[0]: -inf", "finite"),
    "sparsity-is-true": changed("grid/sparsities", [True], "grid.sparsities[0]: True", "numbers from 0 to 1"),
    "sparsity-of-300-decimals": changed("grid/sparsities", [1e-300], "grid.sparsities[0]: ", "at most 40 decimals"),
    "sparsity-denormal": changed("grid/sparsities", [5e-324], "grid.sparsities[0]: ", "at most 40 decimals"),
    "sparsity-twice-in-two-forms": changed("grid/sparsities", [0.5, 0.50], "grid.sparsities: 0.5 appears twice"),
    "sparsity-zero-and-minus-zero": changed("grid/sparsities", [0.0, -0.0], "grid.sparsities: ", "twice"),
    "sparsity-is-a-list": changed("grid/sparsities", [[0.5]], "grid.sparsities[0]: [0.5]"),
    "sparsities-are-a-number": changed("grid/sparsities", 0.5, "grid.sparsities: 0.5 is not allowed"),
    "refine-is-too-narrow": changed("grid/refine", {"to": 0.0001}, "grid.refine.to: 0.0001", "from 0.001 to 1"),
    "refine-is-true": changed("grid/refine", True, "grid.refine: True", "null for none"),
    "seed-is-huge": changed("grid/seeds", [10**300], "grid.seeds[0]: ", "63 bits"),
    "seed-is-true": changed("grid/seeds", [True], "grid.seeds[0]: True"),
    "seed-is-a-fraction": changed("grid/seeds", [0.5], "grid.seeds[0]: 0.5"),
    "name-above": name(".."),
    "name-of-a-path": name("../../x"),
    "name-absolute": name("/etc/passwd"),
    "name-of-a-dot": name("."),
    "name-empty": name(""),
    "name-hidden": name(".snakemake"),
    "name-of-a-dash": name("-rf"),
    "name-of-a-space": name("a b"),
    "name-of-a-shell": name("$(touch x)"),
    "name-of-a-semicolon": name("a;b"),
    "name-of-braces": name("{model}"),
    "name-of-a-line-break": name("tiny\n"),
    "name-of-two-lines": name("tiny\ntiny"),
    "name-of-unicode": name("modèle"),
    "name-of-unicode-digits": name("٣"),
    "name-of-101-characters": name("m" * 101),
    "data-name-of-a-line-break": changed("data", {"words\n": {"source": "x"}}, "data: ", "letters"),
    "study-name-above": changed("imp", {"../x": trained(Study(Path()))["imp"]["small"]}, "imp: ", "letters"),
    "hybrid-name-above": changed("score/hybrids", {"../x": {"snip": 1, "taylor": 1}}, "score.hybrids: "),
    "source-empty": changed("models/tiny/source", "", "models.tiny.source: ''"),
    "source-is-a-number": changed("models/tiny/source", 3, "models.tiny.source: 3"),
    "source-of-a-shell": changed("models/tiny/source", "$(touch x)", "$(touch x)' does not exist"),
    "source-of-a-very-long-name": changed("data/words/source", "x" * 5000, "data.words.source: ", "does not exist"),
    "hub-of-a-shell": changed("models/tiny/source", "hub:a/b;touch x", "models.tiny.source: ", "Hub repository"),
    "hub-above": changed("models/tiny/source", "hub:../x", "models.tiny.source: ", "Hub repository"),
    "hub-of-a-revision-above": changed("models/tiny/source", "hub:a/b@../../x", "models.tiny.source: ", "revision"),
    "package-of-a-path-above": changed("models/tiny/source", "package:numpy/../../x", "models.tiny.source: "),
    "files-empty": changed("data/words/files", "", "data.words.files: ''"),
    "tasks-are-a-text": changed("evaluate/tasks", "arc_easy", "evaluate.tasks: 'arc_easy' is not allowed"),
    "task-is-a-number": changed("evaluate/tasks", [3], "evaluate.tasks: 3 is not a task", "use its name"),
    "task-twice": changed("evaluate/tasks", ["a", "a"], "evaluate.tasks: 'a' appears twice", "give tasks names"),
    "task-without-documents": changed("evaluate/tasks", [{"task": "a", "limit": 0}], "evaluate.tasks.a.limit: 0 is"),
    "task-with-another-key": changed(
        "evaluate/tasks", [{"task": "a", "shots": 3}], "unknown key 'shots'", "num_fewshot"
    ),
    "task-of-no-folder": changed(
        "evaluate/tasks",
        [{"task": "a", "folder": "nowhere"}],
        "evaluate.tasks.a.folder: ",
        "nowhere' does not exist",
    ),
    "task-named-as-a-path": changed("evaluate/tasks", ["../a"], "evaluate.tasks: ", "'../a'"),
    "device-of-a-shell": changed("evaluate/device", "cpu; touch x", "evaluate.device: 'cpu; touch x'", "auto-shard"),
    "device-of-an-option": changed("evaluate/device", "--help", "evaluate.device: '--help'"),
    "levels-without-end": changed("imp/small/levels", 10**9, "imp.small.levels: ", "1000", base=trained),
    "branches-without-end": changed("imp/small/branches/order", 10**9, "branches.order: ", "1000", base=trained),
    "rate-is-nan": changed("imp/small/train/learning_rate", float("nan"), "learning_rate: nan", base=trained),
    "iterations-are-text": changed("imp/small/train/iterations", "4", "iterations: '4'", base=trained),
    "trainer-of-a-shell": changed("imp/small/train/trainer_fn", "a:b;touch x", "trainer_fn: ", base=trained),
    "trainer-of-a-line-break": changed("imp/small/train/trainer_fn", "a:b\n", "trainer_fn: ", base=trained),
    "task-of-a-path": changed("imp/small/task/kind", "../x", "task.kind: '../x'", base=trained),
    "task-option-unknown": changed("imp/small/task/zork", 1, "unknown key 'zork'", base=trained),
    "task-option-of-another-type": changed("imp/small/task/test", "8", "task.test: '8'", base=trained),
}
