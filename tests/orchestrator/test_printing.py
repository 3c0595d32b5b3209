"""What a plan, a status and a summary look like on a terminal."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from orchestrator import amounts, printing
from orchestrator import budget as budgeting
from orchestrator.lease import Holder
from orchestrator.standing import status_table
from orchestrator.status import FailureStatus, StageStatus, Status
from orchestrator.store import rows
from tests.orchestrator import planned
from tests.orchestrator.synthetic_run import write_run


def text(*parts: object, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    for part in parts:
        console.print(part)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (5399, "90 min"),
        (5400, "1.5 h"),
        (1e6, "277.8 h"),
    ],
)
def test_durations_are_told_in_the_unit_people_use(seconds: float, said: str) -> None:
    assert amounts.duration(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 MiB"), (2**20, "1 MiB"), (2**30, "1.0 GiB"), (5 * 2**29, "2.5 GiB")]
)
def test_sizes_are_told_in_the_unit_people_use(count: int, said: str) -> None:
    assert amounts.size(count) == said


def test_a_plan_says_what_it_holds_and_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned.documents(tmp_path)
    planned.know(monkeypatch, {"a": planned.facts(), "m": planned.facts("masked")})
    made = planned.make(tmp_path, models=["a", "m"], name="little")
    console = Console(file=io.StringIO(), width=120)
    printing.plan_table(console, made, budgeting.budget(made))
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    head = f"little: {len(made.rows)} points are {len(made.cells)} distinct cells, and"
    assert head in said
    assert "3 x 10 " in said
    assert "texts" in said
    assert "that of one replica (cpu)" in said


def stages(**last: int) -> tuple[StageStatus, ...]:
    full = {"done": 1234, "running": 0, "missing": 0, "failed": 0}
    return (
        StageStatus(stage="prepare", **full),
        StageStatus(stage="evaluate", **{**full, **last}),
    )


HOLDER = Holder(host="node-3", pid=77, epoch=2, started=1.8e9, beat=1.8e9 + 60, beat_age=2.0)


@pytest.mark.parametrize(
    ("holder", "last", "said"),
    [
        (None, {}, "finished"),
        (HOLDER, {"running": 5}, "running (process 77 on node-3, since 2027-01-15 08:00 UTC)"),
        (HOLDER, {}, "running (process 77 on node-3, since 2027-01-15 08:00 UTC); finished but"),
        (
            replace(HOLDER, beat_age=22.0),
            {"running": 5},
            "running (process 77 on node-3, since 2027-01-15 08:00 UTC, last heard of 22 s ago)",
        ),
        (None, {"missing": 5}, "not running here or elsewhere; `peaksweep run`"),
        (None, {"failed": 5}, "not running here"),
    ],
)
def test_a_status_says_in_words_how_it_stands(
    holder: Holder | None, last: dict[str, int], said: str
) -> None:
    found = Status(run="runs/[x]", holder=holder, stages=stages(**last), failures=())
    shown = text(status_table(found), width=120)
    assert f"runs/[x]: {said}" in " ".join(shown.split())
    assert "1,234" in shown


@pytest.mark.parametrize(
    ("rate", "left", "said"),
    [
        (1234.4, 5400.0, "UTC), 1,234 cells a minute, about 1.5 h left"),
        (0.25, None, "UTC), 0.2 cells a minute\n"),
        (None, None, "UTC)\n"),
    ],
)
def test_a_status_says_how_fast_a_run_goes_and_for_how_long(
    rate: float | None, left: float | None, said: str
) -> None:
    found = Status(
        run="r", holder=HOLDER, stages=stages(running=5), failures=(), rate=rate, seconds_left=left
    )
    assert said in text(status_table(found), width=160)


def test_a_run_without_a_plan_yet_is_being_planned() -> None:
    said = text(status_table(Status(run="r", holder=HOLDER, stages=(), failures=())))
    assert said.startswith("r: being planned (process 77 on node-3, since")


@pytest.mark.parametrize("width", [80, 120])
def test_what_failed_is_told_with_why_and_the_command_that_does_it_again(width: int) -> None:
    command = (
        "peaksweep run sweep.yaml --out runs/mine --local --only \"cell = '0123456789abcdef'\""
    )
    failures = [
        FailureStatus(
            label=f"zoo:opt [{n}]", why="ValueError: bad [/x]", attempts=tried, command=again,
            record="failures/x.json",
        )
        for n, (tried, again) in enumerate([(2, command), (None, ""), *[(1, "")] * 20])
    ]  # fmt: skip
    found = Status(run="runs/mine", stages=stages(failed=22), failures=tuple(failures))
    console = Console(file=io.StringIO(), width=width)
    console.print(status_table(found), soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "failed zoo:opt [0]: ValueError: bad [/x] (tried twice)" in shown
    assert "failed zoo:opt [1]: ValueError: bad [/x]\n" in shown
    assert "zoo:opt [20]" not in shown
    assert "2 more failures in runs/mine/failures" in shown
    assert command in shown  # in one piece, to be copied


def counted(**columns: object) -> pl.DataFrame:
    """Return the statistics of four neurons whose peaks lie 0, 1, 2 and 4 deviations off."""
    whole = {
        "model": "zoo:opt", "data": "stdlib", "dtype": "float32", "stratum": "all",
        "neuron": [0, 1, 2, 3], "count": [1000, 1000, 990, 1000], "below": [0, 5, 0, 10],
        "above": [0, 6, 0, 0], "mean": 0.0, "std": 0.5, "peak": [0.0, 0.5, -1.0, 2.0],
        **columns,
    }  # fmt: skip
    table = pl.from_arrow(rows("statistics", whole, 4))
    assert isinstance(table, pl.DataFrame)
    return table


def measures(*tables: pl.DataFrame) -> list[dict[str, str]]:
    """Return what is printed of statistics: per model, each measure's value."""
    found = []
    for table in printing.statistics_tables(pl.concat(tables).lazy()):
        title, _, *lines = text(table).splitlines()
        pairs = (line.rsplit("  ", 1) for line in lines)
        found.append({"title": title.strip(), **{k.strip(): v.strip() for k, v in pairs}})
    return found


def test_statistics_are_told_in_short() -> None:
    assert measures(counted()) == [
        {
            "title": "zoo:opt on stdlib, float32",
            "neurons": "4",
            "tokens counted, at most": "1,000",
            "more than 1% outside the window": "25.0%",
            "peak stable over bandwidths": "–",
            "median |peak - mean| / std": "1.500",
            "peak's interval excludes the mean": "–",
        }
    ]


def test_what_is_known_of_peaks_is_told() -> None:
    nan = float("nan")
    (told,) = measures(
        counted(
            peak_low=[-0.1, 0.4, nan, 1.0],
            peak_high=[0.1, 0.6, nan, 3.0],
            peak_stable=[True, True, True, False],
        )
    )
    assert told["peak's interval excludes the mean"] == "2 of 3"
    assert told["peak stable over bandwidths"] == "75.0%"


def test_a_neuron_that_never_moves_is_not_asked_how_far_its_peak_is() -> None:
    (told,) = measures(counted(std=[0.0, 0.0, float("nan"), 0.5], mean=[1.0, 0.0, 0.0, 0.0]))
    assert told["median |peak - mean| / std"] == "4.000"
    (told,) = measures(counted(std=0.0))
    assert told["median |peak - mean| / std"] == "–"


def test_strata_and_statistics_under_ablation_are_not_mixed_with_the_whole() -> None:
    parts = [counted(stratum=f"position {i}", count=10) for i in (0, 1)]
    (told,) = measures(counted(), *parts, counted(cell="c1", count=5000))
    assert told["neurons"] == "4"
    assert told["tokens counted, at most"] == "1,000"
    assert told["strata beside the whole"] == "2"


def test_every_model_has_statistics_of_its_own() -> None:
    told = measures(counted(), counted(model="a[x]"), counted(data="books"))
    assert [t["title"].split(",")[0] for t in told] == [
        "a[x] on stdlib",
        "zoo:opt on books",
        "zoo:opt on stdlib",
    ]


def test_what_a_shared_store_held_is_said_unless_it_is_nothing() -> None:
    assert [printing.fetched(n) for n in (0, 1)] == ["", " 1 file found in the shared store."]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pl.DataFrame]:
    """The tables of a made-up finished run."""
    folder = write_run(tmp_path_factory.mktemp("run"), layers=1, neurons=40)
    kinds = ("cells", "summary", "curves", "contrasts")
    return {kind: pl.read_parquet(folder / f"{kind}.parquet") for kind in kinds}


def test_the_summary_has_every_model_and_method_with_intervals(
    run: dict[str, pl.DataFrame],
) -> None:
    said = text(*printing.summary_tables(run["cells"], run["summary"], run["curves"]), width=100)
    for model in ("zoo:opt", "zoo:mistral", "zoo:roberta", "zoo:vit"):
        assert f"{model} on" in said
    for label in ("zero", "mean", "peak", "peak(paper)", "resample"):
        assert said.count(f"\n{label} ") == 4 * 2
    for share in ("10% held", "50% held", "90% held"):
        assert said.count(share) == 4 * 2
    assert "20% held" not in said
    assert "±" not in said
    assert "standard errors over 60 documents" in " ".join(said.split())


def test_the_summary_shows_the_numbers_of_the_tables(run: dict[str, pl.DataFrame]) -> None:
    said = text(*printing.summary_tables(run["cells"], run["summary"], run["curves"]), width=100)
    row = run["curves"].filter(
        (pl.col("model") == "zoo:opt")
        & (pl.col("method") == "mean")
        & (pl.col("metric") == "ce")
        & ((pl.col("held_share") - 0.5).abs() < 0.01)
    )
    (found,) = row.iter_rows(named=True)
    assert f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]" in said


def test_a_model_without_its_baseline_is_told_so(run: dict[str, pl.DataFrame]) -> None:
    held = run["summary"].filter(pl.col("units_held") > 0)
    said = text(*printing.summary_tables(run["cells"], held, run["curves"]))
    assert said.count("its baseline is not answered") == 4


def test_what_is_not_answered_yet_is_told_so(run: dict[str, pl.DataFrame]) -> None:
    few = run["curves"].filter((pl.col("method") != "peak") | (pl.col("held_share") < 0.3))
    said = text(*printing.summary_tables(run["cells"], run["summary"], few), width=100)
    assert said.count("not yet") == 4 * 2 * 2 * 2  # models, metrics, peaks, shares


@pytest.mark.parametrize("what", ["summary", "contrasts"])
def test_one_document_has_no_error_and_that_is_no_crash(
    run: dict[str, pl.DataFrame], what: str
) -> None:
    none = pl.lit(None, pl.Float64)
    summary = run["summary"].with_columns(top1_se=none, ce_se=none)
    contrasts = run["contrasts"].with_columns(low=none, high=none)
    if what == "summary":
        assert text(*printing.summary_tables(run["cells"], summary, run["curves"]))
    else:
        assert list(printing.contrast_lines(contrasts))


def test_a_model_whose_name_has_brackets_is_told_as_it_is(run: dict[str, pl.DataFrame]) -> None:
    def renamed(kind: str) -> pl.DataFrame:
        return run[kind].with_columns(model=pl.col("model") + "[x]")

    tables = [renamed(kind) for kind in ("cells", "summary", "curves")]
    assert "zoo:opt[x] on" in text(*printing.summary_tables(*tables))


def test_a_contrast_is_told_at_a_half_and_over_the_whole_range(
    run: dict[str, pl.DataFrame],
) -> None:
    *lines, rest = printing.contrast_lines(run["contrasts"])
    assert len(lines) == 4 * 2 * 2
    assert rest.startswith("contrasts.parquet has 160 more declared rows")
    assert sum("area over fractions" in line for line in lines) == 8
    assert sum("at 50%" in line for line in lines) == 8
    assert all("documents and" in line and "mask" in line for line in lines)
    assert lines[0].startswith("zoo:mistral: CE of peak minus mean")


def test_counts_agree_with_their_nouns() -> None:
    assert [amounts.counted(n, "mask") for n in (1, 2)] == ["1 mask", "2 masks"]


def told(tmp_path: Path, **changes: Any) -> str:
    """Return what is printed of the plan of a text model and an image model."""
    made = planned.make(tmp_path, **changes)
    console = Console(file=io.StringIO(), width=160)
    printing.plan_table(console, made, budgeting.budget(made))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_plan_names_the_neurons_of_every_site_and_what_to_know_of_the_mlp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned.documents(tmp_path)
    planned.know(monkeypatch, {"a": planned.facts(), "m": planned.facts("masked")})
    said = told(tmp_path, models=["a", "m"], sites=[["attn_pre_out", "mlp_mid"]])
    assert said.count("3 x 10, mlp 3 x 20") == 2
    assert "mlp_mid of a (relu): most values are exactly 0" in said
    assert "mlp_mid of m (gelu): the density diverges at the function's minimum, -0.17" in said
    assert "mlp" not in told(tmp_path, models=["a", "m"])


def test_a_plan_says_which_methods_a_model_is_not_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned.documents(tmp_path)
    planned.know(monkeypatch, {"a": planned.facts(), "m": planned.facts("masked")})
    said = told(tmp_path, models=["a", "m"], methods=["mean", "resample(generated)"])
    assert "resample(generated) is left out for m (masked text)" in said
    assert "left out for a" not in said


def row(said: str, model: str) -> list[str]:
    """Return the words of a model's row of a plan's table."""
    return next(line.split() for line in said.splitlines() if line.startswith(f"{model} "))


PEAK = {"contrast": ["peak", "mean"], "halfwidth": 0.02}


def test_a_plan_says_how_large_each_models_batches_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned.documents(tmp_path)
    planned.know(monkeypatch, {"a": planned.facts(), "m": planned.facts("masked")})
    said = told(tmp_path, models=["a", "m"])
    assert (row(said, "a")[5], row(said, "m")[5]) == ("2,048", "2,040")  # 64 x 32, 85 x 24
    assert "rounds" not in said
    assert "compile" not in said
    said = told(tmp_path, evaluation={"batch_tokens": 128})
    assert row(said, "a")[5] == "128"


def test_a_plan_that_may_stop_says_for_what_and_how_many_rounds_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned.documents(tmp_path)
    planned.know(monkeypatch, {"a": planned.facts(), "m": planned.facts("masked")})
    said = told(
        tmp_path, models=["a", "m"], precision=PEAK, evaluation={"batch_tokens": 64}
    )  # 64 windows of 32 and 24 positions; four batches a round
    assert row(said, "a")[5:8] == ["64", row(said, "a")[6], "8"]
    assert row(said, "m")[7] == "6"
    assert "peak - mean is to be known to 0.02 nats of cross-entropy" in said
    cells = int(row(said, "a")[6]) + int(row(said, "m")[6])
    assert f"{cells - 2} of {cells} cells may stop early" in said  # all but the unablated ones
    assert "reads all" not in said


def test_a_plan_says_where_nothing_can_stop_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned.documents(tmp_path)
    planned.know(monkeypatch, {"a": planned.facts()})
    said = told(tmp_path, precision=PEAK)
    assert "a has one round, so its cells read all" in said
    assert "{batch_tokens: N}` with N at most 256 for two" in said
    at_most = told(tmp_path, precision=PEAK, evaluation={"batch_tokens": 256})
    assert row(at_most, "a")[7] == "2"
    texts = {"source": "documents.jsonl", "document": "name", "evaluate": {"sequences": 29}}
    few = {"data": {"texts": texts}, "evaluation": {"batch_tokens": 32}}
    said = told(tmp_path, precision=PEAK, **few)
    assert "a has at most 29 documents to evaluate, and cross-entropy is not judged" in said
    said = told(tmp_path, precision=PEAK | {"metric": "top1"}, **few)
    assert "not judged" not in said
    assert "0.02 of Top-1, as a share" in said


def test_a_plan_says_that_models_are_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned.documents(tmp_path)
    planned.know(monkeypatch, {"a": planned.facts()})
    assert "events.jsonl says why" in told(tmp_path, compile=True)


def spread(frame: pl.DataFrame, column: str, values: list[str]) -> pl.DataFrame:
    return pl.concat([frame.with_columns(pl.lit(value).alias(column)) for value in values])


def test_of_many_groups_the_first_is_told_and_the_rest_counted(
    run: dict[str, pl.DataFrame],
) -> None:
    tables = [
        spread(run[kind], "selection", ["random", "score(rms, low)", "score(rms, high)"])
        for kind in ("cells", "summary", "curves")
    ]
    said = " ".join(text(*printing.summary_tables(*tables), width=100).split())
    assert said.count("Top-1 10% held") == 4
    assert said.count("selection random:") == 4
    assert said.count("2 more groups of curves of this model in curves.parquet") == 4
    assert said.count("told apart by selection") == 4


def test_a_simultaneous_band_is_not_taken_for_a_pointwise_one(
    run: dict[str, pl.DataFrame],
) -> None:
    wide = run["curves"].with_columns(band=pl.lit("simultaneous"), low=pl.lit(-99.0))
    both = pl.concat([run["curves"], wide])
    tables = run["cells"], run["summary"]
    assert text(*printing.summary_tables(*tables, both)) == text(
        *printing.summary_tables(*tables, run["curves"])
    )


def test_shares_that_are_not_the_usual_ones_are_told_all_the_same(
    run: dict[str, pl.DataFrame],
) -> None:
    quarter = run["curves"].with_columns(pl.col("held_share") / 4)
    few = quarter.filter(pl.col("held_share").is_in([0.0, 0.05, 0.15, 0.2]))
    said = text(*printing.summary_tables(run["cells"], run["summary"], few), width=100)
    for share in (" 5% held", " 15% held", " 20% held"):
        assert said.count(share) == 4 * 2
    assert " 0% held" not in said


def test_of_many_declared_contrasts_only_areas_are_told_and_no_pair_crowds_out_another(
    run: dict[str, pl.DataFrame],
) -> None:
    many = spread(run["contrasts"], "selection", ["random", "score(rms, low)"])
    many = many.with_columns(p_adjusted=pl.lit(0.0321), method=pl.lit(None, pl.String))
    undeclared = many.with_columns(declared=pl.lit(False))
    *lines, rest = printing.contrast_lines(pl.concat([many, undeclared]))
    assert len(lines) == printing.LINES
    assert all("area over fractions" in line for line in lines)
    assert all("adjusted p = 0.032, over 60 documents" in line for line in lines)
    assert all(", selection " in line for line in lines)
    assert {(line.split(",")[0], line.split("minus ")[1].split(",")[0]) for line in lines} == {
        (model, b)
        for model in ("zoo:opt", "zoo:mistral", "zoo:roberta", "zoo:vit")
        for b in ("mean", "zero")
    }
    assert rest == (
        f"contrasts.parquet has {many.height - len(lines)} more declared rows (other metrics and"
        f" fractions) and {many.height} exploratory ones, which are not adjusted"
    )


def test_a_sweep_that_declared_nothing_says_what_there_is(run: dict[str, pl.DataFrame]) -> None:
    undeclared = run["contrasts"].with_columns(declared=pl.lit(False))
    (line,) = printing.contrast_lines(undeclared)
    assert line.startswith("contrasts.parquet has 0 more declared rows")
    assert list(printing.contrast_lines(undeclared.clear())) == []
