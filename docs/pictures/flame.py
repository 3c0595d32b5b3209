"""Draws `flame.svg`, where the time of a sweep goes, from samples of a real run.

    py-spy record --rate 200 --format raw --output samples.txt -- \
        python -m orchestrator run SPEC --local --out DIR
    python docs/pictures/flame.py samples.txt docs/pictures/flame.svg

A sample is a stack of some forty frames, most of them the libraries' own. Only frames that
`FRAMES` names are kept, under plainer names; time is theirs and of what they call. Width is time,
what stands above is called by what stands below.
"""

import re
import sys
from collections import Counter
from pathlib import Path
from xml.sax.saxutils import escape

FRAMES = [  # a pattern of "function (file", what it is called, and a colour
    (r"^_find_and_load \(", "imports", "rest"),
    (r"^_schedule \(orchestrator/sweep", "all tasks", "rest"),
    (r"^prepare|^_prepare|\(orchestrator/prepare", "data", "rest"),
    (r"^Cases.evaluate \(", "answer cells", "rest"),
    (r"^Replica.evaluate \(", "evaluate", "rest"),
    (
        r"^Host._(collect|pilot|recount|again)|^Replica.(collect|pilot|recount) \(",
        "collect",
        "rest",
    ),
    (r"\(orchestrator/reduce.py|\(orchestrator/statistics.py", "reduce", "rest"),
    (r"\(orchestrator/(aggregate|intervals|contrasts|curves|comparisons)", "aggregate", "rest"),
    (r"\(orchestrator/report/", "report", "rest"),
    (r"^Replica.(canaries|check) \(", "canaries, checks", "rest"),
    (r"\(orchestrator/(values|feed|store)", "tables", "rest"),
    (r"^activations \(workers/replacing", "donors' pass", "forward"),
    (r"^Fold\.|^prepare_folds \(|^entered \(", "fold, read back", "hold"),
    (r"^Replacement\.", "replace, count", "hold"),
    (r"^find_shortcuts|^_shortcuts \(", "look for shortcuts", "hold"),
    (r"^hidden \(workers/hooks", "forward pass", "forward"),
    (r"Attention\.forward \(", "attention", "forward"),
    (r"^OPTDecoderLayer\.forward \(|^\w+Layer\.forward \(transformers", "layers", "forward"),
    (r"^layer_norm \(", "norm", "forward"),
    (r"^sdpa_attention_forward \(|^scaled_dot_product", "softmax(qk)v", "forward"),
    (r"^Linear\.forward \(", "matrix products", "forward"),
    (r"^relu \(|^gelu \(|^silu \(", "activation", "forward"),
    (r"^score \(workers/metrics|^Scoring\.measure \(", "score", "score"),
    (r"^scores \(workers/hooks", "head", "score"),
    (r"^Scoring\._rank \(", "rank", "score"),
    (r"^Scoring\._measured \(", "loss", "score"),
    (r"^Scoring\.sums \(|^_Running\.answer \(", "sums", "score"),
]
COLOURS = {"forward": "#9ecae1", "score": "#fdbe85", "hold": "#a1d99b", "rest": "#d9d9d9"}
SAYS = {
    "forward": "the model's own layers",
    "score": "head, loss and ranks",
    "hold": "holding neurons and proving it",
    "rest": "all else",
}
WIDTH, HEIGHT, TOP, LEFT = 1180, 30, 70, 10

Stack = tuple[str, ...]


def named(stack: str) -> tuple[Stack, dict[str, str]]:
    """Return the names of the frames that are kept, from the outermost, and their colours."""
    kept: list[str] = []
    colours = {}
    for frame in stack.split(";"):
        plain = re.sub(r":\d+\)$", ")", frame)
        found = next(((name, colour) for p, name, colour in FRAMES if re.search(p, plain)), None)
        if found is not None and found[0] not in kept and "head" not in kept:
            kept.append(found[0])
            colours[found[0]] = found[1]
            if found[0] == "imports":
                break
    return tuple(kept), colours


def boxes(samples: Counter[Stack], depth: int, start: float, total: int) -> list[tuple]:
    """Return (name, depth, start, samples) of every box above `start`, the widest first."""
    found = []
    by_name: Counter[str] = Counter()
    for stack, count in samples.items():
        if stack:
            by_name[stack[0]] += count
    for name, count in by_name.most_common():
        found.append((name, depth, start, count))
        above = Counter({s[1:]: n for s, n in samples.items() if s and s[0] == name})
        found += boxes(above, depth + 1, start, total)
        start += count
    return found


def drawn(raw: str) -> str:
    """Return the picture of collapsed stacks, as SVG."""
    samples: Counter[Stack] = Counter()
    colours: dict[str, str] = {}
    for line in raw.splitlines():
        stack, count = line.rsplit(" ", 1)
        names, its = named(stack)
        samples[("the whole run", *names)] += int(count)
        colours |= its
    total = sum(samples.values())
    found = [b for b in boxes(samples, 0, 0, total) if b[3] / total >= 0.003]
    deepest = max(b[1] for b in found)
    height = TOP + (deepest + 1) * HEIGHT + 10
    said = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + 2 * LEFT} {height}"'
        ' font-family="sans-serif">',
        f'<rect width="{WIDTH + 2 * LEFT}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="26" font-size="18">Where the time of a sweep goes'
        f" ({total} samples)</text>",
    ]
    x = LEFT
    for colour, says in SAYS.items():
        said.append(f'<rect x="{x}" y="40" width="14" height="14" fill="{COLOURS[colour]}"/>')
        said.append(f'<text x="{x + 20}" y="52" font-size="14">{escape(says)}</text>')
        x += 40 + 8 * len(says)
    for name, depth, start, count in found:
        left, width = LEFT + WIDTH * start / total, WIDTH * count / total
        y = TOP + (deepest - depth) * HEIGHT
        label = f"{name} {count / total:.1%}"
        fill = COLOURS[colours.get(name, "rest")]
        said.append(
            f'<g><title>{escape(label)}</title><rect x="{left:.1f}" y="{y}" width="{width:.1f}"'
            f' height="{HEIGHT - 2}" fill="{fill}" stroke="white"/>'
        )
        for text in (label, name):
            if len(text) * 6.7 + 6 < width:
                said.append(
                    f'<text x="{left + 4:.1f}" y="{y + 19}" font-size="13">{escape(text)}</text>'
                )
                break
        said.append("</g>")
    return "\n".join([*said, "</svg>"]) + "\n"


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(drawn(Path(sys.argv[1]).read_text()))
