"""The order of the suite: longest modules first, so that no process waits for one at the end."""

import pytest

LONGEST = ("test_sweep.py", "test_brute_force_selections.py", "test_brute_force_methods.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
