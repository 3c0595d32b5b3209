"""The bundled models: four small, really trained checkpoints and the data they know.

No hub can be reached from every machine, and a first sweep should take a minute.
So the package carries one checkpoint of each of the paper's four architectures, about
a million parameters each, in ordinary folders that the code for any other checkpoint
loads. With them come the text and the images on which they were trained and measured.
README.md says what each can do, and what models of this size cannot show.

Everything here is frozen: `check` compares every file with the hashes in SHA256SUMS.
"""

import hashlib
from pathlib import Path

NAMES = ("mistral", "opt", "roberta", "vit")

ROOT = Path(__file__).parent

TEXT = ROOT / "text" / "corpus.jsonl.xz"
"""One JSON object per line and document: `document`, `split` (train, test), `text`."""

DIGITS = ROOT / "digits" / "digits.csv.gz"
"""One row per image: 64 counts from 0 to 16, then `label`, then `split` (train, test)."""


class UnknownModelError(KeyError):
    """No bundled model has this name."""

    def __str__(self) -> str:
        """Return the message as it is; a `KeyError` would print it in quotes."""
        return str(self.args[0])


class DamagedFileError(ValueError):
    """A bundled file is missing, or not the one that was shipped."""


def folder(name: str) -> Path:
    """Return the checkpoint folder of a bundled model."""
    if name not in NAMES:
        raise UnknownModelError(
            f"There is no bundled model {name!r}. Expected one of {', '.join(NAMES)}."
        )
    return ROOT / name


def check(root: Path = ROOT) -> None:
    """Raise `DamagedFileError` unless every bundled file is the one that was shipped."""
    for line in (root / "SHA256SUMS").read_text().splitlines():
        expected, name = line.split("  ", maxsplit=1)
        path = root / name
        if not path.is_file():
            raise DamagedFileError(f"{path} is missing. Install the package again.")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != expected:
            raise DamagedFileError(
                f"{path} has SHA-256 {found}, but {expected} was shipped."
                " Install the package again."
            )
