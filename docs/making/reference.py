"""Reference: pages that are made from the code, so that they cannot say anything else.

sweep_file   every key of a sweep file, from its JSON Schema
commands     every verb, from the command line itself
tables       every column of every table, from orchestrator/tables.py and its comments
python       the functions that people call, from their docstrings (mkdocstrings)
"""

import ast
import inspect
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping

import typer

from orchestrator import tables
from orchestrator.cli import app
from orchestrator.frames import frames
from orchestrator.schema import schema
from orchestrator.store import Store

MODULES = (
    "orchestrator.sweep",
    "orchestrator.results",
    "orchestrator.query",
    "orchestrator.rerun",
    "orchestrator.status",
    "orchestrator.tables",
    "orchestrator.schema",
    "workers.ablation",
    "workers.collect",
    "workers.plugins",
)
"""What people import. All else may change without notice."""


def pages() -> Mapping[str, str]:
    """Return the pages, in Markdown, by their path under docs/."""
    made: Mapping[str, Callable[[], str]] = {
        "sweep_file": sweep_file,
        "commands": commands,
        "tables": columns,
        "python": python,
    }
    return {f"reference/{name}.md": make() for name, make in made.items()}


# --- the sweep file ------------------------------------------------------------------------------


def sweep_file() -> str:
    """Return every key of a sweep file: what may stand there, the default, what it is."""
    whole = schema()
    lines = [
        "# The sweep file\n",
        "Made from the classes that read it. The same as [JSON Schema](../schema.json), for",
        "editors: with the YAML language server a first line such as",
        "`# yaml-language-server: $schema=../docs/schema.json` completes keys and marks what is",
        "wrong while you type; `python -m orchestrator.schema` writes the file anew. What the",
        "words mean is on the page about [methods](../methods.md).\n",
        "Only `models` and `methods` must be there.\n",
        *_keys(whole),
    ]
    for name in _in_order(whole):
        part = whole["$defs"][name]
        lines += [f"## {name}\n", f"{part['description']}\n", *_keys(part)]
    return "\n".join(lines)


def _in_order(whole: Mapping[str, object]) -> list[str]:
    """Return the sections' names in the order in which the file's keys lead to them."""
    found = dict.fromkeys(re.findall(r"#/\$defs/(\w+)", json.dumps(whole["properties"])))
    inner = dict.fromkeys(re.findall(r"#/\$defs/(\w+)", json.dumps(whole["$defs"])))
    return [*(found | inner)]


def _keys(part: Mapping[str, object]) -> Iterator[str]:
    properties = part["properties"]
    assert isinstance(properties, Mapping)
    yield "| key | is | may be | default |"
    yield "|---|---|---|---|"
    for key, value in properties.items():
        default = "*needed*"
        if "default" in value:
            default = "–" if value["default"] is None else f"`{_json(value['default'])}`"
        if isinstance(value.get("default"), dict) and "$ref" in value:
            default = "its own"
        about = _PAGE.sub(r"[\1](../\1.md)", value["description"])
        cells = (f"`{key}`", about, _may_be(value), default)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def _may_be(value: Mapping[str, object]) -> str:
    """Return in words what a schema allows."""
    if "$ref" in value:
        name = str(value["$ref"]).rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "allOf"):
        if several in value:
            ways = value[several]
            assert isinstance(ways, list)
            shown = [way for way in ways if way != {"type": "null"}]
            return ", or ".join(dict.fromkeys(_may_be(way) for way in shown))
    if "enum" in value or "const" in value:
        words = value.get("enum", [value.get("const")])
        assert isinstance(words, list)
        return " ".join(f"`{_json(word)}`" for word in words)
    kind = value.get("type")
    if kind == "array":
        item = value.get("items")
        return f"a list of ({_may_be(item)})" if isinstance(item, Mapping) else "a pair of labels"
    if kind == "object":
        if value.get("maxProperties") == 1:
            return "a mapping of a name to its parameters"
        inner, others = value.get("properties"), value.get("additionalProperties")
        if isinstance(others, Mapping):
            return f"a mapping of names to ({_may_be(others)})"
        assert isinstance(inner, Mapping)
        return "a mapping of " + ", ".join(f"`{name}`" for name in inner)
    return f"{_KINDS.get(str(kind), str(kind))}{_limits(value)}"


_PAGE = re.compile(r"docs/(\w+)\.md")
_KINDS = {
    "string": "text",
    "integer": "whole number",
    "boolean": "`true` `false`",
    "null": "`null`",
}


def _limits(value: Mapping[str, object]) -> str:
    said = [
        f"{sign} {value[key]:g}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"))
        if isinstance(value.get(key), (int, float)) and abs(value[key]) < 2**31 - 1
    ]
    return f" {', '.join(said)}" if said else ""


def _json(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# --- the command line ----------------------------------------------------------------------------


def commands() -> str:
    """Return every verb with its arguments and options, and the exit codes."""
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    lines = ["# The command line\n"]
    for name, command in group.commands.items():
        context = typer.Context(command, info_name=f"peaksweep {name}")
        usage = " ".join(command.collect_usage_pieces(context))
        lines += [f"## {name}\n", f"```text\npeaksweep {name} {usage}\n```\n", f"{command.help}\n"]
        records = [parameter.get_help_record(context) for parameter in command.params]
        rows = [f"| `{names}` | {said} |" for names, said in filter(None, records)]
        lines += ["| | |", "|---|---|", *rows, ""]
    from orchestrator import cli  # for its docstring, which tells the exit codes

    codes = re.search(r"Exit codes: (.*)", inspect.getdoc(cli) or "", re.DOTALL)
    if codes is not None:
        lines += ["## Exit codes\n", *(f"- {code.strip()}" for code in codes[1].split("·"))]
    return "\n".join(lines) + "\n"


# --- the tables ----------------------------------------------------------------------------------


def columns() -> str:
    """Return every column of every table with its type and what the source says of it."""
    source = inspect.getsource(tables)
    said = _comments(source)
    lines = ["# The tables\n", f"{inspect.getdoc(tables)}\n"]
    for name, table in tables.SCHEMAS.items():
        lines += [f"## {name}\n", "| column | type | |", "|---|---|---|"]
        for field in table:
            what = said.get((name, field.name)) or said.get(("_CELL", field.name), "")
            lines.append(f"| `{field.name}` | {field.type} | {what.replace('|', chr(92) + '|')} |")
        lines.append("")
    return "\n".join([*lines, *_derived()])


_DERIVED = {
    "summary": "A row per cell: what its answers come to, with standard errors, and the change"
    " against the unablated model with its interval (`d_`…).",
    "contrasts": "A row per comparison of two methods, selections or bases, at one fraction or over"
    " all (`fraction` is null). `estimate` is a minus b; `p_adjusted` is of the declared ones"
    " together.",
    "curves": "A row per method, metric and held share: the mean over masks with two intervals"
    " (`band`). Metrics with `d_` are changes against the unablated model.",
    "areas": "A row per curve: its mean level over the held share.",
    "deletions": "A row per cell and layer: how many neurons the selection holds there.",
    "stops": "A row per fraction and mask of a sweep with `precision`: when it stopped, and how"
    " well the difference is known.",
}
"""Tables that are made of those above, anew at every end of a run; what a row is."""


def _derived() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as empty:  # a run without rows has the columns all the same
        made = frames(Store.of(empty))
        for name, about in _DERIVED.items():
            yield f"## {name}\n\n{about}\n\n| column | type |\n|---|---|"
            for column, kind in made[name].collect_schema().items():
                yield f"| `{column}` | {kind} |"
            yield ""


def _comments(source: str) -> Mapping[tuple[str, str], str]:
    """Return the comments beside columns, by table (or list of columns) and column."""
    lines = source.splitlines()
    found = {}
    for owner, node in _owners(ast.parse(source)):
        for part in ast.walk(node):
            if isinstance(part, ast.Tuple) and isinstance(part.elts[0], ast.Constant):
                _, _, comment = lines[part.end_lineno - 1][part.end_col_offset :].partition("#")
                found[owner, str(part.elts[0].value)] = comment.strip()
    return found


def _owners(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict):
            for key, value in zip(node.value.keys, node.value.values, strict=True):
                if isinstance(key, ast.Constant):
                    yield str(key.value), value


# --- Python --------------------------------------------------------------------------------------


def python() -> str:
    """Return the page that mkdocstrings fills in."""
    shown = "\n".join(f"::: {module}\n" for module in MODULES)
    about = "Made from docstrings; [Work in Python](../python.md) shows it in use."
    return f"# Python\n\n{about}\n\n{shown}"
