"""HTML as elements: what a user wrote is always text, never markup.

Names of models, methods and files come from outside. They are put into elements
as text or attributes and escaped when the page is written, so there is no place
where escaping could be forgotten.
"""

import xml.etree.ElementTree as ET
from collections.abc import Sequence

Element = ET.Element
Child = str | ET.Element


def tag(name: str, *children: Child, **attributes: str) -> Element:
    """Return an element with these children; `class_` stands for the attribute `class`."""
    element = ET.Element(name, {key.rstrip("_"): value for key, value in attributes.items()})
    for child in children:
        if isinstance(child, ET.Element):
            element.append(child)
        elif len(element):
            element[-1].tail = (element[-1].tail or "") + child
        else:
            element.text = (element.text or "") + child
    return element


def written(elements: Sequence[Element]) -> str:
    """Return elements as HTML, escaped.

    Written as XML with closing tags, because the writer of HTML leaves `<` in attributes: right,
    but alarming. It is HTML too as long as no element is one that may not be closed, like `br`.
    """
    return "\n".join(
        ET.tostring(element, encoding="unicode", short_empty_elements=False) for element in elements
    )


def table(
    caption: str, head: Sequence[Element], body: Sequence[Element], *, kind: str = "numbers"
) -> Element:
    """Return a table from its caption, its head's rows and its bodies.

    `kind` is its class: numbers, text, mixed or stacked. On a narrow screen it scrolls in a box of
    its own, which the keyboard can reach.
    """
    inner = tag("table", tag("caption", caption), tag("thead", *head), *body, class_=kind)
    name, _, _ = caption.partition(". ")
    return tag(
        "div",
        inner,
        class_="table",
        tabindex="0",
        role="region",
        **{"aria-label": f"Table: {name}"},
    )


FOLDED = 10
"""A table of more rows may be folded away."""


def folded(inner: Element, said: str, *, rows: int) -> Element:
    """Return a table as it is, or folded away under what is said of it where it is long."""
    return inner if rows <= FOLDED else tag("details", tag("summary", said), inner)


def columns(*names: str) -> Element:
    """Return a row of column headings."""
    return tag("tr", *(tag("th", name, scope="col") for name in names))


def row(name: Child, *cells: Child) -> Element:
    """Return a row of cells under a heading of its own."""
    return tag("tr", tag("th", name, scope="row"), *(tag("td", cell) for cell in cells))


def bullets(items: Sequence[Child]) -> Element:
    """Return an unordered list."""
    return tag("ul", *(tag("li", item) for item in items))


def contents(sections: Sequence[Element]) -> Element:
    """Return links to sections that have an id, by their first heading, and to what is in them."""
    links = []
    for section in sections:
        heading = section.find("h2")
        if heading is None or "id" not in section.attrib:
            continue
        links.append(tag("a", heading.text or "", href=f"#{section.attrib['id']}"))
        for inner in section.iter("h3"):
            if "id" in inner.attrib:
                link = tag("a", inner.text or "", href=f"#{inner.attrib['id']}", class_="inner")
                links.append(link)
    return tag("nav", bullets(links), **{"aria-label": "Contents"})
