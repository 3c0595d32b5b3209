"""Frames: every table of a run by name, whatever state the folder is in."""

from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from orchestrator import results
from orchestrator.aggregate import DifferingAnswersError
from orchestrator.frames import MADE, NAMES, derived, frames
from orchestrator.stops import SCHEMA as STOPS
from orchestrator.store import Store, StoreError, parquet
from orchestrator.tables import SCHEMAS
from tests.orchestrator.answered import cells as points
from tests.orchestrator.answered import results as answers

POINTS = points(masks=1, models=["zoo:opt"], swept=(("zero", "{}"), ("mean", "{}")))
ANSWERS = answers(POINTS, documents=3)


def committed(store: Store, part: str, rows: pl.DataFrame, *, twin: bool = True) -> None:
    """Write a part of `results`, and what says that it counts."""
    store.commit(f"results/m/{part}.parquet", parquet(typed("results", rows), part))
    if twin:
        names = rows["cell"].unique().sort()
        executed = pl.DataFrame({"cell": names, "rounds": [[0]] * len(names), "seconds": 0.5})
        file = f"executions/m/{part}.parquet"
        store.commit(file, parquet(typed("executions", executed), part))


def typed(kind: str, rows: pl.DataFrame) -> pa.Table:
    schema = SCHEMAS[kind]
    lacking = [pl.lit(None).alias(name) for name in schema.names if name not in rows.columns]
    return rows.with_columns(lacking).select(schema.names).to_arrow().cast(schema)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a run that is half answered: two parts of results, no table made of them."""
    store = Store(tmp_path)
    store.replace("cells.parquet", parquet(typed("cells", POINTS)))
    half = ANSWERS["cell"].unique().sort()[::2]
    committed(store, "a", ANSWERS.filter(pl.col("cell").is_in(half.implode())))
    committed(store, "b", ANSWERS.filter(~pl.col("cell").is_in(half.implode())))
    return store


def test_every_table_of_a_folder_with_nothing_in_it_is_there_and_empty(tmp_path: Path) -> None:
    found = frames(Store(tmp_path))
    assert tuple(found) == NAMES
    assert len(found) == len(NAMES)
    for name in found:
        assert found[name].collect().height == 0, name
        if name in SCHEMAS:
            assert found[name].collect_schema().names() == SCHEMAS[name].names
    assert found["stops"].collect_schema() == STOPS
    assert "d_ce_low" in found["summary"].collect_schema()
    with pytest.raises(KeyError):
        found["tables"]


def test_answers_are_those_of_all_parts(store: Store) -> None:
    found = frames(store)["results"].collect()
    order = ["cell", "sequence"]
    assert_frame_equal(found.sort(order), ANSWERS.sort(order), check_column_order=False)


def test_an_answer_whose_execution_is_not_there_does_not_count(store: Store) -> None:
    committed(store, "c", ANSWERS.with_columns(cell=pl.lit("unfinished")), twin=False)
    assert "unfinished" not in frames(store)["results"].collect()["cell"]


def test_an_answer_that_stands_in_two_parts_counts_once(store: Store) -> None:
    committed(store, "joined.all", ANSWERS)
    found = frames(store)["results"].collect()
    assert found.height == ANSWERS.height
    assert found["loss"].sum() == pytest.approx(ANSWERS["loss"].sum(), rel=1e-12)


def test_two_answers_that_differ_are_refused(store: Store) -> None:
    committed(store, "other", ANSWERS.with_columns(pl.col("loss") + 1))
    with pytest.raises(DifferingAnswersError, match="two different answers"):
        frames(store)["results"]


def test_a_file_that_was_cut_short_is_left_out(store: Store) -> None:
    file = store.path("results/m/a.parquet")
    file.write_bytes(file.read_bytes()[:-20])
    found = frames(store)["results"].collect()
    assert 0 < found.height < ANSWERS.height


def test_what_is_made_of_the_answers_is_made_while_the_run_goes_on(store: Store) -> None:
    live = {name: frames(store)[name].collect() for name in MADE}
    assert live["summary"]["ce"].null_count() == 0
    assert not list(Path(store.uri).glob("*summary*")), "reading wrote a table"
    results.aggregated(store, [])
    for name in MADE:
        assert_frame_equal(live[name], frames(store)[name].collect())
        assert_frame_equal(live[name], dict(derived(store, []))[name])


def test_a_table_that_was_written_is_read_and_not_made(store: Store) -> None:
    store.replace("summary.parquet", parquet(pa.table({"cell": ["written"]})))
    assert frames(store)["summary"].collect()["cell"].to_list() == ["written"]


def test_texts_and_images_stand_in_one_table(tmp_path: Path) -> None:
    store = Store(tmp_path)
    text = {"model": ["t"], "sequence": [0], "input": [[3, 4]], "target": [[4, -100]]}
    image = {"model": ["i"], "sequence": [0], "image": [[0, 9]], "shape": [[1, 2, 1]]}
    store.commit("data/t/d.parquet", parquet(typed("text", pl.DataFrame(text))))
    images = typed("images", pl.DataFrame(image | {"target": [7]}))
    store.commit("data/i/d.parquet", parquet(images))
    found = frames(store)["data"].sort("model").collect()
    assert found["target"].to_list() == [[7], [4, -100]]
    assert found["shape"].to_list() == [[1, 2, 1], None]
    assert found["input"].to_list() == [None, [3, 4]]


def test_only_the_files_of_the_table_asked_for_are_looked_at(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    real = Store.files
    monkeypatch.setattr(
        Store, "files", lambda self, folder: looked.append(folder) or real(self, folder)
    )
    found = frames(store)
    assert found["statistics"].collect().height == 0
    assert looked == ["statistics"]


def test_a_damaged_sweep_file_is_told_as_one(store: Store) -> None:
    store.replace("sweep.yaml", b"- no mapping")
    with pytest.raises(StoreError, match="run the same sweep again"):
        frames(store)["summary"]
