"""Images: what a file becomes, and what a folder says of its classes."""

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator import pixels
from orchestrator.sources import Broken, Document, SourceError, find
from tests.orchestrator.reading import broken, lines, noise, picture, read


def _chunk(kind: bytes, content: bytes) -> bytes:
    sum_ = zlib.crc32(kind + content)
    return len(content).to_bytes(4, "big") + kind + content + sum_.to_bytes(4, "big")


DEEP_PNG = (
    b"\x89PNG\r\n\x1a\n"
    + _chunk(b"IHDR", bytes([0, 0, 0, 1, 0, 0, 0, 1, 16, 2, 0, 0, 0]))
    + _chunk(b"IDAT", zlib.compress(bytes(7)))
    + _chunk(b"IEND", b"")
)
"""One pixel of three channels of 16 bits."""


def put(folder: Path, *names: str) -> None:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(3, 2, colour=(i, i, i)))


def targets(documents: list[Document]) -> dict[str, int | None]:
    return {d.name: d.target for d in documents}


def test_an_image_keeps_its_very_pixels() -> None:
    image_HWC = noise(0)
    content = io.BytesIO()
    Image.fromarray(image_HWC).save(content, "PNG")
    np.testing.assert_array_equal(pixels.decoded(content.getvalue()), image_HWC)


@pytest.mark.parametrize(
    ("mode", "colour", "said"),
    [
        ("L", 7, [7]),
        ("1", 1, [255]),
        ("P", 0, [0, 0, 0]),
        ("RGBA", (1, 2, 3, 0), [1, 2, 3]),
        ("RGB", (1, 2, 3), [1, 2, 3]),
        ("LA", (9, 0), [9]),
    ],
)
def test_grey_has_one_channel_and_all_else_three(
    mode: str, colour: object, said: list[int]
) -> None:
    image_HWC = pixels.decoded(picture(4, 2, colour=colour, mode=mode))
    assert image_HWC.shape == (2, 4, len(said))
    assert image_HWC.dtype == np.uint8
    assert (image_HWC == said).all()


def test_a_photograph_is_turned_upright() -> None:
    image = Image.fromarray(noise(1, height=2, width=5))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    content = io.BytesIO()
    image.save(content, "PNG", exif=exif)
    np.testing.assert_array_equal(
        pixels.decoded(content.getvalue()), np.rot90(noise(1, height=2, width=5), -1)
    )


def test_what_is_no_whole_image_of_eight_bits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = picture(64, 64, kind="JPEG")
    for content, said in (
        (whole[: len(whole) // 2], "no whole image"),
        (b"", "no whole image"),
        (picture(4, 4, mode="I;16"), "'I;16'; convert them to 8 bits"),
        (DEEP_PNG, "'RGB' of 16 bits; convert them to 8 bits"),
        (b"P6 1 1 65535\n" + bytes(6), "'RGB' of 16 bits; convert them to 8 bits"),
    ):
        with pytest.raises(ValueError, match=said):
            pixels.decoded(content)
    monkeypatch.setattr(pixels, "MOST", 4000)
    with pytest.raises(ValueError, match="more than 4000 pixels"):
        pixels.decoded(whole)


def test_a_class_is_its_folder_and_numbered_in_sorted_order(tmp_path: Path) -> None:
    put(tmp_path, "n02/b.png", "n01/a.PNG", "n01/deep/c.jpg")
    (tmp_path / "readme.md").write_text("words")
    assert targets(read(".", tmp_path)) == {"n01/a.PNG": 0, "n01/deep/c.jpg": 0, "n02/b.png": 1}
    assert find(".", base=tmp_path).kind == "images"


def test_splits_lie_above_classes_and_number_them_alike(tmp_path: Path) -> None:
    put(tmp_path, "train/a/1.png", "train/b/2.png", "val/b/3.png")
    found = read(".", tmp_path)
    assert [(d.split, d.target) for d in found] == [("train", 0), ("train", 1), ("val", 1)]


def test_images_are_chosen_by_class_and_keep_its_number(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/2.png", "c/3.png")
    assert targets(read(".", tmp_path, where={"class": ["b", "c"]})) == {"b/2.png": 1, "c/3.png": 2}
    assert targets(read(".", tmp_path, where={"label": [2]})) == {"c/3.png": 2}


def test_a_labels_file_numbers_classes_in_its_order(tmp_path: Path) -> None:
    put(tmp_path, "set/a/1.png", "set/b/2.png", "set/z/3.png")
    lines(tmp_path, "x unused", "b, second", "a", name="classes.txt")
    found = find("set", base=tmp_path, reading={"labels": "classes.txt"})
    assert targets([d for d in found.read() if isinstance(d, Document)]) == {
        "a/1.png": 2,
        "b/2.png": 1,
    }
    assert broken(found) == [f"{tmp_path}/set/z/3.png: the class 'z' is not in the labels file"]


def test_a_labels_file_of_images_may_say_numbers_or_words(tmp_path: Path) -> None:
    put(tmp_path, "set/1.png", "set/2.png", "set/3.png")
    lines(tmp_path, "1.png 65", "2.png,7", name="numbers.txt")
    lines(tmp_path, "1.png dog", "2.png cat", "3.png dog", name="words.csv")
    lines(tmp_path, "1.png 7", "2.png cat", name="both.csv")
    numbers = find("set", base=tmp_path, reading={"labels": "numbers.txt"})
    assert [d.target for d in numbers.read() if isinstance(d, Document)] == [65, 7]
    assert broken(numbers) == [f"{tmp_path}/set/3.png: this file is not in the labels file"]
    assert [d.target for d in read("set", tmp_path, labels="words.csv")] == [1, 0, 1]
    with pytest.raises(SourceError, match="a number after the name on some lines and not on all"):
        find("set", base=tmp_path, reading={"labels": "both.csv"})


def test_a_labels_file_may_say_the_number_of_a_class(tmp_path: Path) -> None:
    put(tmp_path, "set/a/1.png", "set/b/2.png")
    lines(tmp_path, "b 3", "a,7", name="numbers.txt")
    assert [d.target for d in read("set", tmp_path, labels="numbers.txt")] == [7, 3]
    lines(tmp_path, "b 3", "a goldfish", name="numbers.txt")
    with pytest.raises(SourceError, match=r"expected on every line the same: .* and its number"):
        find("set", base=tmp_path, reading={"labels": "numbers.txt"})
    lines(tmp_path, "a the first 1", "b number 747", name="words.txt")  # for people
    assert [d.target for d in read("set", tmp_path, labels="words.txt")] == [0, 1]
    lines(tmp_path, "a/1.png 3", "b/2.png", name="half.txt")
    with pytest.raises(SourceError, match=r"has 'a/1\.png', an image, where others are none"):
        find("set", base=tmp_path, reading={"labels": "half.txt"})


def test_a_class_without_images_is_refused_unless_a_file_numbers_them(tmp_path: Path) -> None:
    put(tmp_path, "set/train/a/1.png", "set/train/c/2.png", "set/val/a/3.png")
    (tmp_path / "set" / "val" / "c").mkdir()  # it has images in the other split
    assert [d.target for d in read("set", tmp_path)] == [0, 1, 0]
    (tmp_path / "set" / "train" / "b").mkdir()
    with pytest.raises(SourceError, match=r"set/train/b has no images, and as a class"):
        find("set", base=tmp_path)
    lines(tmp_path, "a", "b", "c", name="classes.txt")
    assert [d.target for d in read("set", tmp_path, labels="classes.txt")] == [0, 2, 0]


def test_a_picture_beside_tables_does_not_make_them_images(tmp_path: Path) -> None:
    lines(tmp_path, {"text": "one"}, {"text": "two"}, name="set/x.jsonl")
    put(tmp_path, "set/figures/logo.png")
    with pytest.raises(SourceError, match=r"has JSON lines, and images .*logo.png.*by `kind`"):
        find("set", base=tmp_path)
    assert [d.text for d in read("set", tmp_path, kind="text")] == ["one", "two"]
    assert [d.target for d in read("set", tmp_path, kind="images")] == [0]


def test_the_labels_are_part_of_the_digest(tmp_path: Path) -> None:
    put(tmp_path, "set/a/1.png", "set/b/2.png")
    lines(tmp_path, "a", "b", name="one.txt")
    lines(tmp_path, "b", "a", name="two.txt")
    found = [find("set", base=tmp_path, reading={"labels": n}) for n in ("one.txt", "two.txt")]
    assert found[0].digest() != found[1].digest() != find("set", base=tmp_path).digest()
    put(tmp_path, "copies/other/set/a/1.png", "copies/other/set/b/2.png")
    lines(tmp_path, "a", "b", name="copies/one.txt")
    copy = find("copies/other/set", base=tmp_path, reading={"labels": "copies/one.txt"})
    assert copy.digest() == found[0].digest()


def test_a_broken_image_is_left_out_and_named(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a" / "0.png").write_bytes(b"words")
    bad, *good = find(".", base=tmp_path).read()
    assert isinstance(bad, Broken)
    assert f"{bad}".startswith(f"{tmp_path}/a/0.png: it is no whole image")
    assert [d.name for d in good if isinstance(d, Document)] == ["a/1.png", "b/2.png"]


@pytest.mark.parametrize(
    ("names", "labels", "said"),
    [
        (("1.png", "a/2.png"), None, r"1\.png lies in no folder of a class"),
        (("a/1.png",), "", "is empty"),
        (("a/1.png",), "a\na", "has the class 'a' twice"),
        (("a/1.png",), None, "no column 'colour'"),
    ],
)
def test_what_says_no_class_is_refused(
    tmp_path: Path, names: tuple[str, ...], labels: str | None, said: str
) -> None:
    put(tmp_path / "set", *names)
    (tmp_path / "labels.txt").write_text(labels or "")
    reading: dict[str, object] = {} if labels is None else {"labels": "labels.txt"}
    reading |= {"where": {"colour": ["red"]}} if "colour" in said else {}
    with pytest.raises(SourceError, match=said):
        find("set", base=tmp_path, reading=reading)
