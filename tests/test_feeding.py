"""Sweeps whose texts and images need making ready: long texts, pictures of any size."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from orchestrator import sweep
from orchestrator.sources import find
from tests.sweeps import written
from tests.workers import tiny

pytestmark = pytest.mark.slow


def test_with_a_stride_every_token_of_a_text_is_scored_once_in_a_sweep(tmp_path: Path) -> None:
    texts = [d.text or "" for d in find("zoo:text", base=tmp_path).read()][:60]  # type: ignore[union-attr]
    lines = [json.dumps({"text": text[:4000]}) for text in texts]
    (tmp_path / "long.jsonl").write_text("\n".join(lines))
    tokens, losses = {}, {}
    for name, more in {"plain": "", "stride": ", stride: 32"}.items():
        data = f"{{source: long.jsonl, sequence_length: 128{more}, evaluate: {{sequences: 9999}}}}"
        text = f"models: [zoo:opt]\nmethods: [zero]\nfractions: [0]\ndata: {{t: {data}}}\n"
        file = written(tmp_path, text + "statistics: {shards: 2}\n")
        done = sweep.run(file, out=tmp_path / name, local=True)
        assert not done.failures
        results = pl.read_parquet(tmp_path / name / "results" / "**" / "*.parquet")
        tokens[name] = results["tokens"].sum()
        losses[name] = results["loss"].sum() / tokens[name]
    assert 0 <= tokens["stride"] - tokens["plain"] < 60 * 16  # short last windows are dropped
    assert losses["stride"] < losses["plain"]  # more is known before every token


def test_pictures_of_any_size_are_swept_by_a_model_of_one_size(tmp_path: Path) -> None:
    folder = tiny.folder("vit", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    size, classes = config["image_size"], len(config["id2label"])
    said = json.loads((folder / "preprocessor_config.json").read_text())
    more = {"image_processor_type": "ViTImageProcessor", "size": size, "resample": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps({**said, **more}))
    draw = np.random.default_rng(0)
    for i in range(24):
        place = tmp_path / "pictures" / f"class{i % classes}"
        place.mkdir(parents=True, exist_ok=True)
        height, width = draw.integers(20, 60, 2)
        pixels = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{i}.png")
    text = (
        f"models: [{folder}]\nmethods: [zero, mean]\nfractions: [0.5]\nseeds: 1\n"
        "data: {pictures: {source: pictures}}\nstatistics: {shards: 2}\n"
    )
    done = sweep.run(written(tmp_path, text), out=tmp_path / "run", local=True)
    assert not done.failures
    (table,) = (tmp_path / "run" / "data").rglob("*.parquet")
    data = pl.read_parquet(table)
    assert {tuple(shape) for shape in data["shape"].to_list()} == {(size, size, 3)}
    assert set(data["role"]) == {"collect", "evaluate"}
