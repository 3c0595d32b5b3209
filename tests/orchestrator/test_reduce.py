"""A tree of merges over files: any tree gives the same bits, and what is done stays done."""

from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import partials, reduce, tabular
from orchestrator.local_pool import LocalPool
from orchestrator.pool import Event
from orchestrator.scheduler import Scheduler
from orchestrator.store import Store
from orchestrator.tasks import Task
from tests.orchestrator.partial_results import bits, fixed, histograms, plain
from workers.histogram import FixedCounts, Histogram, MergeError, merge, merge_fixed

law = settings(max_examples=25, deadline=None)
numbers = count()


@pytest.fixture(scope="module", autouse=True)
def small_blocks() -> Iterator[None]:
    """Have files written in blocks of two rows, so that a few rows are several blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tabular, "BLOCK_ROWS", 2)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(tmp_path_factory.mktemp("run"))


def written(run: Store, part: Histogram | FixedCounts) -> str:
    file = f"partials/part.{next(numbers)}.arrow"
    is_histogram = isinstance(part, Histogram)
    table = partials.from_histogram(part) if is_histogram else partials.from_fixed(part)
    partials.commit(run, file, table, "part")
    return file


def task(parts: Sequence[str], kind: str = "merge") -> Task:
    number = next(numbers)
    return Task(
        name=f"name {number}",
        stage="reduce",
        kind=kind,
        label=f"merge {number}",
        file=f"partials/merge.{number}.arrow",
        model=None,
        after=tuple(parts),
        arguments={"parts": list(parts)},
    )


def merged(run: Store, parts: Sequence[str], kind: str = "merge") -> str:
    one = task(parts, kind)
    done = reduce.merge(one, run) if kind == "merge" else reduce.merge_fixed(one, run)
    assert done["shards"] == len(partials.shards_of(run.schema(one.file)))
    assert run.recipe(one.file) == one.name
    return one.file


@st.composite
def trees(draw: st.DrawFn, leaves: int = 5) -> list[list[int]]:
    """Draw which of the parts there are by then are joined next, until one is left."""
    left, steps = leaves, []
    while left > 1:
        steps.append(draw(st.permutations(range(left)))[: draw(st.integers(2, left))])
        left -= len(steps[-1]) - 1
    return steps


def grown(run: Store, files: list[str], steps: list[list[int]], kind: str) -> str:
    for chosen in steps:
        joined = merged(run, [files[i] for i in chosen], kind)
        files = [f for i, f in enumerate(files) if i not in chosen] + [joined]
    (root,) = files
    return root


@law
@given(made=histograms(parts=5), steps=trees())
def test_any_tree_of_histograms_gives_the_bits_of_one_merge(
    run: Store, made: list[Histogram], steps: list[list[int]]
) -> None:
    root = grown(run, [written(run, part) for part in made], steps, "merge")
    assert bits(partials.to_histogram(run.table(root))) == bits(merge(made))


@law
@given(made=fixed(parts=5), steps=trees())
def test_any_tree_of_fixed_counts_gives_the_bits_of_one_merge(
    run: Store, made: list[FixedCounts], steps: list[list[int]]
) -> None:
    root = grown(run, [written(run, part) for part in made], steps, "merge_fixed")
    assert bits(partials.to_fixed(run.table(root))) == bits(merge_fixed(made))


def test_counts_that_outgrow_four_bytes_are_not_lost(run: Store) -> None:
    counts_RB = np.full((3, 4), 2**30)
    files = [written(run, plain(counts_RB, shard)) for shard in range(4)]
    root = grown(run, files, [[0, 1], [0, 1], [0, 1]], "merge")
    assert np.array_equal(partials.to_histogram(run.table(root)).counts, counts_RB * 4)


def test_a_shard_that_comes_twice_is_refused_and_leaves_nothing(run: Store) -> None:
    counts_RB = np.ones((3, 4), np.int64)
    files = [written(run, plain(counts_RB, shard)) for shard in (0, 1)]
    one = task([*files, files[0]])
    with pytest.raises(MergeError, match=r"Shards \[0\] are in more than one"):
        reduce.merge(one, run)
    assert not run.exists(one.file)
    assert not [p for p in run.path("partials").iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("rows", [(3, 5), (5, 3), (3, 4), (4, 3), (0, 3)])
def test_parts_of_other_rows_are_refused(run: Store, rows: tuple[int, int]) -> None:
    files = [written(run, plain(np.ones((r, 4), np.int64), i)) for i, r in enumerate(rows)]
    with pytest.raises(ValueError, match=r"blocks of rows|different windows"):
        merged(run, files)


def test_a_part_that_is_missing_fails_its_merge_and_not_the_run_folder(run: Store) -> None:
    file = written(run, plain(np.ones((3, 4), np.int64)))
    with pytest.raises(FileNotFoundError, match="gone"):  # a StoreError would end the sweep
        merged(run, [file, "partials/gone.arrow"])


class Ends(LocalPool):
    """A pool that is switched off after so many events, as a killed driver would be."""

    left = 2

    def wait(self, seconds: float) -> Sequence[Event]:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return super().wait(seconds)


def test_an_interrupted_reduction_goes_on_from_the_merges_that_are_there(run: Store) -> None:
    rng = np.random.default_rng(0)
    made = [plain(rng.integers(0, 9, (5, 4)), shard) for shard in range(6)]
    files = [written(run, part) for part in made]
    lower = [task(files[i : i + 2]) for i in (0, 2, 4)]
    tasks = [*lower, task([one.file for one in lower])]
    with pytest.raises(KeyboardInterrupt):
        Scheduler(tasks, files, Ends(run)).run()
    done = [one.file for one in tasks if run.exists(one.file)]
    assert done == [one.file for one in lower[:2]]
    before = {file: run.path(file).stat().st_ino for file in done}
    for file in files[:4]:  # what is merged already is not read again
        run.delete(file)

    started: list[str] = []
    Scheduler(
        [one for one in tasks if one.file not in done],
        [*files, *done],
        LocalPool(run),
        listen=lambda event, of, _: started.append(of.file) if event == "started" else None,
    ).run()
    assert started == [tasks[2].file, tasks[3].file]
    assert {file: run.path(file).stat().st_ino for file in done} == before
    assert bits(partials.to_histogram(run.table(tasks[3].file))) == bits(merge(made))


def test_parts_are_read_block_by_block_and_never_whole(
    run: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [written(run, plain(np.ones((6, 4), np.int64), shard)) for shard in range(9)]
    read: list[tuple[int, str]] = []
    block = Store.block

    def watched(self: Store, file: str, number: int) -> object:
        read.append((number, file))
        return block(self, file, number)

    monkeypatch.setattr(Store, "block", watched)
    monkeypatch.setattr(Store, "table", lambda *_: pytest.fail("a part is read whole"))
    merged(run, files)
    assert read == [(number, file) for number in range(3) for file in files]
