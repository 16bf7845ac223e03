"""Checks that sequences are not too long for models whose configuration is available."""

import torch

from ltpipe.checkpoints.filenames import CONFIG
from ltpipe.evaluation.plan import EvaluationPlanner
from ltpipe.planning.architecture import architecture, foreseen
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.jsonfiles import read_json
from ltpipe.runtime.sources import Source
from ltpipe.workflow import grid
from ltpipe.workflow.config import Config


def check_lengths(config: Config) -> None:
    """Refuse sequences with more tokens than a model has positions, for models whose folder exists.

    Transformers is consulted only if the configuration states fewer positions: rotary models accept more than stated.

    Raises:
        UserError: sequences are too long; names the model, the requested length and the model's limit.
    """
    if not config["grid"]:
        return
    lengths = [grid.evaluated_size(config, text)[1] for text in grid.evaluated_texts(config)]
    lengths += [grid.calibration_size(config, text)[1] for text in grid.calibration_texts(config)]
    longest = max(lengths)
    for name, model in config["models"].items():
        source = Source(model["source"], f"models.{name}.source")
        if source.is_hub or not (source.path / CONFIG).is_file():
            continue
        said = read_json(source.path / CONFIG).items()
        if all(value >= longest for key, value in said if "position" in key and type(value) is int):
            continue
        skeleton, manifest = foreseen(architecture(source), torch.float32)
        try:
            EvaluationPlanner(skeleton, manifest, (), torch.float32, False).check_length(longest)
        except UserError as error:
            raise UserError(f"{source.key}: {error}") from None
