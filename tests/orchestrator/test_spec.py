"""Reading a sweep file: every mistake at once, each with its path and what to do."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import specfile
from orchestrator.mistakes import SpecError
from orchestrator.spec import Plugins, parse
from orchestrator.written import resolved

law = settings(max_examples=40, deadline=None)
LEAST = {"models": ["zoo:opt"], "methods": ["zero"]}


def mistakes(**changes: Any) -> dict[str, str]:
    """Return the mistakes of the least sweep with these keys changed, by path."""
    with pytest.raises(SpecError) as caught:
        parse({**LEAST, **changes})
    return {m.path: m.message for m in caught.value.mistakes}


def data(**changes: Any) -> dict[str, Any]:
    return {"texts": {"source": "zoo:text", **changes}}


def test_only_models_and_methods_must_be_there() -> None:
    spec = parse(LEAST)
    assert spec.name == "sweep"
    assert spec.fractions == tuple(Decimal(i) / 10 for i in range(11))
    assert spec.seeds.masks == tuple(range(10))
    assert list(spec.data) == ["stdlib", "digits"]
    assert spec.sites == (("attn_pre_out",),)
    assert (spec.units, spec.layers, spec.complement) == (("neuron",), "all", False)
    assert [s.label for s in spec.selections] == ["random"]
    assert spec.basis == (None,)
    assert spec.evaluation.metrics == ("top1", "ce")


def test_a_shared_store_is_a_folder_or_a_uri() -> None:
    assert parse(LEAST).store is None
    stores = ["common", "file:///a/common", "s3://bucket/common"]
    found = [parse({**LEAST, "store": store}).store for store in stores]
    assert found == ["common", "/a/common", "s3://bucket/common"]


@pytest.mark.parametrize(
    ("changes", "path", "said"),
    [
        ({"metods": ["mean"]}, "metods", "unknown key; did you mean 'methods'"),
        ({"grids": []}, "grids", "designed but not built yet"),
        ({"models": []}, "models", "give at least one"),
        ({"models": [3]}, "models[0]", "found 3"),
        ({"models": [{"id": ""}]}, "models[0].id", "at least 1 character"),
        ({"models": [{"dtype": "float32"}]}, "models[0].id", "must be given"),
        ({"models": [{"id": "x", "dtyp": "float32"}]}, "models[0].dtyp", "did you mean 'dtype'"),
        ({"models": [{"id": "x", "dtype": "int8"}]}, "models[0].dtype", "found 'int8'"),
        ({"models": [{"id": "x", "shards": 0}]}, "models[0].shards", "found 0"),
        ({"models": [{"id": "x", "data": "web"}]}, "models[0].data", "no data source is named"),
        ({"models": ["zoo:opt", "zoo:opt"]}, "models[1]", "stands here twice"),
        ({"methods": []}, "methods", "give at least one"),
        ({"methods": ["maen"]}, "methods[0]", "did you mean 'mean'"),
        ({"methods": ["zero", "trimmed"]}, "methods[1]", "unknown method 'trimmed'"),
        ({"methods": ["mean(alpha=0.5)", {"mean": {"alpha": 0.5}}]}, "methods[1]", "twice"),
        ({"methods": ["peak", {"peak": {"estimator": "smooth"}}]}, "methods[1]", "twice"),
        ({"fractions": [0.1, 1.2]}, "fractions", "1.2; a fraction lies between 0 and 1"),
        ({"seeds": []}, "seeds", "at least one seed"),
        ({"seeds": {"mask": 2}}, "seeds.mask", "did you mean 'masks'"),
        ({"sites": ["mlp_mit"]}, "sites[0]", "did you mean 'mlp_mid'"),
        ({"sites": []}, "sites", "give at least one"),
        ({"units": ["heads"]}, "units[0]", "did you mean 'head'"),
        ({"units": ["neuron", "neuron"]}, "units[1]", "stands here twice"),
        ({"units": ["head"], "sites": ["mlp_mid"]}, "sites[0]", "mlp_mid has no heads"),
        (
            {"units": ["neuron", "head"], "sites": ["attn_pre_out", ["attn_pre_out", "mlp_mid"]]},
            "sites[1]",
            "mlp_mid has no heads",
        ),
        (
            {"methods": ["resample(per_head)"], "sites": [["attn_pre_out", "mlp_mid"]]},
            "methods[0]",
            "draw per_layer or per_neuron",
        ),
        ({"selections": ["score"]}, "selections[0]", "a score must be named"),
        ({"selections": ["random", "random(layer)"]}, "selections[1]", "stands here twice"),
        ({"selections": []}, "selections", "give at least one"),
        (
            {"selections": ["score(rms, low, against=web)"]},
            "selections[0]",
            "no data source is named 'web'; named are: stdlib, digits",
        ),
        (
            {"selections": ["regression"], "sites": [["attn_pre_out", "mlp_mid"]]},
            "selections[0]",
            "one site at a time",
        ),
        (
            {"selections": ["regression"], "sites": ["mlp_mid", ["attn_pre_out", "mlp_mid"]]},
            "selections[0]",
            "one site at a time",
        ),
        ({"layers": [1, 1]}, "layers", "each once"),
        ({"layers": "none"}, "layers", "expected `all`, `each`"),
        ({"complement": "no"}, "complement", "found 'no'"),
        ({"basis": "rotated"}, "basis", "`{rotate: 0}`"),
        ({"evaluation": {"metrics": []}}, "evaluation.metrics", "give at least one"),
        ({"evaluation": {"metrics": ["top5"]}}, "evaluation.metrics[0]", "found 'top5'"),
        ({"evaluation": {"metrics": ["ce", "ce"]}}, "evaluation.metrics[1]", "twice"),
        (
            {"evaluation": {"positions": {"last": 0}}},
            "evaluation.positions.last",
            "found 0",
        ),
        ({"name": "../up"}, "name", "pattern"),
        ({"name": False}, "name", "found False"),  # what YAML makes of `no`
        ({"data": {}}, "data", "give at least one"),
        ({"data": data(collect={"sequences": 0})}, "data.texts.collect.sequences", "found 0"),
        ({"data": data(evaluate={"tokens": 0})}, "data.texts.evaluate.tokens", "found 0"),
        ({"data": data(evaluate={"sequence": 9})}, "data.texts.evaluate.sequence", "did you mean"),
        ({"data": data(collect={"sequences": 1, "tokens": 1})}, "data.texts.collect", "keep one"),
        ({"data": data(sequence_length=7)}, "data.texts.sequence_length", "found 7"),
        ({"data": {"texts": {"text": "body"}}}, "data.texts.source", "must be given"),
        (
            {"data": data(collect={"split": "train"}, evaluate={"split": "train"})},
            "data.texts",
            "must come from different ones",
        ),
        ({"data": data(collect={"split": "train"})}, "data.texts", "name both splits or none"),
        ({"contrasts": [["zero", "mean"]]}, "contrasts[0]", "'mean' is not in this sweep"),
        ({"contrasts": [["zero", "zero"]]}, "contrasts[0]", "contrasted with itself"),
        ({"contrasts": [["zero"]]}, "contrasts[0][1]", "must be given"),
        ({"contrasts": [["zero", "random"]]}, "contrasts[0]", "not of one kind"),
        ({"precision": {}}, "precision.halfwidth", "is missing"),
        (
            {"precision": {"halfwidth": 0, "contrast": ["zero", "mean"]}},
            "precision.halfwidth",
            "greater than 0",
        ),
        ({"precision": {"halfwidth": 0.1}}, "precision.contrast", "names no pair of methods"),
        (
            {"precision": {"halfwidth": 0.1, "contrast": ["zero", "mean"]}},
            "precision.contrast",
            "not two methods of this sweep",
        ),
        (
            {"precision": {"halfwidth": 0.1, "contrast": ["zero", "zero"]}},
            "precision.contrast",
            "not two methods of this sweep",
        ),
        (
            {"precision": {"halfwidth": 0.1, "contrast": "zero"}},
            "precision.contrast",
            "expected a pair of methods",
        ),
        ({"precision": {"halfwidth": 0.1, "metric": "kl"}}, "precision.metric", "'ce' or 'top1'"),
        ({"precision": 0.1}, "precision", "expected a mapping"),
        ({"compile": "yes"}, "compile", "found 'yes'"),
        ({"evaluation": {"batch_tokens": 0}}, "evaluation.batch_tokens", "or `auto`"),
        ({"contrasts": [["own", "rotated 0"]]}, "contrasts[0]", "'rotated 0' is not in this sweep"),
        (
            {"contrasts": [["random", "score(rms, low)"]]},
            "contrasts[0]",
            "is not in this sweep (methods: zero; selections: random; bases: own)",
        ),
        ({"statistics": {"bins": 100}}, "statistics.bins", "found 100"),
        ({"statistics": {"shards": 65}}, "statistics.shards", "found 65"),
        ({"evaluation": {"batch_tokens": "many"}}, "evaluation.batch_tokens", "found 'many'"),
        ({"cluster": {"device": "tpu"}}, "cluster.device", "found 'tpu'"),
        ({"cluster": {"workers": 0}}, "cluster.workers", "found 0"),
        ({"cluster": {"device_memory": -1}}, "cluster.device_memory", "found -1"),
        ({"cluster": {"device_memory": "0GB"}}, "cluster.device_memory", "found '0GB'"),
    ],
)
def test_a_mistake_is_named_with_its_path_and_what_to_do(
    changes: dict[str, Any], path: str, said: str
) -> None:
    found = mistakes(**changes)
    assert list(found) == [path]
    assert said in found[path]


def test_all_mistakes_of_one_file_are_listed_together() -> None:
    found = mistakes(
        models=["zoo:opt", {"id": "x", "dtype": "int8"}],
        methods=["maen", "quantile"],
        fractions=[1.2],
        seeds=[],
        sites=["mlp_mit"],
        colour="blue",
        data=data(collect={"sequences": 0}, evaluate={"splt": "test"}),
    )
    assert set(found) == {
        "models[1].dtype",
        "methods[0]",
        "methods[1]",
        "fractions",
        "seeds",
        "sites[0]",
        "colour",
        "data.texts.collect.sequences",
        "data.texts.evaluate.splt",
    }


@pytest.mark.parametrize(
    ("asked", "collect", "evaluate"),
    [
        ({}, 256 * 32, 64 * 32),
        ({"sequence_length": 20}, 256 * 20, 64 * 20),
        ({"collect": {"sequences": 3}, "evaluate": {"tokens": 100}}, 3 * 32, 100),
        ({"sequence_length": 20, "collect": {"tokens": 7}}, 7, 64 * 20),
    ],
)
def test_how_much_a_source_is_read_is_known_before_it_is(
    asked: dict[str, Any], collect: int, evaluate: int
) -> None:
    source = parse({**LEAST, "data": data(**asked)}).data["texts"]
    assert source.positions("collect", 32) == collect
    assert source.positions("evaluate", 32) == evaluate


def test_the_error_counts_and_lists_its_mistakes() -> None:
    with pytest.raises(SpecError, match=r"2 mistakes in the sweep:\n  methods.*\n  seeds"):
        parse({**LEAST, "methods": [], "seeds": []})
    with pytest.raises(SpecError, match="1 mistake in the sweep"):
        parse({**LEAST, "seeds": []})


@pytest.mark.parametrize(("raw", "found"), [(None, "nothing"), ([], "list"), ("x", "str")])
def test_a_file_that_is_no_mapping_is_refused(raw: object, found: str) -> None:
    with pytest.raises(SpecError, match=f"found {found}, expected a mapping"):
        parse(raw)


def test_keys_that_are_no_text_are_a_mistake_too() -> None:
    with pytest.raises(SpecError, match="keys should be strings"):
        parse({**LEAST, 1: 2})


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"seeds": [2**63]}, "seeds"),  # the tables hold 64 bits, one of them the sign
        ({"seeds": {"masking": -1}}, "seeds.masking"),
        ({"seeds": {"masking": 2**64}}, "seeds.masking"),
        ({"sites": ["attn_pre_out", "attn_pre_out"]}, "sites"),
        ({"data": data(sequence_length=15)}, "data.texts.sequence_length"),
    ],
)
def test_what_no_task_can_do_is_refused(changes: dict[str, Any], path: str) -> None:
    assert any(found.startswith(path) for found in mistakes(**changes))


def test_one_thing_where_many_may_stand_is_told_to_be_a_list() -> None:
    assert "list" in mistakes(methods="zero")["methods"]


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True)
positive = st.integers(1, 10**6)
seed_lists = st.lists(st.integers(0, 2**31), min_size=1, max_size=3, unique=True)
spelled = st.sampled_from(
    [
        "zero", "mean", "mean(alpha=0.5)", "peak", "peak(paper)", "resample", "quantile(0.9)",
        "resample(generated, per_head)", "noise", "optimal(shared, steps=3)",
        {"peak": {"estimator": "paper"}},
    ]
)  # fmt: skip
selected = st.sampled_from(
    ["random", "random(global)", "score(rms, low)", "explicit(a.npy)", "regression(masks=9)"]
)


def _label(method: object) -> str:
    return method if isinstance(method, str) else "peak(paper)"


roles = st.one_of(
    st.just({}), st.fixed_dictionaries({"sequences": positive}), st.just({"tokens": 7})
)
specs = st.fixed_dictionaries(
    {
        "models": st.lists(
            names | st.fixed_dictionaries({"id": names, "dtype": st.just("bfloat16")}),
            min_size=1,
            max_size=3,
            unique_by=lambda m: m if isinstance(m, str) else m["id"],
        ),
        "methods": st.lists(spelled, min_size=1, max_size=4, unique_by=_label),
    },
    optional={
        "name": names,
        "fractions": st.lists(st.floats(0, 1), min_size=1, max_size=4)
        | st.just({"start": 0.05, "stop": 0.95, "step": 0.1}),
        "seeds": st.integers(1, 5)
        | seed_lists
        | st.fixed_dictionaries({"masks": seed_lists, "donors": st.just(2), "masking": positive}),
        "data": st.dictionaries(
            names,
            st.fixed_dictionaries(
                {"source": names, "collect": roles},
                optional={"sequence_length": st.integers(16, 99), "document": names},
            ),
            min_size=1,
            max_size=2,
        ),
        "statistics": st.just({"bins": 64, "shards": 3}),
        "units": st.sampled_from([["neuron"], ["head"], ["neuron", "head"]]),
        "selections": st.lists(selected, min_size=1, max_size=3, unique=True),
        "layers": st.sampled_from(["all", "each", [0], [2, 1]]),
        "complement": st.booleans(),
        "basis": st.sampled_from(["own", {"rotate": 0}, {"rotate": [1, 2]}]),
        "evaluation": st.just({"metrics": ["kl", "ce"], "positions": {"last": 3}}),
        "cluster": st.fixed_dictionaries({"workers": positive}),
    },
)


@law
@given(specs)
def test_a_resolved_spec_reads_back_as_the_same_spec(raw: dict[str, Any]) -> None:
    spec = parse(raw)
    text = yaml.safe_dump(resolved(spec), sort_keys=False, allow_unicode=True)
    assert parse(yaml.safe_load(text)) == spec


@pytest.mark.parametrize(
    "changes",
    [
        {"sites": ["mlp_mid", ["mlp_mid", "attn_pre_out"]], "methods": ["noise", "marginal"]},
        {"selections": [{"score": {"by": "rms", "first": "low", "again": "each_fraction"}}]},
        {"statistics": {"mode": "per_fraction", "strata": ["position"]}},
        {"selections": ["random", "random(global)"], "contrasts": [["random", "random(global)"]]},
        {"basis": {"rotate": 3}, "contrasts": [["own", "rotated 3"]]},
    ],
)
def test_what_is_held_reads_back_as_the_same(changes: dict[str, Any]) -> None:
    spec = parse({**LEAST, **changes})
    assert parse(yaml.safe_load(yaml.safe_dump(resolved(spec)))) == spec


PLUGINS: Plugins = {"trimmed": ("constant", {"share": 0.1}), "clipped": ("replacing", {})}


def test_a_spec_with_plug_ins_reads_back_where_they_are_known_and_nowhere_else() -> None:
    raw = {**LEAST, "methods": ["trimmed(share=0.2)", "clipped"]}
    spec = parse(raw, PLUGINS)
    assert [m.plugin for m in spec.methods] == ["constant", "replacing"]
    assert parse(resolved(spec), PLUGINS) == spec
    with pytest.raises(SpecError, match="unknown method 'trimmed'"):
        parse(resolved(spec))


@pytest.mark.parametrize(
    ("written", "pair"),
    [
        (["peak(smooth)", "resample(dataset)"], ("peak", "resample")),
        (["random(layer)", "score(low, rms)"], ("random", "score(rms, low)")),
        (["rotated 0", "own"], ("rotated 0", "own")),
        (["trimmed", "peak"], ("trimmed", "peak")),
    ],
)
def test_a_contrast_names_its_arms_by_any_of_their_spellings(
    written: list[str], pair: tuple[str, str]
) -> None:
    raw = {
        **LEAST,
        "methods": ["peak", "resample", "trimmed"],
        "selections": ["random", "score(rms, low)"],
        "basis": {"rotate": 0},
        "contrasts": [written],
    }
    assert parse(raw, PLUGINS).contrasts == (pair,)


AGAIN = {"mode": "per_fraction"}
ITERATIVE = ["score(rms, low, each_fraction)"]


@pytest.mark.parametrize(
    ("changes", "path", "said"),
    [
        ({"methods": ["mean(position)"]}, "methods[0]", "add `position` to"),
        ({"statistics": AGAIN, "methods": ["peak(paper)"]}, "methods[0]", "mode: one_shot"),
        ({"statistics": AGAIN, "methods": ["optimal"]}, "methods[0]", "mode: one_shot"),
        ({"statistics": AGAIN, "methods": ["trimmed"]}, "methods[0]", "mode: one_shot"),
        (
            {"statistics": {**AGAIN, "strata": ["position"]}, "methods": ["mean(position)"]},
            "methods[0]",
            "mode: one_shot",
        ),
        ({"statistics": AGAIN, "layers": [0]}, "layers", "all layers and no complement"),
        ({"statistics": AGAIN, "layers": "each"}, "layers", "`statistics.mode` goes with"),
        ({"statistics": AGAIN, "complement": True}, "complement", "`statistics.mode` goes with"),
        (
            {"statistics": AGAIN, "sites": [["attn_pre_out", "mlp_mid"]]},
            "sites",
            "`statistics.mode` goes with one site",
        ),
        ({"selections": ITERATIVE, "layers": [0]}, "layers", "scored again goes with"),
        ({"selections": ITERATIVE, "complement": True}, "complement", "scored again goes with"),
        (
            {"selections": ITERATIVE, "sites": [["attn_pre_out", "mlp_mid"]]},
            "sites",
            "scored again goes with one site",
        ),
        (
            {"selections": ITERATIVE, "statistics": {"mode": "layers_in_sequence"}},
            "statistics.mode",
            "go with the modes one_shot and per_fraction",
        ),
        *(
            (
                {"selections": ["random", *ITERATIVE], "methods": ["zero", other]},
                "selections[1]",
                "one whole constant per neuron, which",
            )
            for other in ("resample", "noise", "optimal", "nearest_peak", "clipped")
        ),
        (
            {
                "selections": ITERATIVE,
                "methods": ["mean(position)"],
                "statistics": {"strata": ["position"]},
            },
            "selections[0]",
            "which mean(position) is not",
        ),
        (
            {"selections": ITERATIVE, "methods": ["zero(alpha=0.5)"]},
            "selections[0]",
            "which zero(alpha=0.5) is not",
        ),
        ({"statistics": AGAIN, "methods": ["mean(alpha=0.5)"]}, "methods[0]", "mode: one_shot"),
    ],
)
def test_what_does_not_go_together_is_refused(
    changes: dict[str, Any], path: str, said: str
) -> None:
    with pytest.raises(SpecError) as caught:
        parse({**LEAST, **changes}, PLUGINS)
    found = {m.path: m.message for m in caught.value.mistakes}
    assert list(found) == [path]
    assert said in found[path]


def test_zero_needs_no_statistics_so_it_goes_with_every_mode() -> None:
    raw = {**LEAST, "methods": ["zero", "zero(alpha=0.5)"], "statistics": AGAIN}
    assert len(parse(raw).methods) == 2


def read(folder: Path, content: str | bytes) -> object:
    file = folder / "sweep.yaml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return specfile.raw(file)


def test_a_file_is_read_as_plain_values(tmp_path: Path) -> None:
    assert read(tmp_path, "models: [zoo:opt]\nfractions: {start: 0, stop: 1}\n") == {
        "models": ["zoo:opt"],
        "fractions": {"start": 0, "stop": 1},
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name: a\nseeds: 1\nname: b\n", "line 3, column 1: the key 'name' stands twice"),
        ("data: {a: {source: x, source: y}}\n", "the key 'source' stands twice"),
        ("a: &one [1]\nb: *one\n", "line 2, column 4: an alias"),
        ("a: &a [x,x,x]\nb: &b [*a,*a,*a]\nc: &c [*b,*b,*b]\n", "an alias"),
        ("models: [zoo:opt\n", "is not YAML: line 2"),
        ("a: b: c\n", "is not YAML: line 1"),
        ("a: !!python/object/apply:os.system [ls]\n", "a tag (!name) is used"),
        ("a: 1\n---\nb: 2\n", "is not YAML"),
        ("\x00", "is not YAML"),
        ("a: 1:30\n", "found the number 1:30"),
        ("[" * 3_000, "is not YAML"),
        (b"name: caf\xe9\n", "not UTF-8 text (byte 9)"),
        ("# " + "x" * 2**20, "more than 1048576 bytes"),
    ],
)
def test_what_is_not_plain_yaml_is_refused(tmp_path: Path, content: str | bytes, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        read(tmp_path, content)
    assert said in str(caught.value)
    assert "sweep.yaml" in str(caught.value)


@pytest.mark.parametrize("content", ["name: {{ who }}\n", "? [a, b]\n: c\n"])
def test_a_key_that_is_no_text_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(SpecError, match="is not YAML"):
        read(tmp_path, content)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"No such file.*give the path of a sweep file"):
        specfile.raw(tmp_path / "none.yaml")
    with pytest.raises(SpecError, match="Is a directory"):
        specfile.raw(tmp_path)


def test_bits_per_byte_need_every_position(tmp_path: Path) -> None:
    some = {"metrics": ["ce", "bits_per_byte"], "positions": {"last": 1}}
    with pytest.raises(SpecError, match=r"evaluation.metrics\[1\]: bits_per_byte divides by all"):
        parse({**LEAST, "evaluation": some})
    assert parse({**LEAST, "evaluation": {"metrics": ["ce", "bits_per_byte"]}})
