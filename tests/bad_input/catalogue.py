"""The whole catalogue of bad input, by where it comes from."""

from bad_input.artefacts import ARTEFACTS
from bad_input.case import Case
from bad_input.checkpoints import CHECKPOINTS
from bad_input.configurations import CONFIGURATIONS
from bad_input.data import DATA
from bad_input.stages import STAGES
from bad_input.training import TRAINING
from bad_input.values import VALUES

CATALOGUE: dict[str, dict[str, Case]] = {
    "Configurations": CONFIGURATIONS,
    "Models": CHECKPOINTS,
    "Texts and images": DATA,
    "Masks, histograms, scores, metrics": ARTEFACTS,
    "Training": TRAINING,
    "Values on command lines": VALUES,
    "Stages given each other's files": STAGES,
}
