"""Replica: one copy of a model in one process, and what can be asked of it.

A replica holds a model and does what is asked with it; whatever it returns is
determined by what it was sent. It keeps no other state, so it can be killed and
another one takes its place. It is an ordinary class: something else makes it an
actor, or simply calls it.

A model that was compiled for evaluation (`workers.compiled`) stays so until something
else is asked of it: whatever runs uncompiled runs on the model as it was loaded.

Shapes: R rows, one per neuron, and W of them, as in `workers.collect`.
"""

import gc
import platform
from collections.abc import Mapping, Sequence

import numpy as np
import timm
import torch
import transformers
from numpy.typing import NDArray

from workers import ablation, generating, packed
from workers import collect as collecting
from workers import evaluate as evaluating
from workers.building import attention
from workers.canaries import Canaries, canaries
from workers.compiled import Compiled
from workers.histogram import FixedCounts, Histogram
from workers.learn import Learned, Place, Search, Starts, learn
from workers.loading import Model
from workers.messages import ALL, Batch, CellAnswer, CellOrder, Counted, Donors, ModelRef, Site
from workers.prefix import usable
from workers.weights import Norms, column_norms
from workers.windows import Windows


class NoModelError(RuntimeError):
    """A replica was asked for something before it had a model."""


class Replica:
    """Holds one model at a time: `load`, then ask."""

    def __init__(self) -> None:
        self._model: Model | None = None
        self._compiled: Compiled | None = None

    def load(self, ref: ModelRef) -> None:
        """Hold this checkpoint from now on; nothing is done if it is held already.

        The old model goes first, so that both need not fit. Raises what
        `workers.loading.load` raises, and then holds none.
        """
        if self._model is not None and self._model.ref == ref:
            return
        self._close()
        self._model = None
        gc.collect()  # a module may be in a reference cycle, and its memory is needed now
        torch.set_num_threads(ref.threads)
        torch.backends.cudnn.allow_tf32 = False  # float32 means float32, in convolutions too
        self._model = packed.load(ref)

    def keep_to(self, share: float, margin: int) -> None:
        """Have torch take no more of this process's GPU than a share of it, less a margin in bytes.

        What torch keeps for later would else be missing to other processes on the GPU.
        """
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(max(0.0, share - margin / whole), 0)

    def pilot(
        self,
        batches: Sequence[Batch],
        *,
        site: Site,
        bins: int = 256,
        positions: int = 4096,
        seed: int,
        counted: Counted = ALL,
    ) -> Windows:
        """Return the windows to count in; see `workers.collect.pilot`."""
        return collecting.pilot(
            self._plain(),
            batches,
            site=site,
            bins=bins,
            positions=positions,
            seed=seed,
            counted=counted,
        )

    def collect(
        self,
        batches: Sequence[Batch],
        *,
        site: Site,
        windows: Windows,
        shard: int,
        counted: Counted = ALL,
        rows: NDArray[np.intp] | None = None,
    ) -> Histogram:
        """Return the histogram of one shard; see `workers.collect.collect`."""
        return collecting.collect(
            self._plain(),
            batches,
            site=site,
            windows=windows,
            shard=shard,
            counted=counted,
            rows=rows,
        )

    def recount(
        self,
        batches: Sequence[Batch],
        *,
        site: Site,
        low: NDArray[np.float64],
        high: NDArray[np.float64],
        bins: int = 100,
        shard: int,
        counted: Counted = ALL,
    ) -> FixedCounts:
        """Return the counts of one shard between fixed ends; see `workers.collect.recount`."""
        return collecting.recount(
            self._plain(),
            batches,
            site=site,
            low=low,
            high=high,
            bins=bins,
            shard=shard,
            counted=counted,
        )

    def evaluate(
        self,
        batches: Sequence[Batch],
        cells: Sequence[CellOrder],
        donors: Mapping[str, Donors],
        *,
        logits_bytes: int,
        kl: bool = False,
        compile: bool = False,
    ) -> list[CellAnswer]:
        """Return the cells' answers; see `workers.evaluate.evaluate`.

        With `compile` through a compiled model, made at the first such call; `describe`
        then says why, where it could not be compiled.
        """
        model = self.model if compile else self._plain()
        if compile and self._compiled is None:
            self._compiled = Compiled(model)
        return evaluating.evaluate(
            model,
            batches,
            cells,
            donors,
            logits_bytes=logits_bytes,
            kl=kl,
            compiled=self._compiled,
        )

    def norms(self, site: Site) -> Norms:
        """Return the norms of the weights' columns; see `workers.weights.column_norms`."""
        return column_norms(self._plain(), site)

    def generate(
        self,
        prompts: Sequence[NDArray[np.int64]],
        lengths: Sequence[int],
        *,
        seed: int,
        sequence: NDArray[np.int64],
    ) -> list[NDArray[np.int64]]:
        """Return texts that the model writes; see `workers.generating.generate`."""
        return generating.generate(self._plain(), prompts, lengths, seed=seed, sequence_S=sequence)

    def learn(
        self,
        fit: Sequence[Batch],
        check: Sequence[Batch],
        sets: Sequence[Sequence[Place]],
        starts: Starts,
        scales: Sequence[NDArray[np.float64]],
        search: Search,
    ) -> Learned:
        """Return the constants that suit some held sets; see `workers.learn.learn`."""
        return learn(self._plain(), fit, check, sets, starts, scales, search)

    def canaries(self, batch: Batch, sites: Sequence[Site]) -> Canaries:
        """Return what trying the model out showed; see `workers.canaries.canaries`.

        As it is prepared for evaluation, if it is.
        """
        return canaries(self.model, batch, sites=sites)

    def check(self, batch: Batch, order: CellOrder) -> float:
        """Return how far fold and plain hook differ; see `workers.ablation.checked_by_hook`.

        As it is prepared for evaluation, if it is.
        """
        return ablation.checked_by_hook(self.model, batch, order)

    def describe(self) -> dict[str, str]:
        """Return what results were made with: versions, device and, with a model, its dtype.

        Where evaluation was last asked to compile, `compiled` is `yes`, or a sentence that says
        why it runs uncompiled; where cells cannot share what is below them, `shared` says why.
        """
        on_gpu = self._model is not None and self._model.device.type == "cuda"
        processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
        said = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "timm": timm.__version__,
            "numpy": np.__version__,
            "device": torch.cuda.get_device_name() if on_gpu else processor,
            "threads": str(torch.get_num_threads()),
        }
        if self._model is not None:
            said["dtype"] = self._model.ref.dtype
            if self._model.ref.packed is not None:
                said["packed"] = self._model.ref.packed
            if self._model.ref.shards > 1:
                said["shards"] = str(self._model.ref.shards)
            said["attention"] = attention(self._model.module)
        if self._compiled is not None:
            said["compiled"] = self._compiled.reason or "yes"
        unshared = None if self._model is None else usable(self._model)
        return said if unshared is None else said | {"shared": unshared}

    @property
    def model(self) -> Model:
        """The model held; raises NoModelError without one."""
        if self._model is None:
            raise NoModelError(
                "This replica holds no model, and was asked to run one. Call `load` first, also"
                " after a restart."
            )
        return self._model

    def _plain(self) -> Model:
        """Return the model as it was loaded."""
        self._close()
        return self.model

    def _close(self) -> None:
        if self._compiled is not None:
            self._compiled.close()
        self._compiled = None
