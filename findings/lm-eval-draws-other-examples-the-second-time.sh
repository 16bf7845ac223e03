#!/usr/bin/env bash
# lm-eval 0.4.13, Python 3.11
#
# `evaluate` builds its prompts anew each time, and the few-shot examples come from a generator that the task keeps. So
# two models that are evaluated in one process with the same loaded tasks get different prompts, and their scores are
# not paired, although the seed was set. Setting it again before each call gives the same prompts.
#
# Output seen:
#   second call, prompts equal: False
#   after set_fewshot_seed, prompts equal: True
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check lm-eval==0.4.13 2>/dev/null

mkdir own
cat > own/make.py <<'CODE'
from datasets import Dataset


def sums(**_):
    rows = [{"question": f"{number} + 1 =", "answer": str(number + 1)} for number in range(40)]
    return {"train": Dataset.from_list(rows[8:]), "test": Dataset.from_list(rows[:8])}
CODE
cat > own/sums.yaml <<'CODE'
task: sums
custom_dataset: !function make.sums
output_type: loglikelihood
training_split: train
test_split: test
num_fewshot: 2
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
CODE
cat > look.py <<'CODE'
import logging

from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

logging.disable(logging.CRITICAL)


class Listener(LM):
    def loglikelihood(self, requests, **_):
        self.heard = [request.args[0] for request in requests]
        return [(-1.0, False)] * len(requests)

    def loglikelihood_rolling(self, requests, **_):
        raise NotImplementedError

    def generate_until(self, requests, **_):
        raise NotImplementedError


def heard(again):
    if again:
        for task in tasks["tasks"].values():
            task.set_fewshot_seed(seed=1234)
    listener = Listener()
    evaluate(lm=listener, task_dict=tasks, bootstrap_iters=0)
    return listener.heard


tasks = TaskManager(include_path="own", include_defaults=False).load(["sums"])
first = heard(again=True)
print("second call, prompts equal:", heard(again=False) == first)
print("after set_fewshot_seed, prompts equal:", heard(again=True) == first)
CODE
venv/bin/python look.py 2>/dev/null | tee seen

diff seen - <<'SEEN'
second call, prompts equal: False
after set_fewshot_seed, prompts equal: True
SEEN
echo "as seen"
