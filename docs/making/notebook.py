"""Notebook: an executed notebook as a page, with what its cells said when they were run.

Of the forms an output has, the first of picture and text that is there is shown.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

_PICTURES = ("image/svg+xml", "image/png")


def page(file: Path) -> str:
    """Return the page, in Markdown, of a notebook (format 4)."""
    cells = json.loads(file.read_text())["cells"]
    parts = [part for cell in cells for part in _cell(cell)]
    parts.insert(1, f"[The notebook]({file.name}) itself, to run.")
    return "\n\n".join(parts) + "\n"


def _cell(cell: Mapping[str, object]) -> Iterator[str]:
    text = _joined(cell["source"]).strip()
    if cell["cell_type"] != "code":
        yield text
        return
    yield f"```python\n{text}\n```"
    outputs = cell["outputs"]
    assert isinstance(outputs, list)
    for output in outputs:
        forms = output.get("data") or {"text/plain": output.get("text", "")}
        for kind in _PICTURES:
            if kind in forms:
                data = f"data:{kind};base64,{_coded(kind, forms[kind])}"
                yield f"![What the cell above draws]({data})"
                break
        else:
            said = _joined(forms.get("text/plain", "")).rstrip()
            if said:
                yield f"```text\n{said}\n```"


def _coded(kind: str, content: object) -> str:
    text = _joined(content)
    return text.strip() if kind == "image/png" else base64.b64encode(text.encode()).decode()


def _joined(lines: object) -> str:
    """Return a text that a notebook keeps whole or as a list of lines."""
    return "".join(lines) if isinstance(lines, list) else str(lines)
