"""A folder of tasks of one's own on a tiny vocabulary: a choice, a text to score, a text to roll over, a generation."""

from pathlib import Path

_MAKE = """
import random
from datasets import Dataset

def words(draw, count):
    return " ".join(f"w{draw.randrange(90)}" for _ in range(count))

def choices(**_):
    draw = random.Random(0)
    return {"test": Dataset.from_list([
        {
            "context": words(draw, draw.randrange(1, 30)),
            "choices": [words(draw, count) for count in (1, 1, 2, 5)],
            "label": number % 4,
        }
        for number in range(24)
    ])}

def texts(longest=4, **_):
    draw = random.Random(1)
    return {"test": Dataset.from_list([
        {"context": words(draw, 3) if n % 3 else "", "text": " " + words(draw, longest if n == 7 else 4)}
        for n in range(12)
    ])}
"""
_TASKS = {
    "choice": """
task: own_choice
custom_dataset: !function make.choices
output_type: multiple_choice
test_split: test
doc_to_text: "{{context}}"
doc_to_choice: "{{choices}}"
doc_to_target: label
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
metadata: {version: 2.0}
""",
    "score": """
task: own_score
custom_dataset: !function make.texts
output_type: loglikelihood
test_split: test
doc_to_text: "{{context}}"
doc_to_target: "{{text}}"
target_delimiter: ""
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
""",
    "rolling": """
task: own_rolling
custom_dataset: !function make.texts
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{text}}"
dataset_kwargs: {longest: 90}
metric_list: [{metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}]
""",
    "generation": """
task: own_generation
custom_dataset: !function make.choices
output_type: generate_until
test_split: test
doc_to_text: "{{context}}"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["w1"], max_gen_toks: 6, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
}


def save_tasks(folder: Path) -> Path:
    """Write the folder."""
    folder.mkdir(parents=True)
    (folder / "make.py").write_text(_MAKE)
    for name, text in _TASKS.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder
