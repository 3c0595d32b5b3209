"""Labels: what people call a method, a selection or a basis, with its parameters.

A label is what a sweep file may say, what `contrasts` name and what figures show:
`peak`, `peak(paper)`, `quantile(0.9)`, `mean(alpha=0.5)`, `score(rms, low)`, `rotated 0`.
It is made from a name and its parameters alone, so tables and spec agree.
"""

from collections.abc import Mapping

OWN = "own"
"""The label of a checkpoint's own axes."""
_USUAL = {"estimator": "smooth", "source": "dataset", "scope": "cell"}
"""Values that a label leaves out."""
_ORDER = ("by", "estimator", "q", "source", "drawn", "donor", "behaviour", "scope", "first")
"""Parameters that come first, in this order; the others follow in that of the alphabet."""
_RANK = {key: i for i, key in enumerate(_ORDER)}
_PLAIN = (*_ORDER, "over", "again")
"""Parameters of ours whose value says by itself what it is; all others stand with their key."""


def label(name: str, parameters: Mapping[str, object]) -> str:
    """Return a name with the values of its parameters in brackets, if any."""
    # In `peak(paper, position)` the estimator comes first.
    keys = sorted(parameters, key=lambda k: (k == "by" and name != "score", _RANK.get(k, 99), k))
    said = [_said(key, parameters[key]) for key in keys if _USUAL.get(key) != parameters[key]]
    return f"{name}({', '.join(said)})" if said else name


def _said(key: str, value: object) -> str:
    if key == "file":
        return str(value).replace("\\", "/").rpartition("/")[2]
    return str(value) if key in _PLAIN else f"{key}={value}"


def rotated(seed: int | None) -> str:
    """Return the label of a basis: the checkpoint's own, or that of a rotation."""
    return OWN if seed is None else f"rotated {seed}"
