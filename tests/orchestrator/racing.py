"""Several who commit files of the same names at the same moment."""

import threading
from collections.abc import Callable

from orchestrator.store import Store


def race(opened: Callable[[], Store], *, name: str, racers: int, rounds: int, size: int) -> None:
    """Assert that of many who commit one name one does, and that its content stays.

    Each has the store that `opened` returns in its thread, and commits `size` bytes of its own
    under `name`, which has a place for the number of the round.
    """
    start = threading.Barrier(racers)
    won: list[list[bytes]] = [[] for _ in range(rounds)]

    def run(me: int) -> None:
        store = opened()
        for turn in range(rounds):
            content = bytes([me]) * size
            start.wait()
            if store.commit(name.format(turn), content):
                won[turn].append(content)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(racers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for turn in range(rounds):
        assert won[turn] == [opened().read(name.format(turn))]
