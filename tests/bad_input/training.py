"""Tasks, states and settings of training."""

import json
import os

from bad_input.artefacts import reheaded, said
from bad_input.case import Case, on

from ltpipe.runtime.errors import MEND

OPTIONS = {"model": "lenet-300-100", "source": "@images.csv", "validation": 8, "test": 8, "split_seed": 0}
TEXT = {
    "source": "@lines.jsonl", "files": "*", "field": "text", "documents": "all", "separator": " ", "sequence_length": 8,
    "evaluation_sequences": 2, "validation": 0.1, "test": 0.1, "split_seed": 0, "vocabulary": 256,
    "prunable": {"preset": "linear", "include": [], "exclude": []}, "architecture": {"model_type": "llama"},
}  # fmt: skip
HOW = "--seed 0 --optimizer sgd --momentum 0.9 --learning-rate 0.1 --iterations 4 --batch-size 4 --evaluate-every 2"
HOW += " --device cpu"
POINT = f"--task @task --step 2 {HOW}"
BRANCH = f"--task @task --point @sgd --record %record {HOW}"
PRUNE = "--task @task --ranked @trained-state --device cpu"
WATCH = f"--task @task --ticket %ticket --sparsity 0.5 --every 2 {HOW}"
DAMAGED = ("%x: damaged", MEND)


def options(*words: str, task: str = "images", **changes: object) -> Case:
    given = json.dumps((OPTIONS if task == "images" else TEXT) | changes).replace("'", "")
    return Case("task", f"--task {task} --training s --options '{given}'", ("imp.s.task", *words))


TRAINING = {
    "option-of-text-for-a-number": options(".validation: ", "'eight' is not allowed", validation="eight"),
    "option-of-a-list-for-a-number": options(".test: ", "is not allowed", test=[8]),
    "option-of-a-fraction-for-a-number": options(".test: ", "'8.5' is not allowed", test=8.5),
    "option-of-null-for-a-number": options(".split_seed: ", "'None' is not allowed", split_seed=None),
    "option-of-a-number-for-a-source": options(".source: ", "'3' is not allowed", source=3),
    "option-of-a-mapping-for-a-model": options(".model: ", "is not allowed", model={"a": 1}),
    "option-of-an-unknown-model": Case(
        "task",
        "--task images --options '" + json.dumps(OPTIONS | {"model": "lenet-5"}) + "'",
        ("model 'lenet-5' is unknown", "use lenet-300-100"),
    ),
    "option-of-a-negative-number": options("validation", validation=-1),
    "option-of-a-huge-number": options("40 images", validation=10**30),
    "option-that-is-unknown": options("pixels", pixels=3),
    "text-option-of-text-for-a-number": options(
        ".sequence_length: ", "'eight' is not allowed", task="text", sequence_length="eight"
    ),
    "text-option-of-a-list-for-a-mapping": options(".prunable: ", "is not allowed", task="text", prunable=[]),
    "text-option-of-an-unknown-part": options(".documents: ", "'some' is not allowed", task="text", documents="some"),
    "text-option-of-an-unknown-key-below": options("prunable", "zork", task="text", prunable={"zork": 1}),
    "text-option-of-an-architecture-of-code": options(
        "architecture", task="text", architecture={"model_type": "llama", "auto_map": {"AutoConfig": "x.Y"}}
    ),
    "text-option-of-a-word-for-a-width": options(
        "architecture", task="text", architecture={"model_type": "llama", "hidden_size": "wide"}
    ),
    "text-option-of-one-document": options("1 documents", task="text", source="@text.txt"),
    "options-are-empty": Case("task", "--task images --options ''", ("options: ", "is not a JSON object")),
    "options-are-nested-deeply": Case(
        "task", "--task images --options " + "[" * 30_000, ("options: ", "is not a JSON object")
    ),
    "options-of-nan": Case("task", """--task images --options '{"validation": NaN}'""", ("options: ", "NaN")),
    "options-of-a-key-twice": Case(
        "task", """--task images --options '{"test": 1, "test": 2}'""", ("options: ", "twice")
    ),
    "task-of-code": Case("task", "--task os.system --options {}", ("task 'os.system' is unknown",)),
    "task-above": Case("task", "--task ../x --options {}", ("task '../x' is unknown",)),
    "task-file-of-an-unknown-task": Case(
        "rewind_point", on(POINT, task="%x"), (*DAMAGED, "task 'zork' is unknown"), said("task", task="zork")
    ),
    "task-file-of-no-specification": Case(
        "rewind_point", on(POINT, task="%x"), (*DAMAGED, "specification"), said("task", specification=None)
    ),
    "task-file-of-a-list": Case("rewind_point", on(POINT, task="%x"), DAMAGED, said("task", specification="[]")),
    "task-file-of-other-shapes": Case(
        "rewind_point",
        on(POINT, task="%x"),
        DAMAGED,
        reheaded("task", lambda metadata, header: header["train/images"].update(shape=[24 * 9])),
    ),
    "task-file-is-a-fifo": Case(
        "rewind_point", on(POINT, task="%x"), ("%x: is a pipe, a device",), lambda h, s: os.mkfifo(h / "x")
    ),
    "point-of-another-optimizer": Case(
        "training", on(BRANCH, optimizer="adam", momentum="0"), ("optimizer: adam", "another optimizer's")
    ),
    "point-of-adam-for-sgd": Case("training", on(BRANCH, point="@adam"), ("optimizer: sgd", "another optimizer's")),
    "point-is-a-mask": Case("training", on(BRANCH, point="@llama.mask"), ("@llama.mask: not a training state",)),
    "point-of-another-model": Case(
        "training",
        on(BRANCH, point="%x"),
        ("belongs to another model",),
        reheaded("sgd", lambda m, h: [h.update({f"{k}x": h.pop(k)}) for k in list(h) if k.startswith("weights/")]),
    ),
    "point-of-an-unknown-part": Case(
        "training",
        on(BRANCH, point="%x"),
        DAMAGED,
        reheaded("sgd", lambda m, h: [h.update({f"../{k}": h.pop(k)}) for k in list(h) if k.startswith("weights/")]),
    ),
    "point-of-a-text-iteration": Case("training", on(BRANCH, point="%x"), DAMAGED, said("sgd", iteration="two")),
    "point-of-a-negative-iteration": Case(
        "training", on(BRANCH, point="%x"), (*DAMAGED, "iteration"), said("sgd", iteration="-2")
    ),
    "point-beyond-the-end": Case(
        "training", on(BRANCH, point="%x"), ("iteration 4", "starts at 99"), said("sgd", iteration="99")
    ),
    "point-of-a-curve-that-is-none": Case(
        "training", on(BRANCH, point="%x"), DAMAGED, said("sgd", validation='[{"x": 1}]')
    ),
    "branch-with-a-mask-of-another-model": Case("training", on(BRANCH, mask="@llama.mask", level="1"), ("mask: ",)),
    "branch-of-no-kind": Case("training", on(BRANCH, branch="zork-1"), ("zork-1",)),
    "step-beyond-the-end": Case("rewind_point", on(POINT, step="9"), ("iteration 9", "ends at 4")),
    "step-negative": Case("rewind_point", on(POINT, step="-1"), ("iteration -1",)),
    **{
        f"learning-rate-{value}": Case("rewind_point", on(POINT, learning_rate=value), ("learning_rate: ", "allowed"))
        for value in ("nan", "inf", "-1")
    },
    "batch-of-nothing": Case("rewind_point", on(POINT, batch_size="0"), ("batch_size: 0 is not allowed; use 1",)),
    "no-iterations": Case("rewind_point", on(POINT, iterations="-4"), ("iterations: -4 is not allowed; use 1",)),
    "milestones-negative": Case("rewind_point", on(POINT, milestones="-5"), ("milestones: ", "allowed")),
    "save-never": Case("rewind_point", on(POINT, save_every="0"), ("save_every: 0",)),
    "trainer-of-no-function": Case("rewind_point", on(POINT, trainer_fn="json"), ("trainer_fn: 'json' is not",)),
    "trainer-of-no-module": Case("rewind_point", on(POINT, trainer_fn="no_such:x"), ("trainer_fn: 'no_such:x'",)),
    "trainer-of-a-path": Case("rewind_point", on(POINT, trainer_fn="../x:y"), ("trainer_fn: '../x:y'",)),
    "training-on-no-threads": Case("rewind_point", on(POINT, threads="0"), ("threads: 0",)),
    "fraction-of-a-word": Case("level_mask", on(PRUNE, fraction="half"), ("'half'", "0 to 1")),
    "fraction-above-one": Case("level_mask", on(PRUNE, fraction="1.5"), ("1.5", "0 to 1")),
    "fraction-nan": Case("level_mask", on(PRUNE, fraction="nan"), ("nan", "0 to 1")),
    "prune-by-no-criterion": Case("level_mask", on(PRUNE, criterion="beauty"), ("'beauty'",)),
    "prune-on-no-examples": Case("level_mask", on(PRUNE, criterion="snip", examples="0"), ("examples: 0", "allowed")),
    "early-bird-of-sparsity-two": Case("early_bird", on(WATCH, sparsity="2"), ("2", "0 to 1")),
    "early-bird-of-never": Case("early_bird", on(WATCH, every="0"), ("every: 0",)),
    "early-bird-of-threshold-nan": Case("early_bird", on(WATCH, threshold="nan"), ("threshold: nan",)),
}
