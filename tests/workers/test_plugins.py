"""A user's method is found by its name where its text was executed, or refused with a reason."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from workers import plugins
from workers.plugins import Method, PluginError, find, kind, load_source, register

HEAD = "from workers.plugins import Method\n"


def method(body: str, name: str = "'half'", more: str = "") -> str:
    return f"{HEAD}class Mine(Method):\n    name = {name}\n    {body}\n{more}METHODS = [Mine()]\n"


CENTRE = "def centre(self, statistics, parameters): return statistics['mean'] / 2"
REPLACE = (
    "def replace(self, x_STN, *, layer, site, statistics, parameters, sequence_S, seed):"
    " return x_STN / 2"
)


@pytest.fixture(autouse=True)
def own_register(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_REGISTER", {})


def test_a_method_is_found_by_its_name_once_its_text_was_executed():
    (mine,) = load_source("mine.py", method(CENTRE))
    register([mine])
    assert find("half") is mine
    assert kind(mine) == "constant"
    assert find("half").centre({"mean": np.full((2, 3), 4.0)}, {}).tolist() == [[2, 2, 2]] * 2


def test_a_method_that_looks_at_the_activation_is_replacing():
    (mine,) = load_source("mine.py", method(REPLACE))
    assert kind(mine) == "replacing"


def test_the_same_name_again_is_the_newer_method():
    old, new = (load_source("mine.py", method(CENTRE))[0] for _ in range(2))
    register([old])
    register([new])
    assert find("half") is new


def test_a_name_that_nobody_registered_is_an_error_that_says_who_is_there():
    register(load_source("mine.py", method(CENTRE)))
    with pytest.raises(PluginError, match=r"'third' in this process \(known: half\).*--plugin"):
        find("third")


def test_two_texts_do_not_see_each_others_names():
    load_source("one.py", method(CENTRE, more="BETWEEN = 1\n"))
    with pytest.raises(PluginError, match=r"two\.py could not be executed \(line 6\): NameError"):
        load_source("two.py", method(CENTRE, more="\nBETWEEN\n"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("METHODS = [", r"mine\.py could not be executed \(line 1\): SyntaxError"),
        ("import no_such_package", r"\(line 1\): ModuleNotFoundError.*one file that imports"),
        ("import sys\nsys.exit(3)", r"\(line 2\): SystemExit"),
        ("x = 1", "METHODS is missing; give a list"),
        ("METHODS = []", r"METHODS is \[\]; give a list"),
        ("METHODS = [1]", r"METHODS has 1; expected an object of a class derived from"),
        (method(CENTRE, name="'Half'"), "Mine has the name 'Half'; give `name`"),
        (f"{HEAD}class A(Method):\n    {CENTRE}\nMETHODS = [A()]", "A has the name None"),
        (method("pass"), "'half' defines neither of `centre` and `replace`"),
        (method(f"{CENTRE}\n    {REPLACE}"), "'half' defines both of `centre` and `replace`"),
        (
            method("def centre(self, statistics): return 1"),
            r"`centre` of 'half' cannot be called .*centre\(self, statistics, parameters\)",
        ),
        (
            method("def replace(self, x_STN, layer): return x_STN"),
            r"`replace` of 'half' cannot be called .*sequence_S, seed\)",
        ),
        (method(f"parameters = {{'q': None}}\n    {CENTRE}"), "the parameter 'q' with the default"),
        (method(f"parameters = {{'q': True}}\n    {CENTRE}"), "the default True; expected"),
        (method(f"parameters = {{'q': 1e999}}\n    {CENTRE}"), "the default inf; expected"),
        (method(f"parameters = {{'alpha': .5}}\n    {CENTRE}"), "which every method has already"),
        (method(f"parameters = ['q']\n    {CENTRE}"), r"is \['q'\]; give a mapping"),
        (method(f"needs = 'mean'\n    {CENTRE}"), "`needs` of 'half' is 'mean'; give a tuple"),
    ],
)
def test_what_is_wrong_with_a_plug_in_is_said(text: str, said: str):
    with pytest.raises(PluginError, match=said):
        load_source("mine.py", text)


def test_a_method_without_its_function_says_so_when_called():
    class Bare(Method):
        name = "bare"

    with pytest.raises(NotImplementedError):
        Bare().centre({}, {})


def test_the_process_that_looks_at_modules_answers_for_each(tmp_path: Path):
    (tmp_path / "good.py").write_text("print('hello')\n" + method(CENTRE))
    (tmp_path / "bad.py").write_text("1 / 0")
    asked = [
        {"name": name, "file": str(tmp_path / name)} for name in ("good.py", "bad.py", "none.py")
    ]
    asked.append({"name": "zoo", "module": "workers.no_such_module"})
    done = subprocess.run(
        [sys.executable, "-m", "workers.plugins"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
    )
    good, *others = json.loads(done.stdout.splitlines()[-1])
    assert good["methods"] == [{"name": "half", "kind": "constant", "parameters": {}, "needs": []}]
    assert good["source"] == (tmp_path / "good.py").read_text()
    said = [answer["error"] for answer in others]
    assert "bad.py could not be executed (line 1): ZeroDivisionError" in said[0]
    assert "none.py" in said[1]
    assert "there is no module workers.no_such_module" in said[2]


def test_registering_needs_no_torch():
    code = "import sys, workers.plugins, workers.published; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
