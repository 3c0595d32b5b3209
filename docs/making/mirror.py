"""Mirror: what the pages link to outside of docs/, brought into the site.

Pages are written to be read in the repository, so they link to `../examples/…` and
`../benchmarks/…`. A site has its own root. Whatever a page links to is taken into it, at
the path that it has in the repository, and what it links to in turn; links are rewritten.

    docs/X          X
    README.md       readme.md, as a page of its own
    a folder        its index.md, which shows the files in it
    anything else   the same path
"""

import posixpath
import re
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:|data:)([^)#\s]+)")
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LIST = re.compile(r"(?m)^((?![-*] |[|#>]|\d+\. |\s).+\n)(?=[-*] |\d+\. )")


def at(path: str) -> str:
    """Return where a file of the repository lies in the site; paths are posix, relative."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if (ROOT / path).is_dir():
        return f"{path}/index.md"
    return "readme.md" if path == "README.md" else path


def links(path: str, text: str) -> Mapping[str, str]:
    """Return the files of the repository that a page links to, by how it writes them."""
    pieces = _FENCE.split(text)[::2]
    written = {link for piece in pieces for link in _LINK.findall(piece)}
    return {w: posixpath.normpath(posixpath.join(posixpath.dirname(path), w)) for w in written}


def rewritten(path: str, text: str) -> str:
    """Return a page of the repository as a page of the site.

    Lists that follow a line of text are set apart from it, which Python's Markdown needs.
    """
    there = links(path, text)
    here = posixpath.dirname(at(path))

    def link(found: re.Match[str]) -> str:
        return posixpath.relpath(at(there[found[1]]), here or ".")

    pieces = _FENCE.split(text)
    pieces[::2] = [_LIST.sub(r"\1\n", _LINK.sub(link, piece)) for piece in pieces[::2]]
    return "".join(pieces)


def reached(pages: Mapping[str, str]) -> Mapping[str, str | bytes]:
    """Return all files outside docs/ that pages lead to: text of pages, bytes of others."""
    found: dict[str, str | bytes] = {}
    ahead = dict(pages)
    while ahead:
        path, text = ahead.popitem()
        for other in links(path, text).values():
            if (ROOT / other).is_dir():
                other, shown = f"{other}/index.md", folder(other)
                if other not in found:
                    found[other] = ahead[other] = shown
            elif other in found or other.startswith("docs/"):
                continue
            elif other.endswith(".md"):
                found[other] = ahead[other] = (ROOT / other).read_text()
            else:
                found[other] = (ROOT / other).read_bytes()
    return found


def folder(path: str) -> str:
    """Return a page that shows the sweep files of a folder: what each says above itself, then it.

    The line for editors is left out.
    """
    shown = [f"# {path.capitalize()}\n"]
    for file in sorted((ROOT / path).glob("*.yaml")):
        lines = file.read_text().splitlines()
        above = [line.removeprefix("# ") for line in lines if line.startswith("# ")]
        said = "\n\n".join(line for line in above if "$schema=" not in line)
        sweep = "\n".join(line for line in lines if not line.startswith("# "))
        shown.append(f"## [{file.name}]({file.name})\n\n{said}\n\n```yaml\n{sweep}\n```\n")
    return "\n".join(shown)
