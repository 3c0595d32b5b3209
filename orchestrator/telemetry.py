"""Telemetry: a run's numbers as metrics of the Ray cluster that it runs on.

Ray's agents export them beside its own: the dashboard's Grafana panels and Prometheus
see them without any setting of ours, under these names with `ray_` before them.

    peaksweep_cells_done          answered, those found in the run folder included
    peaksweep_cells_left          not answered, as far as is known
    peaksweep_failures            tasks that were set aside
    peaksweep_retries             tasks that were tried again
    peaksweep_workers_ready       replicas that have a model loaded
    peaksweep_workers_lost        times that a replica was lost
    peaksweep_tokens_per_second   of one replica, over the last ten minutes      (tag: worker)
    peaksweep_tokens              of one replica, since the driver began; for `rate`   (worker)

All have a tag `run`, the run folder's name. They are the driver's: they begin with it and end
with it, and the files of the run folder remain what counts (`peaksweep status`).

Ray exports on every node every ten seconds; a run that is shorter may not be seen.
"""

from ray.util.metrics import Counter, Gauge

from orchestrator.meters import Reading

GAUGES = {
    "cells_done": "Cells that are answered, those found in the run folder included",
    "cells_left": "Cells that are not answered yet, as far as is known",
    "failures": "Tasks that were set aside",
    "retries": "Tasks that were tried again",
    "workers_ready": "Replicas that have a model loaded",
    "workers_lost": "Times that a replica was lost",
}
"""What is told of a run as a whole, with its description."""


class ClusterMetrics:
    """Sets the cluster's metrics from readings; needs a driver that is connected to Ray."""

    def __init__(self, run: str) -> None:
        """Tell them of a run of this name."""
        self._run = run
        self._gauges = {
            name: Gauge(f"peaksweep_{name}", description=said, tag_keys=("run",))
            for name, said in GAUGES.items()
        }
        both = ("run", "worker")
        self._speed = Gauge(
            "peaksweep_tokens_per_second", "Tokens a second of one replica", tag_keys=both
        )
        self._tokens = Counter("peaksweep_tokens", "Tokens of one replica", tag_keys=both)
        self._told: dict[int, int] = {}
        """Tokens that were counted, by worker."""

    def __call__(self, reading: Reading) -> None:
        """Set them to what a reading says."""
        for name, gauge in self._gauges.items():
            gauge.set(_of_run(reading, name), tags={"run": self._run})
        here = {worker.number: worker for worker in reading.workers}
        for number in self._told.keys() - here.keys():  # a gauge would keep its last value
            self._speed.set(0.0, tags=self._tags(number))
        for number, worker in here.items():
            self._speed.set(worker.tokens_per_second or 0.0, tags=self._tags(number))
            more = worker.tokens - self._told.get(number, 0)
            if more > 0:
                self._tokens.inc(more, tags=self._tags(number))
            self._told[number] = worker.tokens

    def _tags(self, worker: int) -> dict[str, str]:
        return {"run": self._run, "worker": str(worker)}


def _of_run(reading: Reading, name: str) -> int:
    if name == "cells_done":
        return reading.cells_found + reading.cells_done
    value: int = getattr(reading, name)
    return value
