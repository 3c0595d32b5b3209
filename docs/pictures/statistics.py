"""Draws the pictures of docs/statistics.md: `python docs/pictures/statistics.py`, about a minute.

Real activations are those of the bundled OPT on its own collection data, counted by
`workers.collect`; the rest is simulated from distributions whose mode is known
(`benchmarks.distributions`). Everything random has a seed, so the same versions of the
libraries draw the same pictures.

Shapes: R rows (neurons or repetitions), P values of a row, B bins.
"""

import sys
from collections.abc import Mapping, Sequence
from io import BytesIO, StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
# The folder of a script comes first on the path, where this file would pass for the library's
# own `statistics`; and what is imported below lies two folders up.
sys.path[0] = str(HERE.parents[1])

import altair as alt  # noqa: E402
import numpy as np  # noqa: E402
import polars as pl  # noqa: E402
import torch  # noqa: E402
import vl_convert  # noqa: E402
import yaml  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from PIL import Image  # noqa: E402
from rich.console import Console  # noqa: E402

from benchmarks import rows  # noqa: E402
from benchmarks.distributions import named  # noqa: E402
from orchestrator import sweep  # noqa: E402
from orchestrator.feed import batched  # noqa: E402
from orchestrator.report.figures import Spec, part, wrapped  # noqa: E402
from orchestrator.report.style import CONFIG  # noqa: E402
from orchestrator.shards import of_role  # noqa: E402
from workers.collect import collect, recount, windows_from  # noqa: E402
from workers.counting import Counter  # noqa: E402
from workers.estimators import fixed_scales, half_sample, smooth  # noqa: E402
from workers.histogram import Histogram, quantile, summarise  # noqa: E402
from workers.loading import Model, load  # noqa: E402
from workers.messages import Batch, Counted  # noqa: E402
from workers.published import paper  # noqa: E402
from workers.widening import poor, wider  # noqa: E402
from workers.windows import LATTICES, Windows  # noqa: E402

Floats = NDArray[np.float64]
Rows = list[dict[str, object]]

SEED = 20261123
SWEEP = {
    "name": "pictures",
    "models": ["zoo:opt"],
    "data": {"stdlib": {"source": "zoo:text", "collect": {"split": "train", "sequences": 256},
                        "evaluate": {"split": "test", "sequences": 1}}},
    "methods": ["mean"],
    "statistics": {"intervals": False},
}  # fmt: skip
COLOURS = {
    "smooth": "#D55E00",
    "half_sample": "#009E73",
    "paper": "#E69F00",
    "paper_global": "#CC79A7",
    "fullest bin": "#767676",
    "mean": "#0072B2",
    "median": "#56B4E9",
    "true mode": "#000000",
}
FILL, EDGE = "#c6c6c6", "#9a9a9a"
OUTSIDE = "#882255"


def main() -> None:
    """Draw all pictures beside this file."""
    model, batches = bundled()
    drawn = {
        "bins": bins(),
        "second-pass": second_pass(),
        "neuron": neurons(model, batches),
        "error": errors(),
        "target": target(),
        "atom": atoms(model, batches),
        "position": positions(model, batches),
    }
    for name, spec in drawn.items():
        svg = vl_convert.vegalite_to_svg({**spec, "config": CONFIG}, allowed_base_urls=[])
        image = Image.open(BytesIO(vl_convert.svg_to_png(svg, scale=1.6))).convert("RGB")
        # A hundred colours are enough for a drawing, and make it a third as large.
        image.quantize(100, dither=Image.Dither.NONE).save(
            HERE / f"statistics-{name}.png", optimize=True
        )


def bundled() -> tuple[Model, list[Batch]]:
    """Return the bundled OPT and the batches that a sweep would count."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "pictures.yaml"
        file.write_text(yaml.safe_dump(SWEEP))
        sweep.collect(file, out=folder + "/run", local=True, told=Console(file=StringIO()))
        data = pl.read_parquet(folder + "/run/data/zoo-opt/stdlib.parquet").to_arrow()
        ref = sweep.plan(file).models["zoo:opt"]
    return load(ref), list(batched(of_role(data, "collect"), ref.facts, 2048))


# --- pieces of charts -------------------------------------------------------------------------


def title(text: str, below: str = "") -> alt.TitleParams:
    """Return a panel's heading."""
    return alt.TitleParams(text, subtitle=below, fontSize=12.5, fontWeight="normal", offset=6)


def bars(histogram: Histogram, row: int = 0) -> Rows:
    """Return the bins of a row as steps, per unit of the activations so that widths compare."""
    w = histogram.windows
    x = w.start[row] + w.width[row] * np.arange(w.bins + 1)
    height = histogram.counts[row] / (histogram.finite[row] * w.width[row])
    return [
        {"x": float(a), "x2": float(b), "y": float(h)}
        for a, b, h in zip(x[:-1], x[1:], height, strict=True)
    ]


def along(domain: Sequence[float], name: str = "activation", ticks: int = 6) -> alt.X:
    """Return an axis of activations."""
    scale = alt.Scale(domain=list(domain), nice=False, zero=False)
    return alt.X("x:Q", title=name, scale=scale, axis=alt.Axis(tickCount=ticks, grid=False))


def boxes(
    shown: Rows, x: alt.X, top: float, width: int, height: int, fill: str = FILL
) -> alt.Chart:
    """Return bars from 0 to y; what is over the panel's top or sides is cut off."""
    y = alt.Y("y:Q", title=None, axis=None, scale=alt.Scale(domain=[0, top], nice=False))
    return (
        alt.Chart(alt.Data(values=shown), width=width, height=height)
        .mark_rect(fill=fill, stroke=EDGE, strokeWidth=0.4 if len(shown) < 120 else 0, clip=True)
        .encode(x=x, x2="x2:Q", y=y, y2=alt.datum(0))
    )


def marks(at: Mapping[str, float], top: float, x: alt.X, names: Sequence[str]) -> alt.LayerChart:
    """Return a line from the axis upwards for each estimate, its head the higher the earlier."""
    step = top * 0.05
    shown = [
        {"x": float(v), "y": top - step * (0.6 + names.index(k)), "estimate": k}
        for k, v in at.items()
    ]
    base = alt.Chart(alt.Data(values=shown)).encode(
        x=x,
        y=alt.Y("y:Q", title=None, scale=alt.Scale(domain=[0, top], nice=False)),
        color=coloured("estimate", names),
    )
    return alt.layer(
        base.mark_rule(strokeWidth=1.8).encode(y2=alt.datum(0)),
        base.mark_point(filled=True, size=55, opacity=1),
    )


def apart(left: Spec, right: Spec) -> Spec:
    """Return two panels side by side, each with its own legend."""
    own = dict.fromkeys(("color", "shape"), "independent")
    return {"hconcat": [left, right], "spacing": 40, "resolve": {"scale": own, "legend": own}}


def coloured(field: str, names: Sequence[str], columns: int = 8) -> alt.Color:
    """Return the colours of estimators, explained once above the figure."""
    scale = alt.Scale(domain=list(names), range=[COLOURS[name] for name in names])
    legend = alt.Legend(title=None, orient="top", columns=columns, symbolOpacity=1, symbolSize=90)
    return alt.Color(f"{field}:N", scale=scale, legend=legend)


# --- the pictures -----------------------------------------------------------------------------


def bins() -> Spec:
    """Draw one sample in three kinds of bins: min–max, logarithmic, a dyadic window."""
    rng = np.random.default_rng(SEED)
    true = 0.02
    values_P = rng.normal(true, 0.05, 100_000).astype(np.float32)
    values_P[0] = 10.0  # one outlier, 200 standard deviations out
    sorted_RP = np.sort(values_P)[None]
    fixed = rows.fixed(sorted_RP, sorted_RP[:, 0].astype(float), sorted_RP[:, -1].astype(float))
    edge = np.linspace(fixed.low[0], fixed.high[0], 101)
    straight = stepped(edge, fixed.counts[0])
    ratio, buckets = 1.1, np.arange(-60, 26)
    positive = np.histogram(values_P, np.append(ratio**buckets, ratio**26.0))[0]
    log_edge = np.append(ratio**buckets, ratio**26.0)
    negative = np.histogram(-values_P, log_edge)[0]
    logs = stepped(log_edge, positive) + [
        {**bar, "x": -bar["x2"], "x2": -bar["x"]} for bar in stepped(log_edge, negative)
    ]
    fullest = int(positive.argmax())
    window = rows.histogram(sorted_RP, rows.windows_of(values_P[None, :4096], 256, "float32"))
    w = window.windows
    dyadic = stepped(w.start[0] + w.width[0] * np.arange(257), window.counts[0])
    found = [
        ("100 bins from least to largest", "one outlier at 10: bins 0.1 wide", straight,
         float(paper(fixed)[0])),
        ("logarithmic buckets, 10 % wide", "they shrink to nothing at 0", logs,
         float((log_edge[fullest] + log_edge[fullest + 1]) / 2)),
        ("256 dyadic bins in a fixed window", "the outlier is counted as above", dyadic,
         float(smooth(window).value[0])),
    ]  # fmt: skip
    names = ["true mode", "smooth", "fullest bin"]
    panels = []
    for i, (heading, below, shown, peak) in enumerate(found):
        top = 1.25 * max(float(str(bar["y"])) for bar in shown)
        shown = [bar for bar in shown if bar["x2"] > -0.2 and bar["x"] < 0.24]
        x = along((-0.2, 0.24), "activation", 5)
        kind = "smooth" if i == 2 else "fullest bin"
        lines = marks({"true mode": true, kind: peak}, top, x, names)
        said = f"{below}; found {peak:.3f}"
        chart = alt.layer(boxes(shown, x, top, 250, 150), lines, title=title(heading, said))
        panels.append(part(chart))
    return wrapped(panels, columns=3, spacing=22)


def stepped(edge: Floats, counts: NDArray[np.int64]) -> Rows:
    """Return the bins between edges with their counts."""
    return [
        {"x": float(a), "x2": float(b), "y": int(n)}
        for a, b, n in zip(edge[:-1], edge[1:], counts, strict=True)
    ]


def second_pass() -> Spec:
    """Draw a neuron that the pilot saw asleep, as counted first and as counted again."""
    rng = np.random.default_rng(SEED)
    asleep = rng.normal(0, 1, 97_000)
    awake = rng.normal(14, 1, 3_000)
    values_PN = torch.from_numpy(np.concatenate([asleep, awake]).astype(np.float32)[:, None])
    first = counted(values_PN, windows_from([values_PN[:4096]]))
    lost = poor(first, LATTICES["float32"])
    again = counted(values_PN, wider(first, lost, LATTICES["float32"]))
    top = 0.45
    panels = []
    for heading, histogram in (("first pass", first), ("second pass", again)):
        w = histogram.windows
        left, right = float(w.start[0]), float(w.start[0] + w.bins * w.width[0])
        x = along((-11, 24), "activation", 8)
        share = int(histogram.above[0]) / 1000
        below = f"window from {left:.2f} to {right:.2f}".replace("-", "−")
        said = f"{share:.1f} % counted as above" if share > 1 else ""
        chart = alt.layer(
            boxes(bars(histogram), x, top, 400, 110),
            alt.Chart(alt.Data(values=[{"x": right + 0.4, "y": 0.2, "t": said}]))
            .mark_text(align="left", fontSize=12.5, color=OUTSIDE)
            .encode(x=x, y=alt.Y("y:Q", scale=alt.Scale(domain=[0, top], nice=False)), text="t:N"),
            alt.Chart(alt.Data(values=[{"x": left}, {"x": right}]))
            .mark_rule(color=OUTSIDE, strokeDash=[4, 3], clip=True)
            .encode(x=x),
            title=title(heading, below),
        )
        panels.append(part(chart))
    return wrapped(panels, columns=2, spacing=24)


def counted(values_PN: torch.Tensor, windows: Windows) -> Histogram:
    """Count values into windows."""
    counter = Counter(windows, torch.device("cpu"))
    counter.add(values_PN)
    return counter.histogram(0)


def neurons(model: Model, batches: Sequence[Batch]) -> Spec:
    """Draw neurons of the bundled OPT with every estimate."""
    histogram = collect(model, batches)
    low, high = histogram.minimum, histogram.maximum
    least, most = np.full_like(low, low.min()), np.full_like(high, high.max())
    at = {
        "mean": summarise(histogram).mean,
        "median": quantile(histogram, 0.5),
        "smooth": smooth(histogram).value,
        "half_sample": half_sample(histogram),
        "paper": paper(recount(model, batches, low=low, high=high)),
        "paper_global": paper(recount(model, batches, low=least, high=most)),
    }
    n = model.facts.neurons
    panels = []
    for layer, neuron in ((1, 57), (1, 116), (1, 111)):
        row = layer * n + neuron
        ends = [float(quantile(histogram, q)[row]) for q in (0.001, 0.999)]
        here = {name: float(value[row]) for name, value in at.items()}
        room = 0.03 * (ends[1] - ends[0])
        domain = (min(ends[0], *here.values()) - room, max(ends[1], *here.values()) + room)
        shown = bars(histogram, row)
        top = 1.6 * max(float(str(bar["y"])) for bar in shown)
        x = along(domain, "activation", 5)
        chart = alt.layer(
            boxes(shown, x, top, 250, 170),
            marks(here, top, x, list(at)),
            title=title(f"layer {layer}, neuron {neuron}"),
        )
        panels.append(part(chart))
    return wrapped(panels, columns=3, spacing=22)


def errors() -> Spec:
    """Draw the error of every estimator against the number of values."""
    chosen = ("normal", "gamma 3", "bimodal .6/.4", "Student t, 2")
    names = ["smooth", "half_sample", "fullest bin", "paper"]
    panels = []
    known = {of.name: of for of in named()}
    for of in (known[name] for name in chosen):
        shown: Rows = []
        for n, repetitions in ((1000, 200), (10_000, 200), (100_000, 60), (1_000_000, 12)):
            rng = np.random.default_rng([SEED, n])
            values_RP = of.of(rng.standard_normal((repetitions, n), np.float32))
            pilot_RP = values_RP[:, :4096].copy()
            values_RP.sort(axis=1)
            histogram = rows.histogram(values_RP, rows.windows_of(pilot_RP, 256, "float32"))
            ends = values_RP[:, 0].astype(np.float64), values_RP[:, -1].astype(np.float64)
            w, fullest_R = histogram.windows, histogram.counts.argmax(axis=1)
            estimates = {
                "smooth": smooth(histogram).value,
                "half_sample": half_sample(histogram),
                "fullest bin": (w.first + fullest_R + 0.5) * w.width,
                "paper": paper(rows.fixed(values_RP, *ends)),
            }
            for name, value_R in estimates.items():
                rmse = float(np.sqrt(np.mean((value_R - of.mode) ** 2)) / of.unit)
                shown.append({"n": n, "rmse": rmse, "estimator": name})
        base = alt.Chart(alt.Data(values=shown), width=185, height=190).encode(
            x=alt.X("n:Q", title="values", scale=alt.Scale(type="log"),
                    axis=alt.Axis(values=[1e3, 1e4, 1e5, 1e6], format="~s", grid=False)),
            y=alt.Y("rmse:Q", title="RMSE, in s.d." if not panels else None,
                    scale=alt.Scale(type="log", domain=[0.001, 10]),
                    axis=alt.Axis(values=[0.001, 0.01, 0.1, 1, 10], format="~g")),
            color=coloured("estimator", names),
        )  # fmt: skip
        shape = alt.Shape("estimator:N", scale=alt.Scale(domain=names), legend=None)
        lines = alt.layer(
            base.mark_line(strokeWidth=2),
            base.mark_point(filled=True, size=50, opacity=1).encode(shape=shape),
        )
        heading = of.name + (" (by its scale)" if of.name.startswith("Student") else "")
        panels.append(part(lines.properties(title=title(heading))))
    return wrapped(panels, columns=4, spacing=18)


def target() -> Spec:
    """Draw how the mode of the smoothed density depends on h, and so the peak on n."""
    of = next(d for d in named() if d.name.startswith("thin spike"))
    scales = (0.05, 0.1, 0.2)
    names = [f"h = {s:g} σ" for s in scales]
    colours = ["#E69F00", "#D55E00", "#882255"]
    x = np.linspace(-2, 4, 601)
    curves = [
        {"x": float(a), "y": float(b), "scale": name}
        for s, name in zip(scales, names, strict=True)
        for a, b in zip(x, 0.05 * bell(x, 0, np.hypot(0.01, s * of.unit))
                        + 0.95 * bell(x, 1, np.hypot(1, s * of.unit)), strict=True)
    ]  # fmt: skip
    left = (
        alt.Chart(alt.Data(values=curves), width=330, height=190)
        .mark_line(strokeWidth=2)
        .encode(
            x=along((-2, 4)),
            y=alt.Y("y:Q", title="density, smoothed", axis=alt.Axis(tickCount=4)),
            color=alt.Color("scale:N", scale=alt.Scale(domain=names, range=colours),
                            legend=alt.Legend(title=None, orient="top-right")),
        )
        .properties(title=title("5 % in a thin spike at 0, the rest normal about 1"))
    )  # fmt: skip
    shown: Rows = []
    for n in (1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000):
        rng = np.random.default_rng([SEED, n])
        repetitions = 24 if n <= 300_000 else 8
        for _ in range(repetitions):
            values_RP = of.of(rng.standard_normal((1, n), np.float32))
            windows = rows.windows_of(values_RP[:, :4096], 256, "float32")
            values_RP.sort(axis=1)
            histogram = rows.histogram(values_RP, windows)
            stable = str(bool(fixed_scales(histogram).stable[0])).lower()
            wide = n * (1 + 0.3 * (rng.random() - 0.5))
            value = float(smooth(histogram).value[0])
            shown.append({"n": wide, "x": value, "called": stable})
    said = "'peak_stable: ' + datum.label"
    called = alt.Scale(domain=["true", "false"], range=["#0072B2", "#D55E00"])
    few = alt.Axis(values=[1e3, 1e4, 1e5, 1e6], format="~s", grid=False)
    log = alt.Scale(type="log", domain=[700, 4.5e6], nice=False)
    height = alt.Scale(domain=[-0.25, 1.75], nice=False)
    legend = alt.Legend(title=None, orient="top-right", symbolOpacity=1, labelExpr=said)
    right = (
        alt.Chart(alt.Data(values=shown), width=330, height=190)
        .mark_point(size=32, opacity=0.75, strokeWidth=1.4)
        .encode(
            x=alt.X("n:Q", title="values", scale=log, axis=few),
            y=alt.Y("x:Q", title="peak (smooth)", scale=height),
            color=alt.Color("called:N", scale=called, legend=legend),
        )
        .properties(title=title("the peak found in repeated samples of n values"))
    )
    return apart(part(alt.layer(left)), part(alt.layer(right)))


def bell(x: Floats, mean: float, std: float) -> Floats:
    """Return the density of a normal distribution."""
    density: Floats = np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))
    return density


def atoms(model: Model, batches: Sequence[Batch]) -> Spec:
    """Draw neurons behind the bundled OPT's ReLU, with their exact zeros apart."""
    histogram = collect(model, batches, site="mlp_mid")
    share_R = histogram.zeros / histogram.finite
    off, on = int(np.abs(share_R - 0.8).argmin()), int(share_R.argmin())
    names = ["mean", "median", "smooth"]
    estimates = (summarise(histogram).mean, quantile(histogram, 0.5), smooth(histogram).value)
    n = histogram.counts.shape[0] // model.facts.layers
    panels = []
    for row in (off, on):
        shown = bars(histogram, row)
        high = float(quantile(histogram, 0.998)[row])
        top = 1.6 * sorted(float(str(bar["y"])) for bar in shown)[-1]
        x = along((-0.12 * high, high), "activation", 5)
        here = {k: float(v[row]) for k, v in zip(names, estimates, strict=True)}
        zero = [{"x": 0.0, "y": top * 0.999}]
        below = f"{100 * share_R[row]:.0f} % of the values are exactly 0; peak {here['smooth']:.3g}"
        chart = alt.layer(
            alt.Chart(alt.Data(values=zero)).mark_bar(size=7, color="#b9c9d6", clip=True).encode(
                x=x, y=alt.Y("y:Q", scale=alt.Scale(domain=[0, top], nice=False), axis=None)
            ),
            boxes(shown, x, top, 330, 150),
            marks(here, top, x, names),
            title=title(f"layer {row // n}, neuron {row % n}", below),
        )  # fmt: skip
        panels.append(part(chart))
    return wrapped(panels, columns=2, spacing=24)


def positions(model: Model, batches: Sequence[Batch]) -> Spec:
    """Draw what a neuron does at each position, and what its first position is among the rest."""
    starts = (*range(16), *range(16, 128, 8))
    row, n = 67, model.facts.neurons
    strata = collect(model, batches, counted=Counted(by="position", starts=starts))
    mean_Z = summarise(strata).mean.reshape(len(starts), -1)[:, n + row]
    peak_Z = smooth(strata).value.reshape(len(starts), -1)[:, n + row]
    ends = np.append(starts[1:], 128)
    middle_Z = (np.array(starts) + ends - 1) / 2
    shown = [
        {"n": float(z), "x": float(value_Z[i]), "statistic": name}
        for name, value_Z in (("mean", mean_Z), ("peak", peak_Z))
        for i, z in enumerate(middle_Z)
    ]
    scale = alt.Scale(domain=["mean", "peak"], range=[COLOURS["mean"], COLOURS["smooth"]])
    left = alt.Chart(alt.Data(values=shown), width=330, height=180).encode(
        x=alt.X("n:Q", title="position", axis=alt.Axis(grid=False, tickCount=8),
                scale=alt.Scale(domain=[-2, 128], nice=False)),
        y=alt.Y("x:Q", title="activation"),
        color=alt.Color("statistic:N", scale=scale,
                        legend=alt.Legend(title=None, orient="top-right")),
    )  # fmt: skip
    left = alt.layer(
        left.mark_line(strokeWidth=1.6), left.mark_point(filled=True, size=30),
        title=title("layer 1, neuron 67, by position"),
    )  # fmt: skip
    whole = collect(model, batches)
    first = float(summarise(whole).first[n + row])
    bar = bars(whole, n + row)
    top = 1.5 * max(float(str(b["y"])) for b in bar)
    x = along((-0.75, 1.3))
    right = alt.layer(
        boxes(bar, x, top, 330, 180),
        alt.Chart(alt.Data(values=[{"x": first, "y": top * 0.62}]))
        .mark_rule(color=OUTSIDE, strokeWidth=2, strokeDash=[5, 3])
        .encode(x=x, y="y:Q", y2=alt.datum(0)),
        alt.Chart(alt.Data(values=[{"x": first, "y": top * 0.68, "t": "first_position"}]))
        .mark_text(color=OUTSIDE, fontSize=12, align="center")
        .encode(x=x, y="y:Q", text="t:N"),
        title=title("all positions together"),
    )
    return apart(part(left), part(right))


if __name__ == "__main__":
    main()
