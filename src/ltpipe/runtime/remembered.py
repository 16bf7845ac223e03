"""What the stages of a run work out only once: answers that do not depend on the stage, such as a plan of memory.

A stage that is a fork hands its answers to the server (`ltpipe.runtime.forkserver`), and later forks begin with them. A
stage in a process of its own works everything out itself.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

ANSWERS: dict[str, str] = {}
"""Answers by question, both as JSON."""


def remembered(question: Mapping[str, Any], answer: Callable[[], Any]) -> Any:
    """Return `answer()`, or what it returned to the same question before in this run.

    Args:
        question: everything that the answer depends on, but code and libraries; values that JSON can hold.
        answer: returns a value that JSON can hold.
    """
    key = json.dumps(question, sort_keys=True)
    if key not in ANSWERS:
        ANSWERS[key] = json.dumps(answer())
    return json.loads(ANSWERS[key])
