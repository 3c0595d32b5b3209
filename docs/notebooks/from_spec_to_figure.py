"""The cells of from_spec_to_figure.ipynb; `execute.py` makes the notebook of them."""

# %% [markdown]
# # From a sweep file to a figure
#
# What breaks in a small transformer when half of its attention neurons are held at their mean?
# This notebook asks, draws the answer, and looks at the logits behind one point of it. It takes
# half a minute on a laptop and needs no network: model and texts are part of Peaksweep.

# %%
from pathlib import Path

import altair as alt
import polars as pl

from orchestrator import results, sweep
from orchestrator.rerun import run_cell

Path("sweep.yaml").write_text("""
name: first
models: [zoo:opt]
data:
  stdlib:
    source: zoo:text
    collect: {split: train, sequences: 48}
    evaluate: {split: test, sequences: 24}
methods: [zero, mean, peak, resample]
fractions: [0.25, 0.5, 0.75, 1]
seeds: 3
contrasts: [[peak, mean]]
""")
made = sweep.run("sweep.yaml", out="first", local=True)
f"{made.computed} cells answered, {len(made.failures)} tasks failed"

# %% [markdown]
# The run folder holds Parquet tables. `results.open` gives each of them as a lazy frame, and a few
# functions that choose from them.

# %%
run = results.open("first")
at_half = run.summary.filter(pl.col("fraction") == 0.5).group_by("method", maintain_order=True)
at_half.agg(pl.col("ce").mean().round(3), pl.col("top1").mean().round(3)).collect()

# %% [markdown]
# ## The figure
#
# Cross-entropy against the share of neurons held. The bands are 95 % intervals, point by point,
# over documents and masks.

# %%
curves = run.curve(metric="ce")
share = alt.X("held_share:Q", title="share of attention neurons held", axis=alt.Axis(format="%"))
color = alt.Color("label:N", title="held at")
lines = alt.Chart(curves).mark_line(point=True).encode(share, alt.Y("mean:Q"), color)
low = alt.Y("low:Q", title="cross-entropy, nats").scale(zero=False)
bands = alt.Chart(curves).mark_area(opacity=0.15).encode(share, low, color, y2="high:Q")
(bands + lines).properties(width=420, height=260)

# %% [markdown]
# ## Is the peak better than the mean?
#
# The sweep file declared this comparison. Both hold the same neurons of the same masks, so the
# difference is paired: its interval is far narrower than the bands above. It is peak minus mean, so
# above zero the peak does more damage.

# %%
columns = ["fraction", "estimate", "low", "high", "documents", "masks"]
run.compare("peak", "mean").select(columns).with_columns(pl.col("estimate", "low", "high").round(4))

# %% [markdown]
# The first row is the area over all fractions. Where mean and peak lie far apart, the two methods
# put in different values; here are the neurons where that is most so.

# %%
far = run.neurons().sort("gap", descending=True).head(5)
far.select("layer", "head", "neuron", pl.col("mean", "peak", "std", "gap").round(3), "modes")

# %% [markdown]
# ## The logits behind a point
#
# A cell of the sweep is computed again, this time to keep what the model said. Its sums are those
# of the run; position by position, the loss shows where the damage is.

# %%
half = run.cells.filter(pl.col("method") == "mean", pl.col("seed") == 0).collect()
bare, held = (half.filter(pl.col("fraction") == f)["cell"][0] for f in (0, 0.5))
some = run.data.filter(pl.col("role") == "evaluate").select("sequence").head(4).collect()
before, after = (run_cell(run, c, sequences=some["sequence"].to_list()) for c in (bare, held))
before.answers().join(after.answers(), on="sequence", suffix=" ablated").with_columns(
    pl.col("loss", "loss ablated").round(2)
)
