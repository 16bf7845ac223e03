"""ltpipe: find, evaluate and compare lottery tickets.

The functions of `ltpipe.api`, for models that are already in memory, can be imported from here. They are looked up
when they are asked for: the stages of the pipeline, which import this module too, must not import torch
for it.
"""

import importlib
import os
import signal
from typing import Any

__version__ = "0.1.0"

if "LTPIPE_LOG" in os.environ:  # a stage of the pipeline: while its libraries load, Ctrl-C ends it without frames
    signal.signal(signal.SIGINT, lambda number, _: os._exit(128 + number))

# Named as strings, not imported: an import statement would make every stage depend on every module of the API.
_API = {
    "EarlyBirdDetector": "ltpipe.api.tickets",
    "compute_histogram_quantile": "ltpipe.api.magnitude",
    "compute_importance": "ltpipe.api.importance",
    "compute_iterative_magnitude_pruning": "ltpipe.api.iterative",
    "compute_lottery_ticket_quality": "ltpipe.api.quality",
    "compute_magnitude_importance": "ltpipe.api.magnitude",
    "compute_ticket_overlap": "ltpipe.api.tickets",
    "create_magnitude_mask": "ltpipe.api.magnitude",
    "create_mask": "ltpipe.api.importance",
    "ensure_deterministic_pruning": "ltpipe.api.determinism",
    "load_mask": "ltpipe.api.packed",
    "masked": "ltpipe.api.masking",
    "save_mask": "ltpipe.api.tickets",
    "validate_ticket": "ltpipe.api.tickets",
}

__all__ = ["__version__", *_API]


def __getattr__(name: str) -> Any:
    if name not in _API:
        raise AttributeError(f"module 'ltpipe' has no attribute '{name}'")
    return getattr(importlib.import_module(_API[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_API})
