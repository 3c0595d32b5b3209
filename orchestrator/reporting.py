"""Reporting: the verb `report`, of one run or of several against each other.

One run has its page in its own `report/`. Of several, all are compared with the first, on one page
in a folder that is none of theirs: a run folder holds what its sweep made, and two runs have no
folder in common. That folder is made new with every comparison of its name.
"""

from collections.abc import Sequence
from pathlib import Path, PurePath

from orchestrator import results
from orchestrator.answers import nominal
from orchestrator.frames import frames
from orchestrator.matching import apart
from orchestrator.names import slug
from orchestrator.report import report as write
from orchestrator.report.against import look
from orchestrator.report.against import write as write_against
from orchestrator.report.against_words import Against
from orchestrator.status import status
from orchestrator.store import Store
from orchestrator.terminal import CommandError, out

FOLDER = "comparisons"


def report(runs: Sequence[str], where: str | None = None) -> None:
    """Write the page of a run, or of several against the first, and say where it lies.

    Raises CommandError where runs cannot be compared, StoreError where there is no run.
    """
    for run in runs:
        status(run)  # refuses what is no run
    stores = [Store.of(run) for run in runs]
    if len(stores) == 1:
        if where is not None:
            raise CommandError(
                f"--out {where} was given with one run, whose page lies in its own report/; leave"
                " it out, or name a second run to compare with"
            )
        (store,) = stores
        results.aggregated(store, results.declared(store), results.metrics(store))
        write(store)
        out.print(store.where("report/index.html"), soft_wrap=True)
        return
    _distinct(runs, stores)
    folder = where or str(Path(FOLDER) / "-and-".join(slug(PurePath(s.uri).name) for s in stores))
    _free(folder, runs)
    found = [look(stores[0], other) for other in stores[1:]]
    for one, other in zip(found, stores[1:], strict=True):
        _comparable(one, stores[0], other)
    made = Store.open(folder)
    write_against(found, made)
    out.print(made.where("report/index.html"), soft_wrap=True)


def _distinct(runs: Sequence[str], stores: Sequence[Store]) -> None:
    seen: dict[str, str] = {}
    for run, store in zip(runs, stores, strict=True):
        place = str(Path(store.uri).resolve()) if store.local else store.uri.rstrip("/")
        if place in seen:
            raise CommandError(
                f"{run} and {seen[place]} are the same run, and runs are compared with other ones;"
                f" for the page of this one alone: peaksweep report {run}"
            )
        seen[place] = run


def _free(folder: str, runs: Sequence[str]) -> None:
    """Refuse a folder that is a run, or lies in one."""
    if "://" in folder:
        scheme, _, rest = folder.rstrip("/").partition("://")
        parts = rest.split("/")
        places = [f"{scheme}://{'/'.join(parts[:end])}" for end in range(len(parts), 1, -1)]
    else:
        path = Path(folder).resolve()
        places = [str(place) for place in (path, *path.parents)]
    for place in places:
        if Store.of(place).exists("plan.parquet"):
            raise CommandError(
                f"{folder} lies in the run {place}, and a comparison is written into no run; name"
                f" another folder with --out, or none for {FOLDER}/"
            )


def _comparable(one: Against, a: Store, b: Store) -> None:
    """Refuse runs without a common point, and say what differs."""
    if any(pairing.points for pairing in one.found.pairings):
        return
    points = [nominal(frames(run)["cells"]) for run in (a, b)]
    told = [
        f"{column} ({_some(ours)} in the first, {_some(theirs)} in the other)"
        for column, ours, theirs in apart(*points)
    ]
    left = one.found.matched.left
    if not told and left[0] and left[1]:
        told = [f"models ({_some([str(x) for x in left[0]])}; {_some([str(x) for x in left[1]])})"]
    why = f"they share no {'; no '.join(told)}" if told else "no combination is in both"
    raise CommandError(
        f"{one.where[0]} and {one.where[1]} have no point in common: {why}. Runs can be compared"
        " where both hold units by the same method, at the same site, unit, layers, selection and"
        " fraction; run one of them again with what the other has."
    )


def _some(values: Sequence[str | None]) -> str:
    shown = [str(value) for value in values[:4]]
    return ", ".join(shown) + (", …" if len(values) > 4 else "") if shown else "none"
