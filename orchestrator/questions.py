"""Questions: what people ask of nearly every run, ready to be asked by name.

Each is SQL over the tables of a run (`orchestrator.tables`, `orchestrator.query`), written here and
nowhere else. They are starting points: print them (`--list`), copy one and change it. All of them
are right for one run and for several, and on a run that is going on, over what is there.

None of them tests anything. They show what is largest, so of many rows the first are overrated; a
difference between two methods is read from the declared rows of `contrasts`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question that can be asked by name."""

    about: str
    """What it answers, and what not, in a sentence or two."""
    sql: str


QUESTIONS: dict[str, Question] = {
    "best-method": Question(
        about="Which way of holding does least harm: the mean rise of cross-entropy over held"
        " shares (nats), smallest first. Intervals are each method's own; whether two differ is in"
        " contrasts.",
        sql="""\
SELECT run, model, data, dtype, basis, site, unit, layers, complement, selection,
       RANK() OVER (PARTITION BY run, model, data, dtype, basis, site, unit, layers, complement,
                                 selection ORDER BY area) AS rank,
       method, parameters, area, low, high, masks, documents
FROM areas
WHERE metric = 'd_ce'
ORDER BY run, model, data, dtype, basis, site, unit, layers, complement, selection, rank""",
    ),
    "layers": Question(
        about="What each layer, or group of layers, costs when it alone is held at its largest"
        " share: rise of cross-entropy (nats), largest first. For sweeps that say `layers`; the"
        " costs of layers do not add up.",
        sql="""\
SELECT run, model, data, dtype, basis, site, unit, selection, method, parameters, layers,
       held_share, mean, low, high, masks
FROM curves
WHERE metric = 'd_ce' AND band = 'pointwise' AND layers <> 'all' AND NOT complement
QUALIFY RANK() OVER (PARTITION BY run, model, data, dtype, basis, site, unit, layers, selection,
                                  method, parameters ORDER BY held_share DESC) = 1
ORDER BY run, model, data, dtype, basis, site, unit, selection, method, parameters, mean DESC""",
    ),
    "bimodal-neurons": Question(
        about="Neurons whose two highest modes hold a tenth of the activations each, or more; most"
        " evenly split first. apart is their distance in standard deviations. One constant says"
        " little about these.",
        sql="""\
SELECT run, model, data, dtype, basis, site, layer, head, neuron,
       ARRAY_LENGTH(mode_values) AS modes,
       ARRAY_GET(mode_values, 1) AS first_mode, ARRAY_GET(mode_weights, 1) AS first_weight,
       ARRAY_GET(mode_values, 2) AS second_mode, ARRAY_GET(mode_weights, 2) AS second_weight,
       ABS(ARRAY_GET(mode_values, 1) - ARRAY_GET(mode_values, 2)) / std AS apart,
       mean, std, kurtosis
FROM statistics
WHERE stratum = 'all' AND cell IS NULL
      AND ARRAY_GET(mode_weights, 1) >= 0.1 AND ARRAY_GET(mode_weights, 2) >= 0.1
ORDER BY LEAST(first_weight, second_weight) DESC, run, model, data, site, layer, neuron""",
    ),
    "bin-width-warnings": Question(
        about="Layers where the histograms say less than the methods assume, worst first: neurons"
        " whose peak moves with the bandwidth (unstable), whose bandwidth is less than a bin"
        " (coarse), whose peak and mean are less than a bin apart (alike), with more than 1 % of"
        " values outside the window (outside).",
        sql="""\
SELECT run, model, data, dtype, basis, site, layer, COUNT(*) AS neurons,
       SUM(CASE WHEN NOT peak_stable THEN 1 ELSE 0 END) AS unstable,
       SUM(CASE WHEN bandwidth < bin_width THEN 1 ELSE 0 END) AS coarse,
       SUM(CASE WHEN ABS(peak - mean) < bin_width THEN 1 ELSE 0 END) AS alike,
       SUM(CASE WHEN below + above > 0.01 * count THEN 1 ELSE 0 END) AS outside
FROM statistics
WHERE stratum = 'all' AND cell IS NULL
GROUP BY run, model, data, dtype, basis, site, layer
HAVING unstable + coarse + alike + outside > 0
ORDER BY unstable + coarse + outside DESC, alike DESC, run, model, data, site, layer""",
    ),
    "gap-to-optimal": Question(
        about="How much of the way from a reference (zero, mean) to the learned optimum a method"
        " goes: 0 is as bad as the reference, 1 as good as the optimum. For sweeps with `optimal`;"
        " reason says why there is no number. A null fraction is the area over all.",
        sql="""\
SELECT run, model, data, dtype, basis, site, unit, layers, complement, selection, fraction,
       b AS reference, a AS method, estimate AS share_closed, low, high, reason, masks, documents
FROM contrasts
WHERE metric = 'gap_closed'
ORDER BY run, model, data, dtype, basis, site, unit, layers, complement, selection, fraction,
         reference, share_closed DESC""",
    ),
    "slowest": Question(
        about="The twenty cells that took longest (seconds of a replica, all rounds together), and"
        " what they hold.",
        sql="""\
SELECT spent.run, model, data, site, layers, method, parameters, units_held, units_total,
       seconds, parts, spent.cell
FROM (SELECT run, cell, SUM(seconds) AS seconds, COUNT(*) AS parts
      FROM executions GROUP BY run, cell) AS spent
JOIN (SELECT run, cell, MIN(model) AS model, MIN(data) AS data, MIN(site) AS site,
             MIN(layers) AS layers, MIN(method) AS method, MIN(parameters) AS parameters,
             MIN(units_held) AS units_held, MIN(units_total) AS units_total
      FROM cells GROUP BY run, cell) AS point
  ON spent.run = point.run AND spent.cell = point.cell
ORDER BY seconds DESC LIMIT 20""",
    ),
}
"""By name, in the order in which they are listed."""
