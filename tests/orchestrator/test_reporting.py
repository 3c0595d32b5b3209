"""`peaksweep report` of several runs: the page, where it lies, and what is refused."""

import re
from pathlib import Path

import polars as pl
import pytest
import yaml

from orchestrator import results
from orchestrator.agreement import agreement
from orchestrator.coinciding import same_source
from orchestrator.matching import subjects
from orchestrator.report import against
from orchestrator.report.against import look, write
from orchestrator.report.against_words import Against, points_said, stopped_said
from orchestrator.reporting import _free, report
from orchestrator.store import Store, StoreError
from orchestrator.terminal import CommandError
from orchestrator.unlike import facts
from tests.orchestrator import answered
from tests.orchestrator.written_run import write as write_run

POINTS = answered.cells(models=["zoo:opt"], masks=2, swept=answered.SWEPT[:2])


@pytest.fixture(autouse=True)
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(name: str, points: pl.DataFrame = POINTS, **said: object) -> str:
    seed = int(str(said.pop("seed", 0)))
    rows = answered.results(points, seed=seed)
    return str(write_run(Path(name), points, rows, **said))  # type: ignore[arg-type]


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without figures, which take the most of a page's time."""
    monkeypatch.setattr(against, "_figures", lambda one, number: [])


def read(folder: str) -> str:
    return Path(folder, "report", "index.html").read_text(encoding="utf-8")


def between(a: str, b: str) -> Against:
    return look(Store.of(a), Store.of(b))


def test_two_runs_have_a_page_of_their_own_and_are_left_as_they_are() -> None:
    runs = run("a"), run("b", seed=1, torch="2.15.0")
    before = {file: file.read_bytes() for name in runs for file in Path(name).rglob("*.*")}
    report(runs)
    folder = Path("comparisons/a-and-b")
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "differences are paired, document by document" in page
    assert "both runs hold the same units" in page
    assert "2.15.0" in page
    assert "Above zero, run B is damaged more" in page  # CE
    assert "Below zero, run B is damaged more" in page  # Top-1
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", page)
    assert pl.read_parquet(folder / "differences.parquet").height
    assert {f: f.read_bytes() for name in runs for f in Path(name).rglob("*.*")} == before


def test_figures_of_an_earlier_comparison_of_the_name_go(undrawn: None) -> None:
    made = Store.open("twice")
    made.replace("report/curves-7-ce.svg", b"old")
    write([between(run("a"), run("b"))], made)
    assert made.files("report", ".svg") == []


def test_a_page_says_that_runs_coincide(undrawn: None) -> None:
    runs = run("a"), run("b")
    found = between(*runs)
    assert found.coincide
    write([found], Store.open("same"))
    page = read("same")
    assert "The runs coincide" in page
    assert "Their answers agree to the bit" in page


def test_cells_of_one_name_that_differ_are_listed() -> None:
    rows = answered.results(POINTS).lazy()
    odd = (pl.col("cell") == POINTS["cell"][5]) & (pl.col("sequence") == 3)
    other = rows.with_columns(
        loss=pl.when(odd).then(pl.col("loss") + 1e-13).otherwise("loss"),
        nan=pl.when(odd).then(1).otherwise("nan"),
    )
    found = agreement(rows, other)
    assert found.shared == POINTS["cell"].n_unique()
    (row,) = found.differing.to_dicts()
    assert (row["cell"], row["sequences"], row["integers"]) == (POINTS["cell"][5], 1, True)
    assert row["columns"] == ["loss", "nan"]
    assert agreement(rows, rows.filter(pl.col("sequence") < 4)).differing.is_empty()


def test_a_run_that_is_going_on_is_compared_as_far_as_it_is(undrawn: None) -> None:
    rows = answered.results(POINTS)
    late = pl.col("cell").is_in(POINTS.filter(pl.col("fraction") == 0.5)["cell"])
    a, b = run("a"), str(write_run(Path("b"), POINTS, rows.filter(~late)))
    found = between(a, b)
    fractions = found.found.differences["fraction"].drop_nulls().unique().sort().to_list()
    assert fractions == [0.1, 1.0]
    write([found], Store.open("half"))
    assert "Run B is incomplete" in read("half")


def test_what_differs_is_told_from_what_the_runs_recorded() -> None:
    a, b = run("a"), run("b", torch="2.15.0", digest="d2")
    told = facts(Store.of(a), Store.of(b), subjects(POINTS, POINTS))
    apart = told.filter(~pl.col("same")).select("topic", "what", "a", "b").rows()
    assert apart == [
        ("model zoo:opt", "digest", "d1", "d2"),
        ("versions", "torch", "2.14.0", "2.15.0"),
    ]


def test_documents_of_one_name_in_other_sources_are_not_paired() -> None:
    texts = {f"doc{i}": f"another {i}" for i in range(6)}
    a, b = run("a"), run("b", source="other.jsonl", said=texts)
    assert between(a, b).found.pairings[0].documents.way == "independent"


def test_documents_cut_by_two_tokenizers_are_paired_by_name_and_told(undrawn: None) -> None:
    texts = {f"doc{i}": f"another {i}" for i in range(6)}
    a, b = run("a"), run("b", said=texts, digest="d2")
    found = between(a, b)
    documents = found.found.pairings[0].documents
    assert (documents.way, documents.shared, documents.by_content) == ("paired", 6, 0)
    write([found], Store.open("cut"))
    assert "compare bits per byte" in read("cut")


def test_a_name_in_another_split_is_another_document() -> None:
    """Two tokenizers, so that names alone could tell; a column may name alike in every split."""
    section = {"source": "rows.jsonl", "document": "id", "evaluate": {"split": "test"}}
    assert same_source(section, {**section, "sequence_length": 64})
    assert not same_source(section, {**section, "evaluate": {"split": "validation"}})


def test_what_only_one_run_asks_for_is_counted() -> None:
    fewer = POINTS.filter(pl.col("fraction") != 0.5)
    (pairing,) = between(run("a"), run("b", fewer)).found.pairings
    assert (pairing.points, pairing.own) == (4, (6, 4))
    assert points_said(pairing).endswith("4, of 6 in A and 4 in B.")


def test_where_one_run_stopped_sooner_it_is_said() -> None:
    """The difference is then one of documents too, over which its interval goes."""
    rows = answered.results(POINTS, rounds=3)
    early = answered.stopped(rows, lambda cell: 2 if "mean" in cell else 3)
    a, b = (str(write_run(Path(n), POINTS, x)) for n, x in (("a", rows), ("b", early)))
    found = between(a, b).found
    mean, peak = (found.differences.filter(method=m, metric="d_ce") for m in ("mean", "peak"))
    assert set(mean.select("documents_a", "documents_b").rows()) == {(6, 4)}
    assert not (mean["low"] == mean["high"]).any()
    assert stopped_said(found.pairings[0], mean).startswith("Reading: at some points")
    assert stopped_said(found.pairings[0], peak) == ""


def test_what_prompts_are_asked_for_is_on_the_page() -> None:
    rows = answered.results(POINTS).with_columns(
        logit_diff=pl.col("loss") / 2, choice=pl.col("top1"), kl=pl.col("loss") / 3
    )
    runs = []
    for name in "ab":
        folder = write_run(Path(name), POINTS, rows)
        said = yaml.safe_load((folder / "sweep.yaml").read_text())
        said["evaluation"] = {"metrics": ["logit_diff", "choice"]}
        (folder / "sweep.yaml").write_text(yaml.safe_dump(said))
        runs.append(str(folder))
    assert against._shown(between(*runs)) == ["ce", "top1", "logit_diff", "choice"]


def test_a_text_that_changed_under_its_name_is_not_paired() -> None:
    a, b = run("a"), run("b", said={"doc2": "rewritten"})
    documents = between(a, b).found.pairings[0].documents
    # Windows are told apart by their text, so the rewritten document has none in common.
    assert (documents.shared, documents.changed, documents.way) == (5, 1, "partly")


def test_of_three_runs_two_are_compared_with_the_first(undrawn: None) -> None:
    runs = [run("a"), run("b", seed=1), run("c", seed=2)]
    report(runs)
    page = read("comparisons/a-and-b-and-c")
    assert "How damage differs: b" in page
    assert "How damage differs: c" in page


def test_from_python_runs_are_compared_as_on_the_page() -> None:
    a, b = run("a"), run("b", seed=1)
    made = results.compare_runs(a, results.open(b))
    assert made.differences.equals(between(a, b).found.differences)


def test_the_same_folder_twice_is_refused() -> None:
    run("a")
    with pytest.raises(CommandError, match=r"are the same run.*peaksweep report"):
        report(["a", "./a/"])


def test_a_folder_without_a_run_is_refused() -> None:
    Path("empty").mkdir()
    with pytest.raises(StoreError, match="empty"):
        report([run("a"), "empty"])


def test_runs_without_a_common_point_are_refused_with_what_differs() -> None:
    other = POINTS.with_columns(site=pl.lit("mlp_mid"))
    with pytest.raises(CommandError, match=r"no site \(attn_pre_out.*mlp_mid.*run one of them"):
        report([run("a"), run("b", other)])
    assert not Path("comparisons").exists()


def test_nor_into_a_run_in_an_object_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "exists", lambda self, file: self.uri == "s3://bucket/run")
    with pytest.raises(CommandError, match="lies in the run s3://bucket/run,"):
        _free("s3://bucket/run/report/against", [])
    _free("s3://bucket/running/against", [])


def test_a_comparison_is_written_into_no_run() -> None:
    runs = run("a"), run("b")
    with pytest.raises(CommandError, match="lies in the run"):
        report(runs, "a/report/against")
    with pytest.raises(CommandError, match="one run"):
        report(runs[:1], "elsewhere")
