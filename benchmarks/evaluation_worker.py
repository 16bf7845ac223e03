"""One way of evaluating a model on fixed sequences, in a process of its own.

The process says when it is ready with `{"level": "imports"}`; it is then sent `{"wish": "set up"}` and, as often as
wanted, `{"wish": "evaluate", …}`, which it answers with the seconds taken and the loss found.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from transformers import AutoModelForCausalLM

from benchmarks.processes import answer, private_stdout
from ltpipe.checkpoints.layout import MANIFEST, WEIGHTS
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.data.sequences import TokenSequences
from ltpipe.evaluation.loss import token_losses
from ltpipe.pruning.apply import fetch_from
from ltpipe.streaming.model import CausalModel, build_skeleton

Method = Literal["plain", "plain-parts", "streamed", "in-memory"]
Evaluate = Callable[[torch.Tensor, int, int], float]
"""From token ids, sequences a micro-batch and tokens a chunk to the loss."""

_CPU = torch.device("cpu")


def main(method: Method, checkpoint: Path, sequences: Path, dtype: str, count: int, threads: int) -> None:
    """Serve evaluations.

    Args:
        method: `plain` is the model of transformers with all sequences as one batch, `plain-parts` the same in
            micro-batches; `streamed` and `in-memory` are ltpipe.
        checkpoint: canonical folder.
        sequences: token sequences.
        dtype: to compute in.
        count: sequences to evaluate on.
        threads: CPU threads.
    """
    answers = private_stdout()
    torch.set_num_threads(threads)
    input_ids = torch.from_numpy(TokenSequences.read(sequences).input_ids[:count].astype(np.int64))
    precision = getattr(torch, dtype)
    build_skeleton(checkpoint, precision)  # imports the architecture, so that this counts as an import for everyone
    answer(answers, level="imports")
    evaluate: Evaluate | None = None
    for line in sys.stdin:
        wish = json.loads(line)
        if wish["wish"] == "set up":
            evaluate = _plain(checkpoint, precision) if method.startswith("plain") else _ours(method, checkpoint, precision)
            answer(answers, level="set up")
            continue
        ...
