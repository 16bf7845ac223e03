"""The study that the cases break."""

import pytest
from bad_input.study import Study, make_study


@pytest.fixture(scope="session")
def study(tmp_path_factory, source_folder, canonical_folder) -> Study:
    return make_study(tmp_path_factory.mktemp("study"), source_folder, canonical_folder)
