"""Plug-ins: which methods of their own the users of a sweep have, and how they travel.

Two ways lead a user's method in, and both are the user's doing: `--plugin FILE.py`
on the command line, and an installed package with an entry point of the group
`peaksweep.methods` whose value is a module. A sweep file can name a method; it
never makes code run by itself.

What is planned must be what is run, on nodes that have no such file. So a plug-in
is its text: read once, by the driver, hashed into the names of the cells, and sent
with every task that needs it. `restore` executes it there, if it is what was hashed.

A digest is of one module's text. It does not see what the module imports, and a
change to one of two methods in a file renames the cells of both.

Modules are executed in a process of their own to see what they declare
(`python -m workers.plugins`), since planning must not import torch and they may.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.methods import METHODS, RESERVED
from orchestrator.tables import SCHEMAS
from workers.plugins import Default, Kind, PluginError, load_source, register

GROUP = "peaksweep.methods"
"""Entry points of this group are modules with METHODS."""
_KEYS = ("model", "data", "dtype", "basis", "site", "stratum", "cell")
"""Columns of statistics that are the same for all neurons of a table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plugin:
    """One method of a user's own, as it was when the sweep was planned."""

    name: str
    kind: Kind
    parameters: Mapping[str, Default]
    """With their defaults."""
    needs: tuple[str, ...]
    """Columns of the statistics table that it reads."""
    origin: str
    """Where it is from, for messages: a file, or a package and its module."""
    source: str
    """Text of its module."""
    digest: str
    """SHA-256 of the text; part of the names of its cells."""

    def told(self) -> dict[str, object]:
        """Return it as JSON for the arguments of a task; `restore` takes it."""
        return {**asdict(self), "parameters": dict(self.parameters), "needs": list(self.needs)}


def discover(modules: Sequence[Path]) -> tuple[Plugin, ...]:
    """Return the methods of some modules and of all installed plug-ins, in order of name.

    Raises PluginError for a module that cannot be used, a name that is taken, or a
    column that no statistics table has.
    """
    asked = [{"name": str(path), "file": str(path.absolute())} for path in modules]
    for point in sorted(entry_points(group=GROUP), key=lambda p: (p.module, p.name)):
        package = f"{point.dist.name} " if point.dist else ""
        asked.append({"name": f"{package}({point.module})", "module": point.module})
    found: dict[str, Plugin] = {}
    for origin, answer in zip(asked, _declared(asked), strict=True):
        if "error" in answer:
            raise PluginError(answer["error"])
        for declared in answer["methods"]:
            plugin = Plugin(
                name=declared["name"],
                kind=declared["kind"],
                parameters=declared["parameters"],
                needs=tuple(declared["needs"]),
                origin=origin["name"],
                source=answer["source"],
                digest=_digest(answer["source"]),
            )
            _check(plugin, found)
            found[plugin.name] = plugin
    return tuple(found[name] for name in sorted(found))


def known(plugins: Sequence[Plugin]) -> dict[str, tuple[Kind, Mapping[str, Default]]]:
    """Return what a sweep file may name: each method's kind, and its parameters' defaults."""
    return {plugin.name: (plugin.kind, plugin.parameters) for plugin in plugins}


def filled(told: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Default]:
    """Return all parameters of a plug-in's method: its defaults, and what a sweep file gave.

    What is not its own stays out: `alpha`, every method's, is applied to what it returns.
    """
    defaults = told["parameters"]
    return {**defaults, **{key: value for key, value in given.items() if key in defaults}}


_RESTORED: dict[str, str] = {}
"""Digest of what is registered in this process, by name."""


def restore(told: Mapping[str, Any]) -> None:
    """Make a plug-in's method findable in this process (`workers.plugins.find`).

    Does nothing where it is already. Raises PluginError if the text is not what was hashed.
    """
    name, source, digest = told["name"], told["source"], told["digest"]
    if _RESTORED.get(name) == digest:
        return
    if _digest(source) != digest:
        raise PluginError(
            f"the text of plug-in {name!r} ({told['origin']}) is not the one that was planned"
            f" (SHA-256 {_digest(source)[:12]}, planned {digest[:12]}); plan the sweep again"
        )
    register(method for method in load_source(told["origin"], source) if method.name == name)
    _RESTORED[name] = digest


def _declared(asked: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    if not asked:
        return []
    done = subprocess.run(
        [sys.executable, "-m", "workers.plugins"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise PluginError(
            f"looking at the plug-ins {', '.join(a['name'] for a in asked)} ended the process that"
            f" did (exit code {done.returncode}):\n{done.stderr[-4000:]}"
        )
    answers: list[dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1])
    return answers


def _check(plugin: Plugin, found: Mapping[str, Plugin]) -> None:
    taken = sorted(RESERVED & set(plugin.parameters))
    if taken:
        raise PluginError(
            f"{plugin.origin}: {plugin.name!r} has a parameter {taken[0]!r}, a word that means"
            " something in a method's name already; call it otherwise"
        )
    if plugin.name in METHODS:
        raise PluginError(
            f"{plugin.origin}: {plugin.name!r} is the name of a built-in method; choose another"
        )
    if plugin.name in found:
        raise PluginError(
            f"two plug-ins have the name {plugin.name!r}: {found[plugin.name].origin} and"
            f" {plugin.origin}; rename one, or leave it out"
        )
    schema = SCHEMAS["statistics"]
    columns = [c for c in schema.names if c not in _KEYS]
    if plugin.kind == "replacing":  # it is handed (N,) numbers
        columns = [c for c in columns if not pa.types.is_list(schema.field(c).type)]
    unknown = [c for c in plugin.needs if c not in columns]
    if unknown:
        raise PluginError(
            f"{plugin.origin}: {plugin.name!r} needs {', '.join(map(repr, unknown))}; the columns"
            f" that a {plugin.kind} method can have are {', '.join(columns)}"
        )


def _digest(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()
