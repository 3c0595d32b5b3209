"""What runs share: found by name, fetched as far as it is needed, published whatever happens."""

import errno
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator import resume, shared
from orchestrator.plan import Plan
from orchestrator.store import Store, StoreError, parquet
from orchestrator.tasks import Task
from tests.orchestrator import planned

DATA = "data/a/texts.parquet"


def task(kind: str, file: str, *after: str, name: str = "", **arguments: object) -> Task:
    return Task(
        name=name or f"name-of-{Path(file).stem}",
        stage="reduce",
        kind=kind,
        label=kind,
        file=file,
        model=None,
        after=after,
        arguments={"model": "a", "data_name": "texts", **arguments},
    )


def chain(model: str = "a", data: str = "texts") -> dict[str, Task]:
    """Two shards and what is made of them, as a sweep with these labels plans it."""
    table = f"data/{model}/{data}.parquet"
    part = f"partials/{model}/"
    files = {
        "data": ("data", table, ()),
        "pilot": ("pilot", part + "p.arrow", (table,)),
        "one": ("collect", part + "1.arrow", (table, part + "p.arrow")),
        "two": ("collect", part + "2.arrow", (table, part + "p.arrow")),
        "root": ("merge", part + "r.arrow", (part + "1.arrow", part + "2.arrow")),
        "table": ("statistics", f"statistics/{model}/s.parquet", (part + "r.arrow",)),
        "mean": ("centres", f"centres/{model}/c.parquet", (part + "r.arrow",)),
        "order": ("selection", f"selections/{model}/o.parquet", ()),
    }
    return {
        key: task(kind, file, *after, name=f"recipe-{key}", model=model, data_name=data)
        for key, (kind, file, after) in files.items()
    }


def content(made: Task, value: float = 0.5) -> bytes:
    """Return a whole file such as a task commits, of the kind that its name ends with."""
    labels = {"model": made.arguments["model"], "data": made.arguments["data_name"]}
    table = pa.table({**{k: [v, v] for k, v in labels.items()}, "x": [value, 1.0]})
    if made.file.endswith(".parquet"):
        return parquet(table, made.name)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def make(store: Store, *tasks: Task) -> None:
    for one in tasks:
        store.commit(one.file, content(one))


@pytest.fixture
def run(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "run")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "common")


def everything(store: Store) -> set[str]:
    """Return every file of a store, whatever it is called."""
    found = (p for p in store.root.rglob("*") if p.is_file())
    return {p.relative_to(store.root).as_posix() for p in found}


def test_in_the_store_a_file_is_found_by_its_recipe_and_not_by_the_models_name() -> None:
    places = {key: shared.placed(one) for key, one in chain().items()}
    assert places == {
        "data": "data/data.recipe-data.parquet",
        "pilot": "partials/pilot.recipe-pilot.arrow",
        "one": "partials/collect.recipe-one.arrow",
        "two": "partials/collect.recipe-two.arrow",
        "root": "partials/merge.recipe-root.arrow",
        "table": "statistics/statistics.recipe-table.parquet",
        "mean": None,
        "order": None,
    }
    assert places == {key: shared.placed(one) for key, one in chain("b", "other").items()}


def test_what_one_run_made_another_finds(run: Store, store: Store, tmp_path: Path) -> None:
    tasks = chain()
    make(run, *tasks.values())
    published = shared.publish(tasks.values(), run, store)
    assert set(published) == {t.file for t in tasks.values() if shared.placed(t)}
    assert shared.publish(tasks.values(), run, store) == []

    other = Store.open(tmp_path / "other")
    assert shared.fetch([tasks["data"], tasks["table"]], other, store) == [
        DATA,
        "statistics/a/s.parquet",
    ]
    for key in ("data", "table"):
        here, there = run.path(tasks[key].file), other.path(tasks[key].file)
        assert here.read_bytes() == there.read_bytes()
        assert here.samefile(there)  # no second copy


def test_what_another_sweep_called_otherwise_is_found_under_its_own_names(
    run: Store, store: Store
) -> None:
    theirs, mine = chain("b", "corpus"), chain()
    away = Store.open(run.root / "away")
    make(away, *theirs.values())
    shared.publish(theirs.values(), away, store)
    before = {f: store.path(f).read_bytes() for f in everything(store)}

    shared.fetch([mine["data"], mine["table"], mine["mean"]], run, store)

    for key in ("data", "table"):
        table = run.table(mine[key].file)
        assert table.select(["model", "data", "x"]).to_pydict() == {
            "model": ["a", "a"],
            "data": ["texts", "texts"],
            "x": [0.5, 1.0],
        }
        assert run.recipe(mine[key].file) == mine[key].name
        assert table.schema.equals(away.table(theirs[key].file).schema)
    assert {f: store.path(f).read_bytes() for f in everything(store)} == before


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP])
def test_where_no_link_can_be_made_a_file_is_copied(
    run: Store, store: Store, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    link, tasks = os.link, chain()
    make(run, *tasks.values())

    def refuse(source: Path, place: Path) -> None:
        if (run.root in source.parents) != (run.root in place.parents):
            raise OSError(code, "not from one to the other")
        link(source, place)

    monkeypatch.setattr(os, "link", refuse)
    shared.publish(tasks.values(), run, store)
    run.delete(tasks["one"].file)
    run.delete(tasks["table"].file)
    assert shared.fetch([tasks["table"]], run, store) == [tasks["table"].file]
    assert not run.path(tasks["table"].file).samefile(
        store.path("statistics/statistics.recipe-table.parquet")
    )
    assert everything(store) == {p for t in tasks.values() if (p := shared.placed(t))}


def test_a_file_that_was_cut_short_in_the_store_is_neither_fetched_nor_kept(
    run: Store, store: Store
) -> None:
    tasks = chain()
    store.commit("statistics/statistics.recipe-table.parquet", content(tasks["table"])[:-9])
    assert shared.fetch([tasks["table"]], run, store) == []
    assert everything(store) == set()
    assert everything(run) == set()


def test_a_file_that_was_cut_short_in_the_store_is_replaced_by_a_whole_one(
    run: Store, store: Store
) -> None:
    tasks = chain()
    make(run, tasks["root"])
    store.commit("partials/merge.recipe-root.arrow", content(tasks["root"])[:-9])
    assert shared.publish(tasks.values(), run, store) == [tasks["root"].file]
    assert store.whole("partials/merge.recipe-root.arrow")


def test_a_file_that_was_cut_short_in_the_run_is_not_published(run: Store, store: Store) -> None:
    tasks = chain()
    run.commit(tasks["table"].file, content(tasks["table"])[:-9])
    assert shared.publish(tasks.values(), run, store) == []
    assert everything(store) == set()


def test_data_made_from_another_recipe_is_not_published_under_this_ones_name(
    run: Store, store: Store
) -> None:
    run.commit(DATA, content(task("data", DATA, name="made otherwise")))
    assert shared.publish(chain().values(), run, store) == []


@pytest.mark.parametrize(
    ("stored", "fetched"),
    [
        ({"data", "pilot", "one", "two", "root", "table"}, {"data", "root", "table"}),
        ({"data", "pilot", "one", "two", "table"}, {"data", "one", "two", "table"}),
        ({"data", "pilot", "one", "root"}, {"data", "root"}),
        ({"pilot", "one", "two"}, {"one", "two"}),
        ({"pilot", "one"}, {"pilot", "one"}),
        ({"pilot"}, {"pilot"}),
        ({"mean", "order"}, set()),
    ],
)
def test_partials_are_fetched_only_as_far_as_something_needs_them(
    run: Store, store: Store, stored: set[str], fetched: set[str]
) -> None:
    tasks = chain()
    away = Store.open(run.root / "away")
    make(away, *(tasks[key] for key in stored))
    shared.publish(tasks.values(), away, store)
    found = shared.fetch(list(tasks.values()), run, store)
    assert set(found) == {tasks[key].file for key in fetched}


def test_a_file_that_goes_away_while_it_is_fetched_is_not_found(
    run: Store, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, link = chain(), os.link
    make(run, tasks["root"])
    shared.publish(tasks.values(), run, store)
    run.delete(tasks["root"].file)

    def late(source: Path, place: Path) -> None:
        source.unlink()
        link(source, place)

    monkeypatch.setattr(os, "link", late)
    assert shared.fetch([tasks["mean"], tasks["root"]], run, store) == []
    assert everything(run) == set()


def test_many_runs_may_publish_and_fetch_at_once(store: Store, tmp_path: Path) -> None:
    tasks, together = chain(), Barrier(8)

    def work(number: int) -> set[str]:
        mine = Store.open(tmp_path / f"run-{number}")
        make(mine, *tasks.values())
        together.wait()
        made = shared.publish(tasks.values(), mine, store)
        taker = Store.open(tmp_path / f"taker-{number}")
        shared.fetch(list(tasks.values()), taker, store)
        assert taker.table(tasks["table"].file).num_rows == 2
        return set(made)

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(work, range(8)))
    places = {t.file for t in tasks.values() if shared.placed(t)}
    assert set().union(*made) == places
    assert sum(map(len, made)) == len(places)  # each by one of them alone
    assert everything(store) == {p for t in tasks.values() if (p := shared.placed(t))}


class Told:
    """Hears what is told."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, object]] = []

    def __call__(self, event: str, **details: object) -> None:
        self.heard.append((event, details["file"]))


def test_what_is_fetched_and_published_is_told(run: Store, store: Store, tmp_path: Path) -> None:
    tasks, told = chain(), Told()
    away = Store.open(tmp_path / "away")
    make(away, tasks["data"])
    shared.publish(tasks.values(), away, store)
    with shared.sharing(tasks.values(), list(tasks.values()), run, store, told) as found:
        assert found == [DATA]
        make(run, tasks["root"])
    assert told.heard == [("fetched", DATA), ("published", tasks["root"].file)]


def work(run: Store, store: Store, end: type[BaseException] | None) -> None:
    """Make a file in a run folder that shares, and end so."""
    tasks = chain()
    with shared.sharing(tasks.values(), list(tasks.values()), run, store, Told()):
        make(run, tasks["one"])
        if end is not None:
            raise end


def test_what_was_made_is_published_though_the_work_raised(run: Store, store: Store) -> None:
    with pytest.raises(RuntimeError):
        work(run, store, RuntimeError)
    assert everything(store) == {"partials/collect.recipe-one.arrow"}


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit, StoreError])
def test_what_was_made_is_published_by_the_next_run_if_the_work_was_interrupted(
    run: Store, store: Store, end: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shared, "publish", lambda *_: pytest.fail("there is no time to"))
        with pytest.raises(end):
            work(run, store, end)
    assert everything(store) == set()
    work(run, store, None)
    assert everything(store) == {"partials/collect.recipe-one.arrow"}


@pytest.fixture
def blocked(store: Store) -> Store:
    """A store in which a file stands where a folder should."""
    store.path("partials").write_text("in the way")
    return store


def test_a_store_that_cannot_be_written_is_told_when_nothing_else_went_wrong(
    run: Store, blocked: Store
) -> None:
    tasks = chain()
    make(run, tasks["one"])
    with (
        pytest.raises(StoreError, match="cannot be written"),
        shared.sharing(tasks.values(), [], run, blocked, Told()),
    ):
        pass
    with (
        pytest.raises(ZeroDivisionError),
        shared.sharing(tasks.values(), [], run, blocked, Told()),
    ):
        raise ZeroDivisionError


def test_a_run_folder_is_no_store_of_its_own(run: Store, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run.root)
    for same in (run.root, tmp_path / "link", tmp_path / "run" / ".." / "run"):
        with pytest.raises(StoreError, match=r"is the run folder itself; name another .* `store:`"):
            shared.opened(same, run)
    assert shared.opened(tmp_path / "new" / "store", run).root.is_dir()


def test_a_store_that_cannot_be_made_is_refused(run: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"shared store .*file.* cannot be written; name another"):
        shared.opened(tmp_path / "file", run)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plan]:
    """A plan of two models, one of them with ten shards, so that merges are a tree."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("plan")
        planned.documents(folder)
        planned.know(patch, {"a": planned.facts(), "m": planned.facts("masked", heads=3)})
        yield planned.make(folder, models=["a", "m"], statistics={"shards": 10})


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_of_any_plan_nothing_is_made_that_is_shared_and_nothing_fetched_that_is_not_needed(
    tmp_path: Path, plan: Plan, data: st.DataObject
) -> None:
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    run, store, away = (Store.open(folder / name) for name in ("run", "store", "away"))
    some = st.sets(st.sampled_from(sorted(t.file for t in plan.tasks)))
    here, there = data.draw(some), data.draw(some)
    make(run, *(t for t in plan.tasks if t.file in here))
    make(away, *(t for t in plan.tasks if t.file in there))
    shared.publish(plan.tasks, away, store)

    fetched = set(shared.fetch(resume.left(plan, run).tasks, run, store))

    left = resume.left(plan, run).tasks
    kept = {t.file: shared.placed(t) for t in plan.tasks}
    assert not [t.file for t in left if (p := kept.get(t.file)) and store.exists(p)]
    read = {file for t in left for file in t.after}
    assert {f for f in fetched if f.startswith("partials/")} <= read
    assert not fetched & here


def test_nothing_else_of_a_plan_is_shared(plan: Plan) -> None:
    unshared = {t.kind for t in plan.tasks if shared.placed(t) is None}
    assert unshared == {"donors", "selection", "centres"}
