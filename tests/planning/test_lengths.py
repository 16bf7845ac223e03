"""Sequences that are too long for a model are refused before anything runs."""

from pathlib import Path

import pytest
from tiny import save_tiny

from ltpipe.planning.lengths import check_lengths
from ltpipe.planning.stages import fits
from ltpipe.planning.study import plan_study
from ltpipe.runtime.errors import UserError
from ltpipe.workflow.config import check_config


def study(source: Path, text: Path, length: int) -> dict:
    config = {
        "models": {"m": {"source": str(source)}},
        "data": {"d": {"source": str(text)}},
        "grid": {"criteria": ["magnitude"], "scopes": ["global"], "sparsities": [0.5]},
        "evaluate": {"sequence_length": length, "num_sequences": 2},
    }
    return check_config(config)


@pytest.mark.parametrize(("architecture", "taken"), [("gpt2", False), ("llama", True)])
def test_positions_that_end_and_positions_that_do_not(architecture, taken, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("words")
    config = study(save_tiny(architecture, tmp_path / "model"), text, 65)
    plan = plan_study(config)
    if taken:
        check_lengths(config)
        assert fits(plan)
        return
    with pytest.raises(UserError, match=r"models\.m\.source: sequence_length: 65 tokens .* takes at most 64"):
        check_lengths(config)
    assert "takes at most 64" in next(stage.problem for stage in plan if stage.problem)
    check_lengths(study(tmp_path / "model", text, 64))
