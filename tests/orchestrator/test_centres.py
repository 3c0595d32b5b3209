"""Centres: every method's constant is the one it declares, for every neuron, stratum and site."""

from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import tests.workers.counted as counted
import workers.plugins
from orchestrator import centres, partials, plugins
from orchestrator.centres import NoCentreError, centre
from orchestrator.plugins import discover
from orchestrator.store import Store, parquet, rows
from orchestrator.tasks import Task
from workers.counting import FixedCounter
from workers.histogram import Histogram, stacked
from workers.plugins import PluginError
from workers.published import PUBLISHED

LAYERS, NEURONS = 2, 3
EXAMPLES = Path(__file__).parents[2] / "examples" / "plugins"
numbers = count()


@pytest.fixture(autouse=True)
def own_register(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.plugins, "_REGISTER", {})
    monkeypatch.setattr(plugins, "_RESTORED", {})
    monkeypatch.setattr(plugins, "entry_points", lambda **_: [])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def values() -> NDArray[np.float64]:
    """Activations of the neurons of both layers, (P, R)."""
    shift = np.arange(LAYERS * NEURONS)
    return np.random.default_rng(0).gamma(3, size=(5000, LAYERS * NEURONS)) + shift


@pytest.fixture(scope="module")
def histogram(values: NDArray[np.float64]) -> Histogram:
    return counted.count(values)


def written(run: Store, part: Histogram) -> str:
    file = f"partials/part.{next(numbers)}.arrow"
    partials.commit(run, file, partials.from_histogram(part), "part")
    return file


def made(
    run: Store, method: str, parameters: dict[str, object] | None = None, **more: object
) -> dict[str, list[object]]:
    """Write the centres of a method, and return their table."""
    file = f"centres/{method}.{next(numbers)}.parquet"
    arguments = {
        "model": "zoo:opt",
        "data_name": "stdlib",
        "site": "mlp_mid",
        "basis": "rotated 0",
        "layers": LAYERS,
        "neurons": NEURONS,
        "method": method,
        "parameters": parameters or {},
        "cell": None,
        "widen": None,
        "again": None,
        **more,
    }
    task = Task(
        name="name",
        stage="reduce",
        kind="centres",
        label=method,
        file=file,
        model=None,
        arguments=arguments,
    )
    assert centres.centres(task, run) == {"neurons": run.table(file).num_rows}
    return run.table(file).to_pydict()


@pytest.mark.parametrize(
    ("method", "parameters", "expected"),
    [
        ("mean", {}, lambda x: x.mean(axis=0)),
        ("median", {}, lambda x: np.quantile(x, 0.5, axis=0)),
        ("quantile", {"q": 0.9}, lambda x: np.quantile(x, 0.9, axis=0)),
        ("quantile", {"q": 0.0}, lambda x: x.min(axis=0)),
        ("peak", {"estimator": "smooth"}, lambda x: 2 + np.arange(x.shape[1])),
        ("peak", {"estimator": "half_sample"}, lambda x: 2 + np.arange(x.shape[1])),
    ],
)
def test_a_constant_is_what_its_method_says_of_the_values(
    run: Store,
    values: NDArray[np.float64],
    histogram: Histogram,
    method: str,
    parameters: dict[str, object],
    expected: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> None:
    table = made(run, method, parameters, of=written(run, histogram))
    wide = 0.6 if method == "peak" else float(histogram.windows.width.max())
    np.testing.assert_allclose(table["value"], expected(values), atol=wide)
    np.testing.assert_array_equal(table["value"], centre(histogram, method, parameters))


def test_a_table_says_whose_neurons_at_which_site_in_which_basis(
    run: Store, histogram: Histogram
) -> None:
    table = made(run, "quantile", {"q": 0.9}, of=written(run, histogram))
    assert table["layer"] == [0, 0, 0, 1, 1, 1]
    assert table["neuron"] == [0, 1, 2] * 2
    assert set(table["site"]) == {"mlp_mid"}
    assert set(table["basis"]) == {"rotated 0"}
    assert set(table["stratum"]) == {"all"}
    assert set(table["parameters"]) == {'{"q":0.9}'}


def test_zero_needs_no_counts(run: Store) -> None:
    assert made(run, "zero")["value"] == [0] * LAYERS * NEURONS


@pytest.mark.parametrize("method", ["mean", "median", "quantile", "peak"])
def test_by_position_there_is_one_constant_for_every_bucket(
    run: Store, values: NDArray[np.float64], method: str
) -> None:
    windows = counted.count(values).windows
    buckets = [counted.count(part, windows) for part in (values[:1000], values[1000:])]
    parameters: dict[str, object] = {"q": 0.25} if method == "quantile" else {}
    parameters["by"] = "position"
    file = written(run, stacked(buckets))
    table = made(run, method, parameters, of=file, by="position", starts=[0, 8])
    assert table["stratum"] == ["position 0-7"] * 6 + ["position 8-"] * 6
    alone = [centre(bucket, method, parameters) for bucket in buckets]
    np.testing.assert_array_equal(table["value"], np.concatenate(alone))


@pytest.mark.parametrize("estimator", PUBLISHED)
def test_a_published_peak_is_made_from_counts_of_its_own(
    run: Store, values: NDArray[np.float64], histogram: Histogram, estimator: str
) -> None:
    of = PUBLISHED[estimator]
    counter = FixedCounter(histogram.minimum, histogram.maximum, bins=of.bins, device=counted.CPU)
    counter.add(counted.tensor(values))
    fixed = counter.counts(0)
    file = f"partials/fixed.{next(numbers)}.arrow"
    partials.commit(run, file, partials.from_fixed(fixed), "part")
    table = made(run, "peak", {"estimator": estimator}, of=file)
    np.testing.assert_array_equal(table["value"], of.peak(fixed))


def test_what_cannot_be_read_off_the_counts_is_refused(histogram: Histogram) -> None:
    for method, parameters in (("optimal", {}), ("peak", {"estimator": "paper"})):
        with pytest.raises(ValueError, match=f"{method} with .* cannot be read off"):
            centre(histogram, method, parameters)


def test_a_neuron_without_a_value_is_named_and_nothing_is_written(
    run: Store, values: NDArray[np.float64], histogram: Histogram
) -> None:
    silent = values.copy()
    silent[:, 4] = np.nan
    file = written(run, counted.count(silent, histogram.windows))
    for method in ("mean", "median", "peak"):
        with pytest.raises(NoCentreError, match=r"1 of 6 neurons.*layer 1, neuron 1"):
            made(run, method, of=file)


# --- a user's own method -------------------------------------------------------------------------

MID = """
import numpy as np
from workers.plugins import Method

class Mid(Method):
    name = "mid"
    parameters = {"share": 0.5}
    needs = ("min", "max")
    def centre(self, statistics, parameters):
        low, high = statistics["min"], statistics["max"]
        return RETURNED

METHODS = [Mid()]
"""
RIGHT = "low + parameters['share'] * (high - low)"


def told(folder: Path, returned: str = RIGHT) -> dict[str, object]:
    file = folder / "mid.py"
    file.write_text(MID.replace("RETURNED", returned))
    (plugin,) = discover([file])
    return plugin.told()


def described(run: Store, values: NDArray[np.float64]) -> list[str]:
    """Write the extremes of every neuron, one file per layer, and return the files, last first."""
    files = []
    for layer, values_PN in enumerate(np.split(values, LAYERS, axis=1)):
        columns = {
            "site": "mlp_mid",
            "stratum": "all",
            "layer": layer,
            "neuron": np.arange(NEURONS),
            "min": values_PN.min(axis=0),
            "max": values_PN.max(axis=0),
        }
        file = f"statistics/part.{next(numbers)}.parquet"
        run.commit(file, parquet(rows("statistics", columns, NEURONS)))
        files.insert(0, file)
    return files


@pytest.mark.parametrize(("given", "share"), [({}, 0.5), ({"share": 0.25, "alpha": 0.5}, 0.25)])
def test_a_users_constant_is_what_its_function_makes_of_the_statistics(
    run: Store,
    values: NDArray[np.float64],
    tmp_path: Path,
    given: dict[str, object],
    share: float,
) -> None:
    files = described(run, values)
    table = made(run, "mid", given, plugin=told(tmp_path), statistics=files)
    low, high = values.min(axis=0), values.max(axis=0)
    np.testing.assert_allclose(table["value"], low + share * (high - low))
    assert set(table["method"]) == {"mid"}


@pytest.mark.parametrize("returned", ["low[0]", "low.mean()", "low > high", "low.astype(str)"])
def test_a_users_constant_of_another_shape_or_type_is_refused(
    run: Store, values: NDArray[np.float64], tmp_path: Path, returned: str
) -> None:
    files = described(run, values)
    with pytest.raises(
        PluginError, match=r"plug-in 'mid' .*mid\.py\) returned .* \(2, 3\): layers"
    ):
        made(run, "mid", plugin=told(tmp_path, returned), statistics=files)


def test_a_users_constant_that_is_not_a_number_names_the_neuron(
    run: Store, values: NDArray[np.float64], tmp_path: Path
) -> None:
    files = described(run, values)
    plugin = told(tmp_path, "np.where(low > 4, np.nan, low)")
    with pytest.raises(NoCentreError, match="take the mid of"):
        made(run, "mid", plugin=plugin, statistics=files)


def test_a_digest_is_of_the_values_alone(run: Store, histogram: Histogram) -> None:
    file = written(run, histogram)
    table = rows("centres", {"value": np.arange(6.0)}, 6)
    other = rows("centres", {"value": np.arange(6.0), "basis": "own"}, 6)
    changed = rows("centres", {"value": np.arange(6.0) + 1}, 6)
    assert centres.digest(table) == centres.digest(other) != centres.digest(changed)
    assert made(run, "median", of=file) == made(run, "median", of=file)
