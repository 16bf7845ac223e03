"""What tests of scores share."""

import pytest
import torch

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import MANIFEST, WEIGHTS
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Selection
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.evaluation.plan import BatchSizes
from ltpipe.pruning.apply import fetch_from
from ltpipe.runtime.options import NoOptions
from ltpipe.scoring.criterion import criterion_options, scored_criterion
from ltpipe.scoring.streamed import ChangingFetch, StreamedSubject
from ltpipe.streaming.model import CausalModel
from ltpipe.streaming.skeleton import build_skeleton

CPU = torch.device("cpu")


@pytest.fixture
def subject(canonical_folder, token_ids, tmp_path):
    """Function from an architecture to a subject on its tiny model: seven sequences, three a micro-batch."""

    def made(architecture, *, streamed=True, micro_batch=3, ids=token_ids, exclude=()):
        folder = canonical_folder(architecture)
        file, manifest = TensorFile(folder / WEIGHTS), Manifest.read(folder / MANIFEST)
        fetch = ChangingFetch(fetch_from(file, None, CPU, torch.float32))
        model = CausalModel(build_skeleton(Checkpoint.open(folder), torch.float32), manifest, fetch, CPU, streamed)
        names = Selection(exclude=exclude).names(manifest)
        weight = fetch_from(file, None, CPU, torch.float32)
        sizes = BatchSizes(len(ids), micro_batch, 10)
        return StreamedSubject(model, fetch, names, ids, sizes, weight, tmp_path, NoOptions())

    return made


@pytest.fixture
def scores():
    """Function from a criterion's name and a subject to name and score, float64 NumPy arrays."""

    def found(criterion, subject, **options):
        delivered = {}
        subject.options = criterion_options(criterion, options, criterion)
        scored_criterion(criterion).score(
            subject, lambda name, values: delivered.update({name: values.double().numpy()})
        )
        assert sorted(delivered) == sorted(subject.names)
        return delivered

    return found


@pytest.fixture
def plain(source_folder):
    """Function from an architecture to plain transformers' model in float64, where its kernels know that."""

    def loaded(architecture):
        from transformers import AutoModelForCausalLM

        dtype = torch.float32 if architecture == "mixtral" else torch.float64
        return AutoModelForCausalLM.from_pretrained(source_folder(architecture), dtype=dtype).eval()

    return loaded
