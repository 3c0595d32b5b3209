"""What tests of workers have in common."""

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for tiny models, which are made when they are asked for."""
    return tmp_path_factory.mktemp("tiny")
