"""Whatever stands in a sweep file or a run folder, people meet a sentence and never a traceback.

By default few examples, the same ones every time; many with `make test-slow`.
"""

import copy
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from orchestrator import inspection, plan, results, specfile, status, sweep
from orchestrator.glance import glance
from orchestrator.inspection import ModelError
from orchestrator.mistakes import SpecError
from orchestrator.spec import parse
from orchestrator.store import Store, StoreError
from tests.sweeps import SMALL, answers, written
from workers import zoo
from workers.messages import ModelFacts

few = settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],  # shrinking costs minutes, and files are small
    suppress_health_check=list(HealthCheck),
)
many = settings(few, max_examples=2_000)

WHOLE: dict[str, Any] = {
    "name": "fuzz",
    "models": ["zoo:opt", {"id": "zoo:vit", "dtype": "float32"}],
    "data": {
        "t": {
            "source": "zoo:text",
            "collect": {"split": "train", "sequences": 4},
            "evaluate": {"split": "test", "tokens": 99},
            "sequence_length": 16,
        },
        "d": {"source": "zoo:digits"},
    },
    "methods": ["zero", "mean", "peak(paper)", {"quantile": {"q": 0.5}}, "mean(alpha=0.5)"],
    "fractions": [0.5, 1],
    "seeds": {"masks": 2, "donors": 1, "masking": 0},
    "contrasts": [["mean", "zero"]],
    "sites": ["attn_pre_out", "mlp_mid"],
    "units": ["neuron"],
    "selections": ["random", "score(rms, low)", {"score": {"by": "rms", "first": "high"}}],
    "layers": "all",
    "complement": False,
    "basis": "own",
    "statistics": {"mode": "one_shot", "strata": ["position"], "bins": 256, "shards": 4},
    "evaluation": {"metrics": ["top1", "ce"], "positions": {"last": 3}, "batch_tokens": "auto"},
    "compile": False,
    "cluster": {"workers": 1, "device": "cpu", "ready_seconds": 3.0},
    "store": None,
}
NUMBERS = (0, -1, 2**31, 2**63, 2**64, 10**60, -(10**30), 0.5, 1e308, 5e-324)
TEXTS = (
    *("", "zoo:", "../x", "/", "~", "~nobody_here/x", "a\x00b", "x.jsonl", "/dev/zero", "s3://x"),
    *("org/name", "org/na me", "a" * 5_000, "\ud800", "\ud800.jsonl", "mean(", "mean(alpha=nan)"),
    *("mean(alpha=1e400)", "explicit(a.npy)", "explicit(/)", "explicit(\x00.npy)", "score()"),
    *("regression(masks=1e9)", "2020-01-01", "\x1b[31m"),
)
ODD = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(TEXTS),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), None, True, [], {}]),
    st.sampled_from([[1, [2]], [None], {1: 2}, {None: 1}, [{}], [["a", 1]], {"a": {"b": {}}}]),
    st.sampled_from([{"mean": {"alpha": 10**60}}, {"quantile": {"q": [1]}}, {"mean": {"by": {}}}]),
    st.sampled_from([{"rotate": 10**30}, {"position": 2**40}]),
    st.just({"start": 0, "stop": 1, "step": 1e-300}),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.dates(),
    st.binary(max_size=4),
)
SPLICED = (
    *(b"&a ", b"*a", b"!!set ", b"!!python/name:os.system ", b"!x ", b"\t", b"\xef\xbb\xbf"),
    *(b"\x00", b"\xff", b"\r", b"---\n", b"...\n", b"%YAML 9.9\n", b"? ", b"<<: ", b"'", b'"'),
    *(b"[" * 400, b"{a: " * 400, b"1:2:3", b"0x" + b"f" * 5_000, b'"\\UFFFFFFFF"', b"!!int ''"),
    *(b"=", b"~", b"\nname: b\n", b"name: fuzz\n", b"#", b"|\n", b">", b"@", b"`", b"2020-13-45"),
)


def _places(value: object, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value that a value holds."""
    pairs: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        pairs = list(value.items())
    if isinstance(value, list):
        pairs = list(enumerate(value))
    for key, below in pairs:
        yield (*above, key)
        yield from _places(below, (*above, key))


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A sweep file that is nearly right."""
    raw = copy.deepcopy(WHOLE)
    for key in draw(st.sets(st.sampled_from([k for k in WHOLE if k not in ("models", "methods")]))):
        del raw[key]
    for _ in range(draw(st.integers(0, 3))):
        *way, last = draw(st.sampled_from(list(_places(raw))))
        holder: Any = raw
        for key in way:
            holder = holder[key]
        if draw(st.integers(0, 4)):
            holder[last] = copy.deepcopy(draw(ODD))
        else:
            del holder[last]
        if not raw:
            break
    content = yaml.dump(raw, allow_unicode=True).encode("utf-8", "surrogatepass")
    for _ in range(draw(st.integers(0, 1))):
        at = draw(st.integers(0, len(content)))
        content = content[:at] + draw(st.sampled_from(SPLICED)) + content[at:]
    return content


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for sweep files; only bundled models are looked into."""
    bundled = {zoo.folder(name) for name in zoo.NAMES}
    read = inspection._read

    def quickly(folders: list[Path]) -> list[ModelFacts | ModelError]:
        there = iter(read([f for f in folders if f in bundled])) if bundled & set(folders) else None
        refused = ModelError("it has no config.json")
        return [refused if f not in bundled or there is None else next(there) for f in folders]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspection, "_read", quickly)
        yield tmp_path_factory.mktemp("fuzz")


def refused(content: bytes, base: Path) -> tuple[object, SpecError] | None:
    """Read, parse, glance at and plan a file; return what it says and why it is refused."""
    file = base / "sweep.yaml"
    file.write_bytes(content)
    raw: object = None
    try:
        raw = specfile.raw(file)
        try:
            spec = parse(raw)
        except SpecError as error:
            glance(raw, error.mistakes, base)
            raise
        plan.make(spec, base=base, device="cpu")
    except SpecError as error:
        return raw, error
    return None


def judge(content: bytes, base: Path) -> None:
    """Assert that a refusal names what is in the file, is short and can be printed."""
    found = refused(content, base)
    if found is None:
        return
    raw, error = found
    assert error.mistakes
    str(error).encode()
    assert len(str(error)) < 250_000
    keys = [str(key) for key in raw] if isinstance(raw, dict) else []
    known = (*keys, "models", "methods", "")  # two may be missing; "" is the file as a whole
    for mistake in error.mistakes:
        assert any(mistake.path.startswith(key) for key in known)
        assert "Traceback" not in mistake.message


anything = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
)


@few
@given(content=files())
def test_a_sweep_file_that_is_nearly_right_is_planned_or_refused(
    content: bytes, base: Path
) -> None:
    judge(content, base)


@few
@given(content=anything)
def test_any_bytes_are_refused(content: bytes, base: Path) -> None:
    judge(content, base)


@pytest.mark.slow
@many
@given(content=files())
def test_many_sweep_files_that_are_nearly_right_are_planned_or_refused(
    content: bytes, base: Path
) -> None:
    judge(content, base)


Damage = Callable[[Path, Path], None]


def _another(file: Path, run: Path) -> None:
    others = sorted(p for p in run.rglob(f"*{file.suffix}") if p.is_file() and p != file)
    if others:
        shutil.copy(others[len(file.name) % len(others)], file)


def _flipped(file: Path, run: Path) -> None:
    content = bytearray(file.read_bytes())
    if content:
        content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


def _folder(file: Path, run: Path) -> None:
    file.unlink()
    file.mkdir()


def _itself(file: Path, run: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


def _link(target: str) -> Damage:
    def link(file: Path, run: Path) -> None:
        file.unlink()
        file.symlink_to(target)

    return link


DAMAGES: dict[str, Damage] = {
    "emptied": lambda file, run: file.write_bytes(b"") and None,
    "cut": lambda file, run: os.truncate(file, file.stat().st_size // 2),
    "flipped": _flipped,
    "deleted": lambda file, run: file.unlink(),
    "another": _another,
    "folder": _folder,
    "noise": lambda file, run: file.write_bytes(bytes(range(256)) * 4) and None,
    "magic": lambda file, run: file.write_bytes(b"PAR1" + bytes(100) + b"PAR1") and None,
    "json": lambda file, run: file.write_text('[{"file": 3}, null]\n"x"\n') and None,
    "outside": _link("/etc/passwd"),
    "nowhere": _link("nowhere"),
    "itself": _itself,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep file and of its run, which ended well."""
    folder = tmp_path_factory.mktemp("finished")
    assert not sweep.run(written(folder, SMALL), out=folder / "run", local=True).failures
    return folder


def _copied(finished: Path, harm: list[tuple[int, str]], to: Path) -> Path:
    """Return a copy of the run with some of its files damaged."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(finished / "run", to, ignore=shutil.ignore_patterns("report"))
    names = sorted(p.relative_to(to) for p in to.rglob("*") if p.is_file())
    for number, kind in harm:
        file = to / names[number % len(names)]
        if file.is_file() and not file.is_symlink():
            DAMAGES[kind](file, to)
    return to


def _read(run: Path) -> None:
    """Read a run folder in all ways that people do, each of which may be refused."""
    reads: list[Callable[[], object]] = [lambda: status.status(run)]
    for kind in ("results", "cells", "statistics", "summary", "executions", "plan"):
        # The frame is Polars', and so are its errors once it is the caller's.
        with suppress(StoreError, pl.exceptions.PolarsError):
            results.table(Store(run), kind).collect()
    reads += [lambda: results.notes(Store(run)), lambda: results.declared(Store(run))]
    reads += [lambda: results.aggregated(Store(run), [("zero", "mean")])]
    for read in reads:
        with suppress(StoreError, SpecError):
            read()


harms = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from(sorted(DAMAGES))), min_size=1, max_size=3
)


@settings(few, max_examples=20)
@given(harm=harms)
def test_a_damaged_run_folder_is_read_or_refused(
    harm: list[tuple[int, str]], finished: Path
) -> None:
    _read(_copied(finished, harm, finished / "damaged"))


@pytest.mark.slow
@settings(many, max_examples=200)
@given(harm=harms)
def test_many_damaged_run_folders_are_read_or_refused(
    harm: list[tuple[int, str]], finished: Path
) -> None:
    _read(_copied(finished, harm, finished / "damaged"))


def _heals(harm: list[tuple[int, str]], finished: Path) -> None:
    run = _copied(finished, harm, finished / "healing")
    said = ""
    for _ in range(2):  # once more where it is refused, as people do
        try:
            ended = sweep.run(finished / "sweep.yaml", out=run, local=True)
        except (StoreError, SpecError) as error:
            said = str(error)
            continue
        assert not ended.failures
        assert answers(run).equals(answers(finished / "run"), null_equal=True)
        return
    assert "run the same" not in said  # that has been done


@pytest.mark.parametrize("kind", ["executions", "statistics"])
def test_a_run_folder_with_a_whole_but_unreadable_table_heals(kind: str, finished: Path) -> None:
    run = _copied(finished, [], finished / kind)
    DAMAGES["magic"](next((run / kind).rglob("*.parquet")), run)
    assert not sweep.run(finished / "sweep.yaml", out=run, local=True).failures
    assert answers(run).equals(answers(finished / "run"), null_equal=True)


def test_a_run_folder_with_garbled_answers_and_lost_tables_heals(finished: Path) -> None:
    run = _copied(finished, [], finished / "garbled")
    (part,) = (run / "results").rglob("*.parquet")
    _flipped(part, run)
    (statistics,) = (run / "statistics").rglob("*.parquet")
    DAMAGES["cut"](statistics, run)
    for lost in (run / "cells.parquet", *(run / "centres").rglob("*.parquet")):
        lost.unlink()
    assert not sweep.run(finished / "sweep.yaml", out=run, local=True).failures
    assert answers(run).equals(answers(finished / "run"), null_equal=True)


@pytest.mark.slow
@settings(many, max_examples=15)
@given(harm=harms)
def test_many_damaged_run_folders_heal_or_are_refused(
    harm: list[tuple[int, str]], finished: Path
) -> None:
    _heals(harm, finished)
