"""Listed: which units to hold, from a file that somebody else made.

The list of another tool, of a paper or of an afternoon with a notebook. Its order is the
order in which units are held; a fraction takes a prefix. Three kinds of file are read:

* Parquet: a row per unit, with columns `layer` and `neuron` or `head` (or `unit`), and
  `site` if there may be several. Rows are taken in the order of a column `rank` or
  `order` if there is one, lowest first, otherwise as they stand.
* numpy (.npy): a boolean array (L, U), True where a unit is listed, in the order of the
  layers; or integers (K, 2), rows of layer and unit, as they stand.
* safetensors: one such array per site, named by the site, or a single one.

Numbers count from 0, and a neuron is numbered within its layer, not within its head.
A file that says a unit twice, or one that the model does not have, was made for
another model or by mistake, so it is refused. Files are read, never unpickled.

Shapes: L layers, U units of one hookpoint, K listed units.
"""

import hashlib
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from workers.messages import SITES, Site

_ENDINGS = (".parquet", ".npy", ".safetensors")
_ORDERS = ("rank", "order")
_TENSORS = ("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64")
"""Types of tensors that numpy has and that can be a list."""

Pairs = NDArray[np.int64]
"""(K, 2): layer and unit."""


class ListError(ValueError):
    """A file that lists no units, or others than this model has."""


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's content; raises ListError if it cannot be read."""
    with _opened(path) as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def read(
    path: Path, *, sites: Sequence[Site], unit: str, layers: int, units: Sequence[int]
) -> NDArray[np.int64]:
    """Return the listed units of some sites in their order, (K,).

    The indices are flat: site after site, each layer-major; `unit` is `neuron` or `head`, and
    `units` holds how many of them a layer has, for each site. Only a Parquet file can list units
    of several sites in turns. A file that names sites may list others too, which are left out.
    Raises ListError saying what was found, where, and what was expected.
    """
    if path.suffix not in _ENDINGS:
        raise ListError(f"{path} ends in {path.suffix!r}, expected one of {', '.join(_ENDINGS)}")
    _opened(path).close()
    if path.suffix == ".parquet":
        site_K, pairs_K2 = _parquet(path, sites, unit)
    else:
        arrays = _numpy(path, sites) if path.suffix == ".npy" else _tensors(path, sites)
        shapes = [(layers, n) for n in units]
        each = [_pairs(f"{path}{at}", a, s) for (at, a), s in zip(arrays, shapes, strict=True)]
        site_K = np.repeat(np.arange(len(sites)), [len(pairs) for pairs in each])
        pairs_K2 = np.concatenate(each)
    if not len(pairs_K2):
        raise ListError(f"{path} lists no {unit} of {' or '.join(sites)}, expected at least one")
    return _flat(path, site_K, pairs_K2, unit, layers, np.asarray(units, np.int64))


def _opened(path: Path) -> BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise ListError(
            f"{path} cannot be read ({error.strerror}); name an existing file"
        ) from None


def _flat(
    path: Path,
    site_K: NDArray[np.int64],
    pairs_K2: Pairs,
    unit: str,
    layers: int,
    units: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return flat indices; refuse units that the model does not have, and those listed twice."""
    layer_K, unit_K = pairs_K2.T
    size_K = units[site_K]
    wrong = np.flatnonzero((layer_K < 0) | (layer_K >= layers) | (unit_K < 0) | (unit_K >= size_K))
    if wrong.size:
        k = wrong[0]
        raise ListError(
            f"{path} lists layer {layer_K[k]}, {unit} {unit_K[k]} ({wrong.size} like it); the model"
            f" has layers 0 … {layers - 1} with {unit}s 0 … {size_K[k] - 1}. List units of this"
            " model, counted from 0"
        )
    start = layers * np.concatenate([[0], np.cumsum(units)[:-1]])
    flat_K = start[site_K] + layer_K * size_K + unit_K
    first_K = np.unique(flat_K, return_index=True)[1]
    if len(first_K) < len(flat_K):
        k = int(np.setdiff1d(np.arange(len(flat_K)), first_K)[0])
        raise ListError(
            f"{path} lists layer {layer_K[k]}, {unit} {unit_K[k]} twice"
            f" ({len(flat_K) - len(first_K)} like it), expected each once; remove what is repeated"
        )
    return np.asarray(flat_K, np.int64)


def _parquet(path: Path, sites: Sequence[Site], unit: str) -> tuple[NDArray[np.int64], Pairs]:
    """Return the rows' sites, numbered as in `sites`, and pairs, both in their order."""
    try:
        table = pq.ParquetFile(path).read()
    except pa.ArrowInvalid as error:
        raise ListError(f"{path} is no Parquet file ({error}); write it again") from None
    name = unit if unit in table.column_names else "unit"
    lacking = [c for c in ("layer", name) if c not in table.column_names]
    if lacking or (len(sites) > 1 and "site" not in table.column_names):
        also = ", and `site` because two are held together" if len(sites) > 1 else ""
        raise ListError(
            f"{path} has columns {table.column_names}, expected `layer` and `{unit}`{also}"
        )
    pairs_K2 = np.column_stack([_integers(path, table, column) for column in ("layer", name)])
    site_K = np.zeros(len(pairs_K2), np.int64)
    if "site" in table.column_names:
        named = table.column("site").to_pylist()
        strange = sorted({str(s) for s in named} - set(SITES))
        if strange:
            raise ListError(f"{path} names sites {strange}, expected some of {list(SITES)}")
        site_K[:] = [sites.index(s) if s in sites else -1 for s in named]
    by = next((c for c in _ORDERS if c in table.column_names), None)
    if by is not None:
        rank_K = np.argsort(_integers(path, table, by), kind="stable")
        site_K, pairs_K2 = site_K[rank_K], pairs_K2[rank_K]
    return site_K[site_K >= 0], pairs_K2[site_K >= 0]


def _integers(path: Path, table: pa.Table, name: str) -> NDArray[np.int64]:
    column = table.column(name)
    if not pa.types.is_integer(column.type) or column.null_count:
        raise ListError(
            f"{path}: column `{name}` is {column.type} with {column.null_count} nulls, expected"
            " integers and no nulls"
        )
    return np.asarray(column.cast(pa.int64()).to_numpy())


def _numpy(path: Path, sites: Sequence[Site]) -> list[tuple[str, NDArray[np.generic]]]:
    if len(sites) > 1:
        raise ListError(
            f"{path} is one array, and {' and '.join(sites)} are held together; list them in one"
            " Parquet or safetensors file"
        )
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ListError(f"{path} is no numpy array of numbers ({error}); write it again") from None
    if not isinstance(array, np.ndarray):
        raise ListError(f"{path} holds several arrays, expected one, as `numpy.save` writes it")
    return [("", array)]


def _tensors(path: Path, sites: Sequence[Site]) -> list[tuple[str, NDArray[np.generic]]]:
    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            single = len(names) == 1 and len(sites) == 1 and names[0] not in SITES
            wanted = names if single else list(sites)
            if not set(wanted) <= set(names):
                raise ListError(
                    f"{path} holds tensors {names[:4]}{'…' if len(names) > 4 else ''}, expected"
                    f" one named by each of {list(sites)}, or a single one for a single site"
                )
            for name in wanted:
                kind = file.get_slice(name).get_dtype()
                if kind not in _TENSORS:
                    raise ListError(_no_list(f"{path}: tensor `{name}`", f"of type {kind}"))
            return [(f": tensor `{name}`", file.get_tensor(name)) for name in wanted]
    except SafetensorError as error:
        raise ListError(f"{path} is no safetensors file ({error}); write it again") from None


def _pairs(where: str, array: NDArray[np.generic], shape: tuple[int, int]) -> Pairs:
    """Return the pairs of a mask of this shape, or of rows of pairs."""
    is_mask, is_pairs = array.dtype == np.bool_, array.dtype.kind in "iu"
    if is_mask and array.shape == shape:
        return np.argwhere(array).astype(np.int64)
    if is_pairs and array.ndim == 2 and array.shape[1] == 2:
        return array.astype(np.int64)
    raise ListError(_no_list(where, f"{array.dtype} of shape {array.shape}", shape))


def _no_list(where: str, found: str, shape: tuple[int, int] | None = None) -> str:
    mask = "booleans (layers, units)" if shape is None else f"booleans of shape {shape}"
    return f"{where} is {found}, expected {mask} or integers (K, 2): layer and unit"
