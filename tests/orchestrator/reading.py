"""What the tests of sources share: files to read, and what comes of them."""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from orchestrator.sources import Broken, Document, Source, find


def lines(folder: Path, *rows: object, name: str = "documents.jsonl") -> Path:
    """Write JSON lines; a text stands as it is."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    return file


def source(name: str, base: Path, **reading: object) -> Source:
    """Find a source as a sweep file with these settings would."""
    text, document = reading.pop("text", "text"), reading.pop("document", None)
    assert isinstance(text, str)
    assert document is None or isinstance(document, str)
    return find(name, base=base, text=text, document=document, reading=reading)


def read(name: str, base: Path, **reading: object) -> list[Document]:
    """Return a source's documents; none of it may be broken."""
    documents = []
    for found in source(name, base, **reading).read():
        assert isinstance(found, Document), str(found)
        documents.append(found)
    return documents


def broken(found: Source) -> list[str]:
    """Return what a source says of its broken rows."""
    return [str(row) for row in found.read() if isinstance(row, Broken)]


def texts(documents: list[Document]) -> Mapping[str, str | None]:
    """Return the texts of documents by name."""
    return {d.name: d.text for d in documents}


def picture(*size: int, colour: object = 0, kind: str = "PNG", mode: str = "RGB") -> bytes:
    """Return an image file of one colour."""
    content = io.BytesIO()
    Image.new(mode, (size[0], size[1]), colour).save(content, kind)  # type: ignore[arg-type]
    return content.getvalue()


def noise(seed: int, height: int = 6, width: int = 9) -> NDArray[np.uint8]:
    """Return (height, width, 3) random pixels."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
