"""Paired: prompts that come in twos, for questions of circuits.

A row is an `input`, a `donor` that differs from it in what is asked about, the `answer`
that should follow the input, and one or more `wrong` ones. It is a document of one
sequence: bos, if windows begin with it, and the prompt's tokens, never cut and never
joined with others. Its last position alone is scored, on the answer's token.

What a position says is compared with the same position of the donor, so both prompts must
have equally many tokens. An answer is one token, as it stands after the prompt: what the
tokenizer makes of prompt and answer written together has to be the prompt's own tokens and
one more. A row that breaks a rule is left out, and it is said which and why; so which rows
are used depends on the tokenizer, and two models may not see the same. Where more than half
of the rows that were looked at are broken, the whole is refused: rows that fit by chance are
no sample of what was asked.

Weak where a pair is not minimal: prompts of equal length whose words do not stand at the same
places are accepted, because no rule over tokens can tell.

Shapes: T positions, W wrong answers.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator.documents import Broken, Document
from orchestrator.sections import DEFAULT_SEQUENCES
from orchestrator.store import rows
from orchestrator.taking import ROLES, Role
from orchestrator.tasks import Task
from workers.messages import NOT_SCORED
from workers.tokenising import encode

_AT_ONCE = 64
"""Rows tokenised together."""
_SAID = 3
"""Broken rows that a refusal tells of."""
Ids = NDArray[np.int64]


class PairsError(ValueError):
    """A source whose rows are no pairs for this model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One row, tokenised."""

    document: str
    input: Ids
    """(T,) token ids."""
    answer: int
    wrong: Ids
    """(W,) token ids."""
    donor: Ids | None
    """(T,) token ids; None where the row has no donor."""


def table(
    task: Task, documents: Mapping[Role, Iterable[Document]]
) -> tuple[pa.Table, tuple[Broken, ...]]:
    """Return the data table of one (model, data), and the rows that were left out.

    Each role takes its documents in their order, as many as are asked for; of a number of tokens,
    until that is reached. All that are collected are looked at before the first that is evaluated,
    and no more than are needed, and a few. Raises PairsError where a role has none, or most are
    broken.
    """
    a = task.arguments
    columns: dict[str, list[Any]] = {c: [] for c in _COLUMNS}
    broken: list[Broken] = []
    for role in ROLES:
        some, left_out = _taken(a, documents[role], a["roles"][role], role)
        if not some or len(left_out) > len(some):
            raise PairsError(_refused(role, len(some), left_out))
        broken += left_out
        for pair in some:
            target_T = np.full(len(pair.input), NOT_SCORED, np.int32)
            target_T[-1] = pair.answer
            columns["role"].append(role)
            columns["document"].append(pair.document)
            columns["sequence"].append(len(columns["sequence"]))
            columns["input"].append(pair.input.astype(np.int32))
            columns["target"].append(target_T)
            columns["donor"].append(None if pair.donor is None else pair.donor.astype(np.int32))
            columns["wrong"].append(pair.wrong.astype(np.int32))
    count = len(columns["sequence"])
    # One token is scored, so a text's bytes are not what its loss is of.
    columns |= {"bytes": [None] * count, "kind": [None] * count}
    fixed = {"model": a["model"], "data": a["data_name"]}
    return rows("pairs", {**columns, **fixed}, count), tuple(broken)


_COLUMNS = ("role", "document", "sequence", "input", "target", "donor", "wrong")


def _taken(
    a: Mapping[str, Any], documents: Iterable[Document], asked: Mapping[str, Any], role: Role
) -> tuple[list[Pair], list[Broken]]:
    """Return as many pairs as a role is asked for, and the broken rows among those looked at."""
    most = asked["sequences"] or (None if asked["tokens"] else DEFAULT_SEQUENCES[role])
    taken: list[Pair] = []
    broken: list[Broken] = []
    positions = 0
    for found in _pairs(a, documents):
        enough = positions >= asked["tokens"] if most is None else len(taken) >= most
        if enough:
            break
        if isinstance(found, Broken):
            broken.append(found)
        else:
            taken.append(found)
            positions += len(found.input)
    return taken, broken


def _pairs(a: Mapping[str, Any], documents: Iterable[Document]) -> Iterator[Pair | Broken]:
    """Yield every row, tokenised, or what is wrong with it; a few are tokenised at a time."""
    left = iter(documents)
    while some := list(islice(left, _AT_ONCE)):
        texts = [text for d in some for text in _texts(d)]
        ids = iter([one.ids for one in encode(Path(a["folder"]), texts)])
        for document in some:
            yield _pair(a, document, [next(ids) for _ in _texts(document)])


def _texts(document: Document) -> list[str]:
    """Return what is tokenised of a row: prompt, donor, and the prompt with each answer."""
    prompt = document.text or ""
    answers = [document.answer or "", *document.wrong]
    return [prompt, document.donor or "", *(prompt + answer for answer in answers)]


def _pair(a: Mapping[str, Any], document: Document, ids: Sequence[Ids]) -> Pair | Broken:
    """Return a row from the tokens of its texts, or what is wrong with it."""
    bos = a["specials"].get("bos") if a["bos"] != "none" else None
    before = np.array([] if bos is None else [bos], np.int64)
    prompt, donor, *answered = ids
    input_T = np.concatenate([before, prompt])
    why = _wrong_prompt(a, document, input_T, prompt, donor)
    tokens: list[int] = []
    for answer, followed in zip([document.answer or "", *document.wrong], answered, strict=True):
        if why is None:
            why = _wrong_answer(answer, prompt, followed, a["specials"].get("unk"))
        tokens.append(int(followed[-1]) if len(followed) else NOT_SCORED)
    if why is None and tokens[0] in tokens[1:]:
        why = f"the answer {document.answer!r} is among the wrong ones; take it out there"
    if why is not None:
        return Broken(where=document.name, why=why)
    return Pair(
        document=document.name,
        input=input_T,
        answer=tokens[0],
        wrong=np.array(sorted(set(tokens[1:])), np.int64),
        donor=None if document.donor is None else np.concatenate([before, donor]),
    )


def _wrong_prompt(
    a: Mapping[str, Any], document: Document, input_T: Ids, prompt: Ids, donor: Ids
) -> str | None:
    """Return what is wrong with a row's prompts; None if nothing is."""
    if not len(prompt):
        return "`input` has no token; give a prompt"
    if not document.answer or not document.wrong:
        lacking = "wrong" if document.answer else "answer"
        return f"`{lacking}` is empty; give an answer, and at least one that is wrong"
    if len(input_T) > a["window"]:
        return (
            f"`input` has {len(input_T)} positions, and a window {a['window']}; a prompt is not"
            " cut, so shorten it or allow more (`sequence_length`)"
        )
    if document.donor is not None and len(donor) != len(prompt):
        return (
            f"`input` has {len(prompt)} tokens and `donor` {len(donor)}; they must have equally"
            " many, so write a donor with words of as many tokens"
        )
    return None


def _wrong_answer(answer: str, prompt: Ids, followed: Ids, unknown: int | None) -> str | None:
    """Return what is wrong with an answer, given the tokens of prompt and answer together."""
    if not np.array_equal(followed[: len(prompt)], prompt):
        return (
            f"the tokenizer joins the answer {answer!r} with the end of the prompt; move the space"
            " between them from one to the other"
        )
    more = len(followed) - len(prompt)
    if more != 1:
        return (
            f"the answer {answer!r} is {more} tokens after the prompt, and must be one; begin it"
            " with a space if the prompt has none at its end, or choose a commoner word"
        )
    if followed[-1] == unknown:
        return f"the tokenizer does not know the answer {answer!r}; choose another"
    return None


def _refused(role: str, usable: int, broken: Sequence[Broken]) -> str:
    """Return why a role cannot be served, by the first rows that are broken."""
    if not broken:
        return f"the source has no prompt for {role!r}; name splits that hold some, or give more"
    said = "; ".join(map(str, broken[:_SAID]))
    more = f"; and {len(broken) - _SAID:,} more" if len(broken) > _SAID else ""
    return (
        f"{len(broken):,} of {usable + len(broken):,} prompts looked at for {role!r} cannot be used"
        f" with this model's tokenizer ({said}{more}). Mend them: half at least must be usable"
    )
