"""The house rules, each of which fails here when it is broken."""

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("orchestrator", "workers")
LONGEST = 300
"""Lines of a module."""
VAGUE = {"utils", "util", "helpers", "helper", "common", "base", "misc", "core", "tools"}
"""Names of modules that say nothing of what is in them."""
POSITIONAL = {"Store"}
"""Dataclasses of one obvious field, made without its name."""
HEAVY = {"ray", "polars", "pyarrow", "pydantic", "yaml", "typer", "rich", "altair", "orchestrator"}
"""What no worker may import."""

MODULES = [p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))]
every_module = pytest.mark.parametrize("module", MODULES, ids=lambda p: str(p.relative_to(ROOT)))


@cache
def tree(module: Path) -> ast.Module:
    return ast.parse(module.read_text())


def imported(module: Path) -> set[str]:
    """Return the top names of all that a module imports, inside its functions too."""
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@every_module
def test_a_module_is_short(module: Path) -> None:
    assert len(module.read_text().splitlines()) <= LONGEST


@every_module
def test_a_module_opens_with_a_docstring_unless_it_is_empty(module: Path) -> None:
    if module.read_text().strip():
        assert ast.get_docstring(tree(module))


@every_module
def test_a_modules_name_says_what_is_in_it(module: Path) -> None:
    assert module.stem not in VAGUE


@pytest.mark.parametrize("package", PACKAGES)
def test_the_packages_hide_nothing_behind_their_names(package: str) -> None:
    assert (ROOT / package / "__init__.py").read_text() == ""


@every_module
def test_nothing_is_printed(module: Path) -> None:
    calls = [n.func for n in ast.walk(tree(module)) if isinstance(n, ast.Call)]
    assert not [c for c in calls if isinstance(c, ast.Name) and c.id == "print"]


def dataclasses(module: Path) -> Iterator[tuple[str, set[str]]]:
    """Yield every dataclass of a module with the options it sets to True."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ClassDef):
            for decorator in node.decorator_list:
                call = decorator if isinstance(decorator, ast.Call) else None
                name = call.func if call else decorator
                if isinstance(name, ast.Name) and name.id == "dataclass":
                    yield (
                        node.name,
                        {k.arg or "" for k in (call.keywords if call else []) if _true(k)},
                    )


def _true(keyword: ast.keyword) -> bool:
    return isinstance(keyword.value, ast.Constant) and keyword.value.value is True


@every_module
def test_dataclasses_are_frozen_slotted_and_made_by_name(module: Path) -> None:
    for name, options in dataclasses(module):
        needed = {"frozen", "slots"} | (set() if name in POSITIONAL else {"kw_only"})
        assert needed <= options, f"{name} lacks {needed - options}"


def test_the_exceptions_to_that_are_still_there() -> None:
    assert {n for m in MODULES for n, _ in dataclasses(m)} >= POSITIONAL


@every_module
def test_only_the_ray_pool_and_telemetry_import_ray(module: Path) -> None:
    may = module.name.startswith("ray_") or module.name == "telemetry.py"
    assert ("ray" in imported(module)) == may


@every_module
def test_workers_need_no_more_than_a_bare_gpu_machine_has(module: Path) -> None:
    if module.is_relative_to(ROOT / "workers"):
        assert not imported(module) & HEAVY


def tracked() -> list[Path]:
    """Return the files of the repository: tracked, or new and not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    found = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [p for p in found if p.is_file()]


def texts() -> Iterator[tuple[Path, str]]:
    """Yield the files that people write, with their content."""
    for path in tracked():
        if (
            path.suffix not in {".xz", ".gz", ".safetensors", ".png"}
            and path.stat().st_size < 10**6
        ):
            try:
                yield path, path.read_text()
            except UnicodeDecodeError:
                continue


_PLACES = re.compile(
    r"(?<![\w.<$}/-])/(?:work|root|mnt|opt|srv|Users|home/(?!(?:runner|ray)\b)\w+)/[\w.]"
    r"|pypi\.org/simple|files\.pythonhosted|index-url|extra-index|find-links"  # a registry
    r"|artifactory|nexus|\bproxy\.[a-z]"
)


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    this = Path(__file__)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path, text in texts()
        if path != this
        for number, line in enumerate(text.splitlines(), start=1)
        if _PLACES.search(line)
    ]
    assert not found, "\n".join(found)


_LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def test_every_relative_link_leads_somewhere() -> None:
    broken = []
    for path, text in texts():
        if path.suffix == ".md":
            for target in _LINK.findall(_FENCE.sub("", text)):
                place = target.split("#")[0]
                outside = re.match(r"[a-z]+:", target)
                if place and not outside and not (path.parent / place).exists():
                    broken.append(f"{path.relative_to(ROOT)}: {target}")
    assert not broken, "\n".join(broken)


def test_no_weights_are_pickled() -> None:
    assert not [p for p in tracked() if p.suffix in {".bin", ".pt", ".pth", ".pkl", ".ckpt"}]
