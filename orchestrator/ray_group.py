"""The Ray group: the processes that hold one model, told and heard as one.

Most models are held by one actor. A sharded one is held by k of them (`workers.sharding`),
one GPU each, in a placement group that is on one machine or nowhere. All get the same calls
in the same order; the first of them, rank 0, commits, and its answer is the group's.

A group starts, fails and restarts as one. A rank that raises leaves the others waiting for
it in the middle of a sum, so what was asked is settled when all have answered, and a group
in which one raised and another stays silent is broken: whoever owns it ends it.

Ranks meet in a file of their machine's temporary folder and talk on its loopback alone.
"""

import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.budget import Demand
from orchestrator.ray_actor import Actor, Answer, Seat, Trouble
from orchestrator.store import Store
from orchestrator.tasks import Task
from workers.messages import ModelRef

GRACE_SECONDS = 10.0
"""How long ranks may take to answer when one of them has raised."""

Said = Answer | Trouble | None
"""What a rank answers: of a task, of what went wrong, or that a model is loaded."""


class Call:
    """What all ranks of a group were asked at once, and what they have answered so far."""

    def __init__(self, refs: Sequence[Any], clock: Callable[[], float] = time.monotonic) -> None:
        """Wait for Ray's references to the answers, by rank."""
        self.refs, self._clock = list(refs), clock
        self._said: dict[int, Said] = {}
        self._trouble_at: float | None = None

    def hear(self, ref: object, said: Said) -> bool:
        """Note what one rank answers; return whether all have."""
        self._said[self.refs.index(ref)] = said
        if isinstance(said, Trouble) and self._trouble_at is None:
            self._trouble_at = self._clock()
        return len(self._said) == len(self.refs)

    @property
    def answer(self) -> Said:
        """The group's: a trouble of whoever had one, rank 0's first, or else rank 0's answer.

        A task that rank 0 has done is done, whatever became of others afterwards.
        """
        first = self._said.get(0)
        if isinstance(first, Answer | Trouble):
            return first
        return next((self._said[r] for r in sorted(self._said) if self._said[r]), first)

    @property
    def broken(self) -> Trouble | None:
        """The trouble of one rank, if others have been silent for too long since; else None."""
        if self._trouble_at is None or self._clock() - self._trouble_at < GRACE_SECONDS:
            return None
        return next(said for said in self._said.values() if isinstance(said, Trouble))


class Group:
    """The actors that hold one model; one, unless it is sharded."""

    def __init__(
        self,
        store: Store,
        worker: str,
        demand: Demand,
        memory: int,
        size: int,
        machines: Mapping[str, str],
    ) -> None:
        """Ask Ray for `size` actors, each with its share of what the demand says; do not wait.

        `machines` is Ray's selector of those that will do, by their labels; empty, all do.
        """
        self.size = size
        self._room: PlacementGroup | None = None
        self._seats: list[Seat | None] = [None]
        asked = {"CPU": demand.cpus, "GPU": demand.gpus, "memory": float(memory)}
        if size > 1:
            bundle = {kind: amount for kind, amount in asked.items() if amount}
            self._room = placement_group(
                [bundle] * size,
                strategy="STRICT_PACK",
                bundle_label_selector=[dict(machines)] * size,
            )
            meeting = str(Path(tempfile.gettempdir()) / f"peaksweep-{uuid.uuid4().hex}")
            self._seats = [Seat(rank=r, size=size, meeting=meeting) for r in range(size)]
        make = ray.remote(Actor)
        self._actors: list[ActorHandle[Actor]] = [
            make.options(  # type: ignore[misc]
                num_cpus=demand.cpus,
                num_gpus=demand.gpus,
                memory=memory or None,
                max_restarts=0,
                max_task_retries=0,
                scheduling_strategy=self._place(rank),
                label_selector=None if self._room else dict(machines) or None,
            ).remote(store, worker)
            for rank in range(size)
        ]

    def _place(self, rank: int) -> PlacementGroupSchedulingStrategy | None:
        if self._room is None:
            return None
        return PlacementGroupSchedulingStrategy(self._room, placement_group_bundle_index=rank)

    def load(self, ref: ModelRef) -> Call:
        """Have all ranks load a model."""
        pairs = zip(self._actors, self._seats, strict=True)
        return Call(refs=[actor.load.remote(ref, seat) for actor, seat in pairs])

    def lacks(self, ref: ModelRef) -> Any:
        """Return Ray's reference to the machine, if it lacks the model's weights; they share it."""
        return self._actors[0].lacks.remote(ref)

    def do(self, task: Task) -> Call:
        """Have all ranks do a task."""
        return Call(refs=[actor.do.remote(task) for actor in self._actors])

    def sees(self, rank: int = 0) -> Any:
        """Return Ray's reference to what a rank's process may use."""
        return self._actors[rank].sees.remote()

    def kill(self) -> None:
        """End all processes, without waiting for any."""
        for actor in self._actors:
            ray.kill(actor)
        if self._room is not None:
            remove_placement_group(self._room)
