"""A user's methods are found, checked, hashed, and travel as text; nothing else makes code run."""

import dataclasses
import json
import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml

import workers.plugins
from orchestrator import plugins
from orchestrator.mistakes import SpecError
from orchestrator.plugins import Plugin, discover, filled, known, restore
from orchestrator.spec import parse
from tests.sweeps import peaksweep
from workers.plugins import PluginError, find

EXAMPLES = Path(__file__).parents[2] / "examples" / "plugins"
FILES = sorted(EXAMPLES.glob("*.py"))

MINE = """
from workers.plugins import Method

class Mine(Method):
    name = "NAME"
    parameters = {"q": 1}
    needs = ("NEEDS",)
    def FUNCTION(self, *_, **__):
        return 1

METHODS = [Mine()]
"""


@pytest.fixture(autouse=True)
def own_register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nothing registered or installed."""
    monkeypatch.setattr(workers.plugins, "_REGISTER", {})
    monkeypatch.setattr(plugins, "_RESTORED", {})
    monkeypatch.setattr(plugins, "entry_points", lambda **_: [])


def written(
    folder: Path, file: str, name: str, needs: str = "mean", function: str = "centre"
) -> Path:
    path = folder / file
    text = MINE.replace("NAME", name).replace("NEEDS", needs).replace("FUNCTION", function)
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def examples() -> dict[str, Plugin]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugins, "entry_points", lambda **_: [])
        return {plugin.name: plugin for plugin in discover(FILES)}


def test_the_examples_are_found_with_what_they_declare(examples: dict[str, Plugin]) -> None:
    assert list(examples) == ["clipped", "trimmed"]
    assert [p.kind for p in examples.values()] == ["replacing", "constant"]
    assert known(list(examples.values())) == {
        "clipped": ("replacing", {"width": 2.0}),
        "trimmed": ("constant", {"share": 0.05}),
    }
    assert examples["clipped"].needs == ("mean", "std")


def test_without_modules_and_packages_nothing_is_executed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    assert discover([]) == ()


def test_a_plug_in_travels_as_json_and_is_found_where_it_arrives(
    examples: dict[str, Plugin],
) -> None:
    told = json.loads(json.dumps(examples["clipped"].told()))
    restore(told)
    method = find("clipped")
    restore(told)
    assert find("clipped") is method
    with pytest.raises(PluginError, match="'trimmed'"):
        find("trimmed")


def test_of_a_file_with_two_methods_only_the_one_that_was_told_is_registered(
    tmp_path: Path,
) -> None:
    one = written(tmp_path, "two.py", "one").read_text()
    (tmp_path / "two.py").write_text(
        one + "\nclass Other(Mine):\n    name = 'other'\nMETHODS += [Other()]\n"
    )
    first, second = discover([tmp_path / "two.py"])
    assert first.digest == second.digest
    restore(second.told())
    assert find("other").name == "other"
    with pytest.raises(PluginError):
        find("one")


def test_a_changed_text_has_another_digest_and_takes_the_older_ones_place(tmp_path: Path) -> None:
    (old,) = discover([written(tmp_path, "mine.py", "mine", needs="mean")])
    (new,) = discover([written(tmp_path, "mine.py", "mine", needs="std")])
    assert old.digest != new.digest
    restore(old.told())
    restore(new.told())
    assert find("mine").needs == ("std",)


def test_a_text_that_is_not_the_one_that_was_planned_is_refused(
    examples: dict[str, Plugin],
) -> None:
    told = examples["trimmed"].told()
    with pytest.raises(PluginError, match=r"text of plug-in 'trimmed' .* is not the one"):
        restore({**told, "source": f"{told['source']}\n"})


def test_parameters_are_filled_up_and_alpha_is_not_the_plug_ins(
    examples: dict[str, Plugin],
) -> None:
    told = examples["clipped"].told()
    assert filled(told, {}) == {"width": 2.0}
    assert filled(told, {"width": 1.5, "alpha": 0.5}) == {"width": 1.5}


def test_a_module_is_looked_at_in_another_process_so_planning_needs_no_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from orchestrator.plugins import discover;"
        f"discover([Path({str(EXAMPLES / 'clipped.py')!r})]); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Installed(EntryPoint):
    """An entry point of no installed package."""

    dist = None  # type: ignore[assignment]


def test_an_installed_package_is_found_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_package").mkdir()
    (tmp_path / "their_package" / "__init__.py").write_text("")
    file = written(tmp_path / "their_package", "methods.py", "theirs")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    point = Installed(name="theirs", value="their_package.methods", group=plugins.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda *, group: [point] * (group == point.group))
    (found,) = discover([])
    assert found.name == "theirs"
    assert found.source == file.read_text()
    assert found.origin == "(their_package.methods)"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"gone\.py: .*No such file"):
        discover([tmp_path / "gone.py"])


def test_two_plug_ins_of_one_name_are_refused(tmp_path: Path) -> None:
    files = [written(tmp_path, file, "mine") for file in ("a.py", "b.py")]
    with pytest.raises(
        PluginError, match=r"two plug-ins have the name 'mine': .*a\.py and .*b\.py"
    ):
        discover(files)


@pytest.mark.parametrize("name", ["zero", "peak", "resample", "nearest_peak"])
def test_a_name_of_ours_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=f"{name!r} is the name of a built-in method"):
        discover([written(tmp_path, "a.py", name)])


def test_a_column_that_is_not_there_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="'mine' needs 'centre'; the columns"):
        discover([written(tmp_path, "a.py", "mine", needs="centre")])
    with pytest.raises(PluginError, match="a replacing method can have"):
        discover([written(tmp_path, "a.py", "mine", needs="counts", function="replace")])
    (fine,) = discover([written(tmp_path, "a.py", "mine", needs="counts")])
    assert fine.kind == "constant"


def test_a_module_that_kills_the_process_that_looks_is_told_from_a_broken_one(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.py").write_text("import os\nos._exit(9)\n")
    with pytest.raises(PluginError, match=r"a\.py ended the process that did \(exit code 9\)"):
        discover([tmp_path / "a.py"])


# --- what the examples do ------------------------------------------------------------------------


def binned(values: np.ndarray, bins: int = 64) -> dict[str, np.ndarray]:
    """Return the statistics of one neuron whose window holds the middle of its values."""
    start, width = np.quantile(values, 0.004), 0.125
    start = np.floor(start / width) * width
    inside = values[values != 0]
    edges = start + width * np.arange(bins + 1)
    one = {
        "counts": np.histogram(inside, edges)[0],
        "bin_start": start,
        "bin_width": width,
        "zeros": (values == 0).sum(),
        "below": (inside < edges[0]).sum(),
        "above": (inside > edges[-1]).sum(),
    }
    return {name: np.asarray(value)[None, None] for name, value in one.items()}


@pytest.mark.parametrize("share", [0.02, 0.1, 0.45])
@pytest.mark.parametrize("zeros", [0, 3000])
def test_trimmed_is_the_mean_of_the_middle_to_a_bin(
    share: float, zeros: int, examples: dict[str, Plugin]
) -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.gamma(3, size=10_000), np.zeros(zeros)])
    restore(examples["trimmed"].told())
    (found,) = find("trimmed").centre(binned(values), {"share": share}).ravel()
    cut = round(share * values.size)
    expected = np.sort(values)[cut : values.size - cut].mean()
    assert abs(found - expected) < 0.02


def test_trimmed_has_no_value_for_a_neuron_without_any_and_refuses_half(
    examples: dict[str, Plugin],
) -> None:
    restore(examples["trimmed"].told())
    nothing = {name: np.zeros_like(column) for name, column in binned(np.ones(3)).items()}
    assert np.isnan(find("trimmed").centre(nothing, {"share": 0.1})).all()
    with pytest.raises(ValueError, match=r"share is 0\.5"):
        find("trimmed").centre(nothing, {"share": 0.5})


def test_clipped_moves_what_is_far_and_nothing_else(examples: dict[str, Plugin]) -> None:
    restore(examples["clipped"].told())
    x_STN = torch.tensor([[[0.0, 9.0], [-3.0, 1.0]]])
    made = find("clipped").replace(
        x_STN,
        layer=0,
        site="attn_pre_out",
        statistics={"mean": torch.tensor([0.0, 1.0]), "std": torch.tensor([1.0, 2.0])},
        parameters={"width": 2.0},
        sequence_S=torch.tensor([0]),
        seed=0,
    )
    assert made.tolist() == [[[0.0, 5.0], [-2.0, 1.0]]]
    assert x_STN[0, 0, 1] == 9


def test_a_plug_in_is_a_value(examples: dict[str, Plugin]) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        examples["trimmed"].name = "other"  # type: ignore[misc]


# --- the page ------------------------------------------------------------------------------------

PAGE = (EXAMPLES.parents[1] / "docs" / "plugins.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_shows_the_examples_word_for_word(examples: dict[str, Plugin]) -> None:
    trimmed, clipped = blocks("python")
    assert examples["trimmed"].source.endswith(trimmed)
    assert examples["clipped"].source.endswith(clipped)
    assert blocks("yaml") == [(EXAMPLES / "own.yaml").read_text()]
    assert f'"{plugins.GROUP}"' in blocks("toml")[0]


def test_the_pages_sweep_file_is_right_with_its_plug_ins_and_wrong_without(
    examples: dict[str, Plugin],
) -> None:
    raw = yaml.safe_load(blocks("yaml")[0])
    spec = parse(raw, known(list(examples.values())))
    labels = ["mean", "trimmed", "trimmed(share=0.25)", "clipped"]
    assert [method.label for method in spec.methods] == labels
    with pytest.raises(SpecError, match="unknown method 'trimmed'"):
        parse(raw)


@pytest.mark.slow
def test_the_pages_commands_do_what_they_say(tmp_path: Path) -> None:
    for line in blocks("sh")[0].splitlines():
        words = [word.replace("runs/own", str(tmp_path / "own")) for word in line.split()]
        done = peaksweep(*words[1:], *(["--local"] if words[1] == "run" else []))
        assert done.returncode == 0, done.stderr
    summary = pl.read_parquet(tmp_path / "own" / "summary.parquet")
    assert {"mean", "trimmed", "clipped"} <= set(summary["method"])


@pytest.mark.parametrize("word", ["source", "by", "estimator"])
def test_a_parameter_that_means_something_in_a_methods_name_is_refused(
    tmp_path: Path, word: str
) -> None:
    file = tmp_path / "a.py"
    file.write_text(
        "from workers.plugins import Method\n\n\nclass Mine(Method):\n"
        f'    name = "mine"\n    parameters = {{"{word}": "x"}}\n\n'
        "    def centre(self, statistics, parameters):\n        return statistics\n\n\n"
        "METHODS = [Mine()]\n"
    )
    with pytest.raises(PluginError, match=f"'mine' has a parameter '{word}', a word that means"):
        discover([file])
