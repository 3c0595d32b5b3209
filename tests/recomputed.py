"""Cells of a finished run, each compared with what the library and torch's own hooks say of it.

The parts that a test of methods and a test of selections share. The numbers are those of
`tests.brute_force`, `tests.brute_force_held` and `tests.brute_force_values`; of our code
there is only `orthogonal`, which draws the matrices of a rotation, and the sweep that is run.

Tolerances: activations of the two ways agree to some 1e-6 of their size (other attention,
other batches, no folding), so sums over a sequence agree to 1e-4 of themselves or 1e-6 nats
a position. A divergence is a small difference of two of these, good to 1e-3 of itself or
1e-5 nats a position. Counts are exact, but for positions whose logits lie closer than
`ROUNDING`, and of those there may be no more than `TIES` in all cells of a model.

Shapes: T positions of one sequence, V tokens.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import yaml
from torch import Tensor

from orchestrator import sweep
from tests import brute_force as plainly
from tests import brute_force_held
from tests.brute_force import Plain, Row, Tables
from tests.brute_force_held import Units
from tests.brute_force_values import Values
from workers.rotation import orthogonal

ZOO = Path(__file__).parents[1] / "workers" / "zoo"
ROUNDING, TIES = 1e-4, 3


@dataclass(frozen=True)
class Finished:
    """One model of a finished run, and its checkpoint as the library has it."""

    run: Path
    model: str

    @cached_property
    def tables(self) -> Tables:
        """What the run folder says of it."""
        return Tables(self.run, self.model)

    @cached_property
    def bases(self) -> dict[str, Plain]:
        """The checkpoint in every basis of the sweep."""
        return {b: self._turned(b) for b in {c["basis"] for c in self.tables.cells}}

    def _turned(self, basis: str) -> Plain:
        plain = plainly.load(ZOO / self.model.removeprefix("zoo:"))
        if basis != "own":
            seed = int(basis.removeprefix("rotated "))
            size = plain.projections[plainly.ATTENTION][0].in_features // plain.heads
            plainly.rotate(plain, lambda layer, group: orthogonal(seed, layer, group, size))
        return plain

    @cached_property
    def results(self) -> dict[str, list[Row]]:
        """Rows of `results` by cell."""
        return self.tables.of_cells("results")

    @cached_property
    def executions(self) -> dict[str, list[Row]]:
        """Rows of `executions` by cell."""
        return self.tables.of_cells("executions")

    @cached_property
    def distinct(self) -> dict[str, Row]:
        """One row of `cells` for every cell."""
        return {r["cell"]: r for r in self.tables.cells}

    @cached_property
    def specials(self) -> set[int]:
        """The tokens that are no text: where windows begin, end and are padded, and `<mask>`."""
        fed = {"zoo:roberta": {0, 1, 2, 4}, "zoo:vit": set()}
        return fed.get(self.model, {0, 1, 2})

    @cached_property
    def common(self) -> set[int]:
        """The most common tokens of the collected texts."""
        return plainly.common_tokens(self.tables, self.specials)

    @cached_property
    def values(self) -> dict[str, Values]:
        """What cells are given, by basis."""
        return {basis: Values(self.tables, plain) for basis, plain in self.bases.items()}

    @cached_property
    def bare(self) -> dict[str, dict[int, Tensor]]:
        """The unablated logits of every evaluated sequence, by basis."""
        rows = self.tables.role("evaluate")
        return {
            basis: {r["sequence"]: plainly.logits(plain, plainly.fed(r)) for r in rows}
            for basis, plain in self.bases.items()
        }


def assert_recomputed(of: Finished, cells: Iterable[Row]) -> None:
    """Assert that every sequence of some cells is what the library and a hook say."""
    ties: Counter[str] = Counter()
    for cell in cells:
        ties += agree(of, cell, held(of, cell, brute_force_held.orders(of.tables, cell)))
    assert max(ties.values(), default=0) <= TIES


def held(of: Finished, cell: Row, rows: Sequence[Row]) -> dict[str, list[Units]]:
    """Return the neurons that a cell holds, by site and layer, and check what is said of them."""
    size = brute_force_held.size(of.bases[cell["basis"]], cell)
    units = {s: [np.empty(0, np.int64)] * size.depth for s in size.units}
    if cell["fraction"]:  # 0 is the unablated model, also where all but the chosen are held
        units = brute_force_held.units_held(size, cell, rows)
    counts = [len(some) for of_layers in units.values() for some in of_layers]
    (execution,) = of.executions[cell["cell"]]
    assert cell["units_held"] == sum(counts)
    neurons = brute_force_held.neurons(size, units)
    by_layer = [len(some) for of_layers in neurons.values() for some in of_layers]
    assert execution["held_by_layer"] == (by_layer if sum(counts) else [])
    assert execution["told"] == execution["held"]
    return neurons


def agree(of: Finished, cell: Row, held: Mapping[str, Sequence[Units]]) -> Counter[str]:
    """Compare every sequence of a cell with what the library says; return ties by metric."""
    plain = of.bases[cell["basis"]]
    values = of.values[cell["basis"]]
    found = of.results[cell["cell"]]
    evaluated = of.tables.role("evaluate")
    assert sorted(r["sequence"] for r in found) == sorted(r["sequence"] for r in evaluated)
    answers = {r["sequence"]: r for r in found}
    ties: Counter[str] = Counter()
    for row in evaluated:
        logits_TV = plainly.logits_while_put(plain, plainly.fed(row), values.puts(cell, row, held))
        ties += same(of, cell, row, logits_TV, answers[row["sequence"]])
    return ties


def same(of: Finished, cell: Row, row: Row, logits_TV: Tensor, answer: Row) -> Counter[str]:
    """Compare the sums of one sequence."""
    target_T = plainly.target(row)
    whole = plainly.score(logits_TV, target_T, rounding=ROUNDING)
    said = (cell["method"], cell["parameters"], cell["basis"], cell["site"], row["sequence"])
    ties: Counter[str] = Counter()

    def counted(name: str, target_T: np.ndarray, metric: str) -> None:
        score = plainly.score(logits_TV, target_T, rounding=ROUNDING)
        off = abs(answer[name] - getattr(score, metric))
        assert off <= score.contested[metric], (said, name, answer[name], score)
        ties[name] += off

    assert answer["document"] == row["document"]
    assert (answer["tokens"], answer["nan"]) == (whole.tokens, 0)
    assert answer["loss"] == pytest.approx(whole.loss, rel=1e-4, abs=1e-6 * whole.tokens), said
    counted("top1", target_T, "top1")
    counted("top10", target_T, "top10")
    if answer["kl"] is not None:
        bare_TV = of.bare[cell["basis"]][row["sequence"]]
        kl = plainly.divergence(bare_TV, logits_TV, target_T)
        assert answer["kl"] == pytest.approx(kl, rel=1e-3, abs=1e-5 * whole.tokens), said
    if cell["modality"] != "image":
        rare_T = plainly.only(target_T, ~np.isin(target_T, list(of.common)))
        assert answer["tokens_rare"] == (rare_T != -100).sum()
        counted("top1_rare", rare_T, "top1")
    if cell["modality"] == "masked":
        kinds = iter(row["kind"])
        mask_T = np.array([t != -100 and next(kinds) == "mask" for t in target_T])
        masked_T = plainly.only(target_T, mask_T)
        score = plainly.score(logits_TV, masked_T, rounding=ROUNDING)
        assert answer["tokens_mask"] == score.tokens
        assert answer["loss_mask"] == pytest.approx(score.loss, rel=1e-4, abs=1e-6 * score.tokens)
        counted("top1_mask", masked_T, "top1")
    return ties


def finished_once(
    factory: pytest.TempPathFactory,
    common: str,
    *,
    plugins: Sequence[Path] = (),
    prepare: Callable[[Path], None] = lambda _: None,
) -> Callable[[str, str], Finished]:
    """Return what runs a sweep the first time it is asked for, and finds it done afterwards.

    A sweep is the keys that are `common` and its own; `prepare` writes what lies beside its file.
    """
    runs: dict[str, Path] = {}

    def found(text: str, model: str) -> Finished:
        if text not in runs:
            folder = factory.mktemp("recomputed")
            prepare(folder)
            file = folder / "sweep.yaml"
            merged = {**yaml.safe_load(common), **yaml.safe_load(text)}
            file.write_text(yaml.safe_dump(merged, sort_keys=False))
            outcome = sweep.run(file, out=folder / "run", local=True, plugins=plugins)
            assert not outcome.failures
            runs[text] = Path(outcome.run)
        return Finished(runs[text], model)

    return found
