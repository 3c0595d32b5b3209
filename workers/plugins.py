"""Plug-ins: a user's own method, and the register in which a process finds it.

A method is an object of a class derived from `Method`. It is one of two kinds,
by which of the two functions it has:

    centre    one constant per neuron, from the statistics table; it folds into the
              projection, so evaluating it costs what `mean` costs
    replace   what an activation becomes, position by position, in a hook

A plug-in is one module with a list `METHODS` of such objects. Processes on other
nodes do not have its file, so the text travels: `load_source` executes it in a
fresh module, and `register` makes its methods findable by name in this process.
A module may import what is installed wherever it runs, but nothing beside it.

Nothing here decides what code is run: the driver does (`orchestrator.plugins`), and
only for files that the user named and packages that the user installed.
`python -m workers.plugins` tells what modules declare, as JSON, so that a process
that must not import torch need not execute them itself.

Shapes: S sequences, T positions, L layers, N neurons of one hookpoint.
"""

import contextlib
import importlib.util
import inspect
import json
import math
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from workers.messages import Site

if TYPE_CHECKING:  # planning registers methods too, and needs no torch
    from torch import Tensor

Kind = Literal["constant", "replacing"]
Default = int | float | str
"""What a parameter may be; its default also says of which type it is."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


class PluginError(ValueError):
    """A plug-in that cannot be used; says which, what is wrong, and what to do."""


class Method:
    """One method of a plug-in: derive from it, and define `centre` or `replace`, not both.

    Instances keep no state: they are made again in every process, and what they return may
    depend on their arguments alone.
    """

    name: ClassVar[str]
    """What a sweep file says: lower-case letters, digits and underscores."""
    parameters: ClassVar[Mapping[str, Default]] = {}
    """Its parameters with their defaults."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Columns of the statistics table that it reads."""

    def centre(
        self,
        statistics: Mapping[str, NDArray[np.generic]],
        parameters: Mapping[str, Default],
    ) -> NDArray[np.float64]:
        """Return the constant of every neuron, (L, N), in the units of the activations.

        `statistics` are the columns of `needs`, (L, N) each, with a last dimension where the
        table has lists. They are of the unablated model over all counted positions.
        `parameters` has all of the method's.
        """
        raise NotImplementedError

    def replace(
        self,
        x_STN: "Tensor",
        *,
        layer: int,
        site: Site,
        statistics: "Mapping[str, Tensor]",
        parameters: Mapping[str, Default],
        sequence_S: "Tensor",
        seed: int,
    ) -> "Tensor":
        """Return what the activations of one hookpoint become, (S, T, N); leave `x_STN` as it is.

        It is given and gives all N neurons, whichever are held. `statistics` are the columns
        of `needs` for this layer, (N,) each, of the column's type (float64, int64 or bool).
        What is returned may be of any floating dtype; it is rounded to that of `x_STN`.

        Whatever is drawn is drawn by `seed`, `layer`, `site` and `sequence_S`, the sequences'
        numbers, (S,) int64 (`workers.draws` does), so that batches and machines make no
        difference. Padded positions are in `x_STN`; what is returned for them is not used, but
        must not change any other position.
        """
        raise NotImplementedError


_REGISTER: dict[str, Method] = {}


def register(methods: Iterable[Method]) -> None:
    """Make methods findable in this process; one of the same name is replaced."""
    for method in methods:
        _REGISTER[method.name] = method


def find(name: str) -> Method:
    """Return the method of this name; raises PluginError if this process does not know it."""
    try:
        return _REGISTER[name]
    except KeyError:
        known = ", ".join(sorted(_REGISTER)) or "none"
        raise PluginError(
            f"no plug-in is registered under the name {name!r} in this process (known: {known});"
            " name its module with `--plugin FILE.py`, or install the package that has it"
        ) from None


def kind(method: Method) -> Kind:
    """Return which of the two functions a method has; raises PluginError for both or none."""
    has = [f for f in ("centre", "replace") if getattr(type(method), f) is not getattr(Method, f)]
    if len(has) != 1:
        found = "both" if has else "neither"
        raise PluginError(
            f"method {method.name!r} defines {found} of `centre` and `replace`; define `centre` if"
            " it is one constant per neuron, `replace` if it looks at the activation"
        )
    return "constant" if has == ["centre"] else "replacing"


def load_source(name: str, text: str) -> list[Method]:
    """Execute the text of a module and return its `METHODS`, checked; `name` is for messages.

    Raises PluginError for text that fails, that has no METHODS, or whose methods have a
    wrong name, signature or parameter.
    """
    module = ModuleType(f"peaksweep_plugin_{re.sub(r'[^A-Za-z0-9_]', '_', name)}")
    module.__file__ = name
    try:
        exec(compile(text, name, "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == name]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1]
        raise PluginError(
            f"{name} could not be executed (line {line}): {type(error).__name__}: {error}. A"
            " plug-in is one file that imports nothing but installed packages"
        ) from error
    methods = getattr(module, "METHODS", None)
    if not isinstance(methods, (list, tuple)) or not methods:
        found = "is missing" if methods is None else f"is {methods!r}"
        raise PluginError(f"{name}: METHODS {found}; give a list of the module's methods")
    for method in methods:
        _check(name, method)
    return list(methods)


def _check(origin: str, method: object) -> None:
    if not isinstance(method, Method):
        raise PluginError(
            f"{origin}: METHODS has {method!r}; expected an object of a class derived from"
            " `workers.plugins.Method`"
        )
    name = getattr(method, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PluginError(
            f"{origin}: {type(method).__name__} has the name {name!r}; give `name`, made of"
            " lower-case letters, digits and underscores"
        )
    constant = kind(method) == "constant"
    keys = ("layer", "site", "statistics", "parameters", "sequence_S", "seed")
    function: Callable[..., object] = method.centre if constant else method.replace
    expected = (
        "(self, statistics, parameters)" if constant else f"(self, x_STN, *, {', '.join(keys)})"
    )
    signature = inspect.signature(function)
    try:
        if constant:
            signature.bind(None, None)
        else:
            signature.bind(None, **dict.fromkeys(keys))
    except TypeError as error:
        raise PluginError(
            f"{origin}: `{function.__name__}` of {name!r} cannot be called as it will be"
            f" ({error}); define it as {function.__name__}{expected}"
        ) from None
    _check_words(origin, method)


def _check_words(origin: str, method: Method) -> None:
    if not isinstance(method.parameters, Mapping):
        raise PluginError(
            f"{origin}: `parameters` of {method.name!r} is {method.parameters!r}; give a mapping of"
            " names to defaults"
        )
    for key, value in method.parameters.items():
        fine = isinstance(value, str) or (type(value) in (int, float) and math.isfinite(value))
        if not fine or not isinstance(key, str) or not _NAME.fullmatch(key) or key == "alpha":
            raise PluginError(
                f"{origin}: {method.name!r} has the parameter {key!r} with the default {value!r};"
                " expected a lower-case name, not `alpha`, which every method has already, and a"
                " finite number or a word"
            )
    needs = method.needs
    if not isinstance(needs, tuple) or not all(isinstance(column, str) for column in needs):
        raise PluginError(
            f"{origin}: `needs` of {method.name!r} is {needs!r}; give a tuple of columns of the"
            ' statistics table, as `("mean", "std")`'
        )


def _look(asked: Mapping[str, str]) -> dict[str, object]:
    """Return what a module declares; it is given by its file or as an installed module."""
    try:
        if "file" in asked:
            path = Path(asked["file"])
        else:
            found = importlib.util.find_spec(asked["module"])
            if found is None or found.origin is None:
                raise PluginError(f"{asked['name']}: there is no module {asked['module']}")
            path = Path(found.origin)
        text = path.read_text()
        with contextlib.redirect_stdout(sys.stderr):
            methods = load_source(asked["name"], text)
    except (PluginError, OSError, ImportError, UnicodeDecodeError) as error:
        said = str(error) if isinstance(error, PluginError) else f"{asked['name']}: {error}"
        return {"error": said}
    declared = [
        {
            "name": method.name,
            "kind": kind(method),
            "parameters": dict(method.parameters),
            "needs": list(method.needs),
        }
        for method in methods
    ]
    return {"source": text, "methods": declared}


def main() -> None:
    """Read a JSON list of modules from standard input and write what each declares."""
    answers = [_look(asked) for asked in json.load(sys.stdin)]
    sys.stdout.write("\n" + json.dumps(answers) + "\n")


if __name__ == "__main__":
    from workers import plugins  # the module that plug-ins import, not this second copy of it

    plugins.main()
