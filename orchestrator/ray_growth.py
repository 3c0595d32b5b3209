"""Ray growth: asking the cluster's autoscaler for the machines that a plan lacks.

What is asked for is a placement group for every replica that no machine has room for: Ray shows
the autoscaler what cannot be placed, and that is all it goes by. A group takes its room as soon
as there is some; then the machine has come, and the group makes way for the replica. So with the
replicas that run, what the autoscaler sees is what the plan asks for, at every moment, and a
machine that is taken away is asked for again.

Groups belong to the driver's job: when it ends, however it ends, Ray removes them, and nothing is
asked for any more. (`ray.autoscaler.sdk.request_resources` is kept by the cluster until somebody
takes it back; a driver that is killed cannot, and the machines would stay.)
"""

from typing import Any

from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from orchestrator.budget import Demand
from orchestrator.devices import KIND_LABEL


class Growth:
    """The replicas that are asked for, and have no room yet."""

    def __init__(self, demand: Demand, memory: int) -> None:
        """Ask for nothing yet; a replica asks for `demand` and, per process, `memory` bytes."""
        asked = {"CPU": demand.cpus, "GPU": demand.gpus, "memory": float(memory)}
        bundle = {kind: amount for kind, amount in asked.items() if amount} or {"CPU": 1.0}
        self._bundles = [bundle] * demand.ranks
        kinds = {KIND_LABEL: f"in({','.join(demand.kinds)})"} if demand.kinds else {}
        self._labels = [kinds] * demand.ranks
        self._asked: list[PlacementGroup] = []

    def ask(self, missing: int) -> None:
        """Ask for so many replicas, and no more."""
        if self._asked:
            table: dict[str, dict[str, Any]] = placement_group_table()
            there = [g for g in self._asked if _placed(table.get(g.id.hex()))]
            pending = [g for g in self._asked if g not in there]
            self._asked = pending[: max(missing, 0)]
            for group in [*there, *pending[max(missing, 0) :]]:
                remove_placement_group(group)
        while len(self._asked) < missing:
            self._asked.append(
                placement_group(
                    self._bundles,
                    strategy="STRICT_PACK",
                    bundle_label_selector=[dict(labels) for labels in self._labels],
                )
            )

    def close(self) -> None:
        """Ask for nothing any more."""
        self.ask(0)


def _placed(group: dict[str, Any] | None) -> bool:
    return group is not None and group["state"] == "CREATED"
