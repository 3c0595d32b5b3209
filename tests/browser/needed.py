"""What tests in a browser share: what they need of the machine, and how they look."""

import os
from typing import NoReturn

import pytest

OVERLAPS = """drawn => {
    const words = [...drawn.querySelectorAll('svg text')].filter(t => t.textContent.trim());
    const boxes = words.map(t => [t.textContent, t.getBoundingClientRect()]);
    const found = [];
    boxes.forEach(([a, p], i) => boxes.slice(i + 1).forEach(([b, q]) => {
        const wide = Math.min(p.right, q.right) - Math.max(p.left, q.left);
        const high = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
        if (wide > 2 && high > 5) found.push([a, b]);
    }));
    return found;
}"""
"""What of a drawing's words lies on top of one another, as a function of its element."""


def absent(reason: str) -> NoReturn:
    """Skip a test for this reason; under CI let it fail."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason}, and under CI nothing may be skipped")
    pytest.skip(reason)
