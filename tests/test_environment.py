"""The environment that `make install` makes is the one that constraints.txt writes down."""

import re
import sys
import sysconfig
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OWN = {"peaksweep", "pip", "setuptools"}
"""Not pinned: the project, and what installs it."""


def spelled(name: str) -> str:
    """Return a distribution's name as indexes compare names (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.skipif(
    Path(sys.prefix) != ROOT / ".venv", reason="this environment is not that of `make install`"
)
def test_every_installed_package_is_pinned_at_its_version() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    pinned = {spelled(name): version for name, version in pinned.items()}
    here = [sysconfig.get_path("purelib")]  # Ray puts copies of its own beside these on the path
    found = {spelled(d.name): d.version for d in distributions(path=here)}
    assert {n: v for n, v in found.items() if n not in OWN and pinned.get(n) != v} == {}
