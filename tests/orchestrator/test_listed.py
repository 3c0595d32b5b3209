"""A list holds the units that it says, in its order, or is refused in words."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from orchestrator.listed import ListError, digest, read
from workers.messages import Site

LAYERS, UNITS = 3, 5
PAIRS = [(2, 4), (0, 1), (1, 0), (0, 0)]
FLAT = [14, 1, 5, 0]
SITES: tuple[Site, ...] = ("attn_pre_out", "mlp_mid")


def table(path: Path, columns: Mapping[str, object]) -> Path:
    pq.write_table(pa.table(dict(columns)), path)
    return path


def array(path: Path, content: NDArray[Any]) -> Path:
    np.save(path, content)
    return path


def tensors(path: Path, content: Mapping[str, NDArray[Any]]) -> Path:
    save_file(dict(content), path)
    return path


def listed(path: Path, site: Site = "attn_pre_out", unit: str = "neuron") -> list[int]:
    return read(path, sites=(site,), unit=unit, layers=LAYERS, units=(UNITS,)).tolist()


def columns(pairs: Sequence[tuple[int, int]], unit: str = "neuron") -> dict[str, object]:
    return {"layer": [layer for layer, _ in pairs], unit: [number for _, number in pairs]}


@pytest.mark.parametrize("name", ["neuron", "unit"])
def test_rows_of_a_parquet_file_are_taken_as_they_stand(name: str, tmp_path: Path) -> None:
    assert listed(table(tmp_path / "a.parquet", columns(PAIRS, name))) == FLAT


@pytest.mark.parametrize("name", ["rank", "order"])
def test_a_rank_says_which_comes_first(name: str, tmp_path: Path) -> None:
    ranked = columns(PAIRS) | {name: [3, 9, 3, -1]}
    assert listed(table(tmp_path / "a.parquet", ranked)) == [0, 14, 5, 1]


def test_heads_are_listed_by_their_own_column(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", columns(PAIRS, "head"))
    assert listed(path, unit="head") == FLAT
    with pytest.raises(ListError, match=r"has columns \['layer', 'head'\].*`neuron`"):
        listed(path)


def test_a_site_column_says_whose_units_they_are(tmp_path: Path) -> None:
    named = columns(PAIRS) | {"site": ["mlp_mid", "attn_pre_out", "mlp_mid", "attn_pre_out"]}
    path = table(tmp_path / "a.parquet", named)
    assert listed(path, "attn_pre_out") == [1, 0]
    assert listed(path, "mlp_mid") == [14, 5]


def test_a_mask_lists_its_true_units_layer_by_layer(tmp_path: Path) -> None:
    mask_LU = np.zeros((LAYERS, UNITS), np.bool_)
    for pair in PAIRS:
        mask_LU[pair] = True
    assert listed(array(tmp_path / "a.npy", mask_LU)) == sorted(FLAT)
    path = tensors(tmp_path / "a.safetensors", {"held": mask_LU})
    assert listed(path) == sorted(FLAT)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_pairs_are_taken_in_their_order(dtype: type, tmp_path: Path) -> None:
    pairs_K2 = np.array(PAIRS, dtype)
    assert listed(array(tmp_path / "a.npy", pairs_K2)) == FLAT
    assert listed(tensors(tmp_path / "a.safetensors", {"mlp_mid": pairs_K2}), "mlp_mid") == FLAT


@settings(max_examples=25, deadline=None)
@given(pairs=st.permutations([(layer, u) for layer in range(LAYERS) for u in range(UNITS)]))
def test_all_kinds_of_file_say_the_same(
    pairs: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    home, pairs_K2 = tmp_path_factory.mktemp("lists"), np.array(pairs)
    expected = (pairs_K2 @ [UNITS, 1]).tolist()
    assert listed(table(home / "a.parquet", columns(pairs))) == expected
    assert listed(array(home / "a.npy", pairs_K2)) == expected
    assert listed(tensors(home / "a.safetensors", {"x": pairs_K2})) == expected


def joint(path: Path) -> list[int]:
    return read(path, sites=SITES, unit="neuron", layers=LAYERS, units=(5, 7)).tolist()


def test_two_sites_are_listed_in_turns_with_one_site_after_the_other_in_the_indices(
    tmp_path: Path,
) -> None:
    named = columns([(1, 1), (0, 4), (2, 6)]) | {"site": ["mlp_mid", "attn_pre_out", "mlp_mid"]}
    assert joint(table(tmp_path / "a.parquet", named)) == [15 + 8, 4, 15 + 20]
    both = {"mlp_mid": np.array([[1, 1], [2, 6]]), "attn_pre_out": np.array([[0, 4]])}
    assert joint(tensors(tmp_path / "a.safetensors", both)) == [4, 15 + 8, 15 + 20]


def test_two_sites_are_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(ListError, match="and `site` because two are held together"):
        joint(table(tmp_path / "a.parquet", columns(PAIRS)))
    with pytest.raises(ListError, match="one array, and attn_pre_out and mlp_mid"):
        joint(array(tmp_path / "a.npy", np.array(PAIRS)))
    with pytest.raises(ListError, match=r"holds tensors \['mlp_mid'\]"):
        joint(tensors(tmp_path / "a.safetensors", {"mlp_mid": np.array(PAIRS)}))
    with pytest.raises(ListError, match=r"expected one named by each of \['attn_pre_out'\]"):
        listed(tmp_path / "a.safetensors")  # the list of another site


WRONG = {
    "layer 3, neuron 0 .*layers 0 … 2 with neurons 0 … 4": [(0, 0), (3, 0)],
    "layer 1, neuron 5 .*layers 0 … 2": [(1, 5)],
    "layer -1, neuron 0 ": [(-1, 0)],
    "layer 0, neuron 2 twice": [(0, 2), (1, 2), (0, 2)],
}


@pytest.mark.parametrize("ending", ["parquet", "npy", "safetensors"])
@pytest.mark.parametrize("message", WRONG)
def test_units_that_cannot_be_held_are_named(message: str, ending: str, tmp_path: Path) -> None:
    path, pairs = tmp_path / f"a.{ending}", WRONG[message]
    if ending == "parquet":
        table(path, columns(pairs))
    elif ending == "npy":
        array(path, np.array(pairs))
    else:
        tensors(path, {"held": np.array(pairs)})
    with pytest.raises(ListError, match=message) as refused:
        listed(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.ones((LAYERS, 4), np.bool_), r"bool of shape \(3, 4\), .*booleans of shape \(3, 5\)"),
        (np.ones((LAYERS, UNITS)), r"float64 of shape \(3, 5\)"),
        (np.ones((4, 3), np.int64), r"int64 of shape \(4, 3\), .*\(K, 2\)"),
        (np.arange(4), r"int64 of shape \(4,\)"),
        (np.zeros((LAYERS, UNITS), np.bool_), "lists no neuron of attn_pre_out"),
        (np.zeros((0, 2), np.int64), "lists no neuron"),
    ],
)
def test_arrays_that_are_no_list_are_described(
    content: NDArray[Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ListError, match=message):
        listed(array(tmp_path / "a.npy", content))
    if content.dtype != np.float64:
        with pytest.raises(ListError, match=message):
            listed(tensors(tmp_path / "a.safetensors", {"held": content}))


def test_tensors_of_a_type_that_numpy_lacks_are_refused_like_others(tmp_path: Path) -> None:
    for dtype, said in ((torch.bfloat16, "BF16"), (torch.float32, "F32")):
        save_torch({"held": torch.ones(3, 5, dtype=dtype)}, tmp_path / "a.safetensors")
        with pytest.raises(ListError, match=f"`held` is of type {said}, expected booleans"):
            listed(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"neuron": [0.0, 1.0]}, "`neuron` is double"),
        ({"layer": pa.array([0, None])}, "`layer` is int64 with 1 nulls"),
        ({"rank": ["a", "b"]}, "`rank` is string"),
        ({"site": ["mlp", "mlp_mid"]}, r"names sites \['mlp'\]"),
        ({"site": ["mlp_mid", "mlp_mid"]}, "lists no neuron of attn_pre_out"),
    ],
)
def test_columns_of_a_parquet_file_are_checked(
    extra: Mapping[str, object], message: str, tmp_path: Path
) -> None:
    path = table(tmp_path / "a.parquet", {"layer": [0, 1], "neuron": [0, 1]} | dict(extra))
    with pytest.raises(ListError, match=message):
        listed(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.csv", "ends in '.csv', expected one of .parquet, .npy, .safetensors"),
        ("a.parquet", "no Parquet file"),
        ("a.npy", "no numpy array"),
        ("a.safetensors", "no safetensors file"),
    ],
)
def test_a_file_of_another_kind_is_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"layer,neuron\n0,1\n")
    with pytest.raises(ListError, match=message):
        listed(tmp_path / name)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"layer": 0}], object), allow_pickle=True)
    with pytest.raises(ListError, match="no numpy array of numbers"):
        listed(tmp_path / "a.npy")


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    for use in (digest, listed):
        with pytest.raises(ListError, match="cannot be read"):
            use(tmp_path / "a.npy")


def test_a_digest_tells_contents_apart_and_nothing_else(tmp_path: Path) -> None:
    one = array(tmp_path / "a.npy", np.array(PAIRS))
    same = array(tmp_path / "b.npy", np.array(PAIRS))
    other = array(tmp_path / "c.npy", np.array(PAIRS[::-1]))
    assert digest(one) == digest(same) != digest(other)
