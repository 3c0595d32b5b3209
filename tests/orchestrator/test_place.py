from importlib.util import find_spec
from pathlib import Path

import pytest

from orchestrator import place
from orchestrator.mistakes import SpecError
from orchestrator.place import run_folder, shared_folder


@pytest.fixture
def in_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be in a job's working directory."""
    here = tmp_path / "working_dir"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv(place.IN_JOB, "{}")
    return here


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(place.IN_JOB, raising=False)
    return tmp_path


def test_a_job_is_known_by_what_ray_sets_in_its_environment() -> None:
    ray = find_spec("ray")  # read, not imported: importing takes seconds
    assert ray is not None
    assert ray.origin is not None
    constants = Path(ray.origin).parent / "_private" / "runtime_env" / "constants.py"
    assert f'RAY_JOB_CONFIG_JSON_ENV_VAR = "{place.IN_JOB}"' in constants.read_text()


@pytest.mark.usefixtures("at_home")
def test_a_run_lies_in_runs_under_its_name() -> None:
    assert run_folder(None, "toy") == "runs/toy"
    assert run_folder("elsewhere", "toy") == "elsewhere"
    assert run_folder(Path("/elsewhere"), "toy") == "/elsewhere"


@pytest.mark.usefixtures("in_job")
@pytest.mark.parametrize("out", [None, "here", "./a/b", "../working_dir/x"])
def test_a_jobs_run_is_not_put_where_it_would_be_thrown_away(out: str | None) -> None:
    with pytest.raises(SpecError, match=r"--out: .*throws away; give --out an absolute path"):
        run_folder(out, "toy")


def test_a_link_into_the_jobs_working_directory_is_seen_through(in_job: Path) -> None:
    (in_job.parent / "link").symlink_to(in_job)
    with pytest.raises(SpecError):
        run_folder(in_job.parent / "link" / "run", "toy")


def test_a_job_may_write_elsewhere(in_job: Path) -> None:
    outside = str(in_job.parent / "shared" / "run")
    assert run_folder(outside, "toy") == outside
    assert run_folder("../shared", "toy") == "../shared"


@pytest.mark.usefixtures("at_home")
def test_a_shared_store_starts_at_the_sweep_files_folder(at_home: Path) -> None:
    assert shared_folder("common", at_home) == at_home / "common"
    assert shared_folder("../common", at_home / "sweeps").resolve() == at_home / "common"
    for absolute in ("/stores/common", "file:///stores/common"):
        assert shared_folder(absolute, at_home) == Path("/stores/common")


def test_a_jobs_shared_store_is_not_put_where_it_would_be_thrown_away(in_job: Path) -> None:
    for store in ("common", f"file://{in_job}/common"):
        with pytest.raises(SpecError, match=r"store: .*throws away; write an absolute path"):
            shared_folder(store, in_job)
    assert shared_folder("../common", in_job).resolve() == in_job.parent / "common"
