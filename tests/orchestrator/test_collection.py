from pathlib import Path

import pytest

from orchestrator.collection import GROUP_ROWS, counted, stratified
from orchestrator.draft import Draft
from orchestrator.mistakes import SpecError
from orchestrator.tables import stratum_names
from tests.orchestrator import planned
from tests.orchestrator.planned import names, tasks

FACTS = planned.facts(specials={"bos": 2, "eos": 3, "pad": 1, "mask": 4})


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    planned.know(monkeypatch, {"a": FACTS, "i": planned.facts(modality="image")})
    planned.documents(tmp_path)
    return tmp_path


def strata(base: Path, written: object, by: str = "position") -> tuple[int, ...] | None:
    made = planned.make(base, methods=["zero"], statistics={"strata": [written]})
    found = stratified(made.spec, FACTS, "texts", by)
    return found and found.starts


def test_every_position_is_a_stratum_unless_buckets_are_asked_for(base: Path) -> None:
    assert strata(base, "position") == tuple(range(FACTS.window))


def test_buckets_are_of_equal_width(base: Path) -> None:
    assert strata(base, {"position": 4}) == tuple(FACTS.window * i // 4 for i in range(4))


def test_buckets_may_begin_where_one_likes(base: Path) -> None:
    assert strata(base, {"position": [0, 1, 3]}) == (0, 1, 3)


def test_more_buckets_than_positions_are_one_each(base: Path) -> None:
    assert strata(base, {"position": 10**6}) == tuple(range(FACTS.window))


def test_texts_have_no_classes(base: Path) -> None:
    with pytest.raises(SpecError, match="only images have classes"):
        strata(base, "class")


def test_special_tokens_can_be_left_out_and_the_mask_is_none(base: Path) -> None:
    made = planned.make(base, statistics={"positions": {"skip_first": 2, "specials": "out"}})
    found = counted(made.spec, FACTS)
    assert (found.skip_first, found.without, found.by) == (2, (1, 2, 3), "all")


def test_strata_change_no_other_number(base: Path) -> None:
    plain, asked = (planned.make(base, statistics={"strata": s}) for s in ([], [{"position": 4}]))
    for kinds in (
        ("pilot",),
        ("collect", "again", "merge", "widen"),
        ("centres",),
        ("statistics",),
    ):
        assert names(plain, *kinds) <= names(asked, *kinds)
    assert plain.cells.keys() == asked.cells.keys()


def test_what_is_counted_is_part_of_the_name(base: Path) -> None:
    changes = [
        {},
        {"positions": {"skip_first": 1}},
        {"positions": {"specials": "out"}},
        {"pilot_seed": 1},
        {"pilot_documents": 8},
        {"bins": 128},
    ]
    made = [planned.make(base, methods=["mean"], statistics=c) for c in changes]
    assert len(
        {frozenset(p.cells) - set.intersection(*(set(q.cells) for q in made)) for p in made}
    ) == len(changes)


def test_intervals_change_no_cell(base: Path) -> None:
    with_them, without = (planned.make(base, statistics={"intervals": i}) for i in (True, False))
    assert with_them.cells.keys() == without.cells.keys()
    assert names(with_them, "statistics") != names(without, "statistics")


def test_statistics_are_shared_out_by_planes(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = planned.facts(layers=24, heads=32, d_head=64)
    planned.know(monkeypatch, {"a": large})
    tasks = [t for t in planned.make(base).tasks if t.kind == "statistics"]
    spans = [(t.arguments["start"], t.arguments["stop"]) for t in tasks]
    assert spans == [(i, i + 2) for i in range(0, 24, 2)]  # 2 x 2,048 rows
    assert 2 * large.neurons == GROUP_ROWS


def test_a_large_model_has_intervals_only_when_asked_for(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned.know(monkeypatch, {"a": planned.facts(layers=100, heads=64, d_head=128)})

    def some(asked: object) -> bool:
        tasks = planned.make(base, statistics={"intervals": asked}).tasks
        return any(t.arguments["shards"] for t in tasks if t.kind == "statistics")

    assert [some("auto"), some(True), some(False)] == [False, True, False]


def test_strata_are_named_as_people_read_them() -> None:
    assert stratum_names("all", (0,)) == ["all"]
    assert stratum_names("class", (0, 1)) == ["class 0", "class 1"]
    assert stratum_names("position", (0, 1, 5)) == ["position 0", "position 1-4", "position 5-"]


@pytest.mark.parametrize("mode", ["layers_in_sequence", "per_fraction"])
def test_statistics_that_follow_the_ablation_are_of_one_mask_and_fraction(
    base: Path, mode: str
) -> None:
    plan = planned.make(
        base,
        methods=["zero", "mean", "peak"],
        fractions=[0.25, 0.5, 1],
        seeds=2,
        statistics={"mode": mode},
    )
    under = tasks(plan, "under")
    # Per fraction the smallest has the bare model's; in sequence all masks hold alike at 1.
    each = {"layers_in_sequence": 2 * 2 + 1, "per_fraction": 2 * 2}[mode]
    assert len(under) == 2 * each
    zeros = [c for c in plan.cells.values() if c.arguments.get("method") == "zero"]
    assert zeros
    assert not any(t.file in c.after for c in zeros for t in under)


def test_mean_by_position_needs_statistics_by_position(base: Path) -> None:
    with pytest.raises(SpecError, match=r"needs statistics by position; add `position`"):
        planned.make(base, methods=["mean(position)"])


def test_published_peaks_do_not_follow_the_ablation(base: Path) -> None:
    with pytest.raises(SpecError, match="one_shot"):
        planned.make(base, methods=["peak(paper)"], statistics={"mode": "per_fraction"})


def test_statistics_of_another_source_are_of_its_documents_alone(base: Path) -> None:
    data = {
        key: {"source": "documents.jsonl", "collect": {"sequences": n}}
        for key, n in (("texts", 5), ("other", 7))
    }
    plan = planned.make(base, data=data, statistics={"data": "other"})
    files = {t.arguments["data_name"]: t.file for t in plan.tasks if t.kind == "data"}
    for task in plan.tasks:
        if task.kind in ("pilot", "collect", "again"):
            assert files["other"] in task.after
            assert files["texts"] not in task.after
    assert all(files["texts"] in c.after for c in plan.cells.values())


def test_an_unknown_source_of_statistics_is_refused(base: Path) -> None:
    with pytest.raises(SpecError, match=r"statistics.data: no data source is named 'nowhere'"):
        planned.make(base, statistics={"data": "nowhere"})


def test_a_draft_writes_no_file_for_two_recipes(base: Path) -> None:
    made = planned.make(base)
    draft = Draft(made.spec, made.models["a"])
    draft.add("prepare", "data", "", {"x": 1}, {}, folder="data", file="data/a.parquet")
    draft.add("prepare", "data", "", {"x": 1}, {}, folder="data", file="data/a.parquet")
    assert len(draft.tasks) == 1
    with pytest.raises(RuntimeError, match="would be made by"):
        draft.add("prepare", "data", "", {"x": 2}, {}, folder="data", file="data/a.parquet")


def test_every_site_is_counted_by_a_collection_of_its_own(base: Path) -> None:
    one, two = (
        planned.make(base, sites=sites, methods=["mean", "peak(paper)"])
        for sites in (["attn_pre_out"], ["mlp_mid", "attn_pre_out"])
    )
    for kind in ("pilot", "collect", "merge", "statistics", "centres"):
        assert names(one, kind) < names(two, kind)
        assert len(names(two, kind)) == 2 * len(names(one, kind))
    widths = {t.arguments["site"]: t.arguments["neurons"] for t in tasks(two, "centres")}
    assert widths == {"attn_pre_out": 10, "mlp_mid": 20}


def test_a_site_held_together_with_another_is_counted_as_alone(base: Path) -> None:
    both = ["attn_pre_out", "mlp_mid"]
    apart, together = (planned.make(base, sites=s, methods=["mean"]) for s in (both, [both]))
    kinds = ("pilot", "collect", "merge", "widen", "again", "statistics", "centres")
    assert names(apart, *kinds) == names(together, *kinds)
