"""Whether a model can be fed a source, and what of that is in the name of the data."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator import feeding
from orchestrator.documents import Source
from orchestrator.sections import DataSpec
from tests.orchestrator import planned
from workers.messages import ModelRef

TEXT = Source(kind="text", files=(), splits=(), read=lambda: iter(()))
IMAGES = Source(kind="images", files=(), splits=(), read=lambda: iter(()))
PAIRS = Source(kind="pairs", files=(), splits=(), read=lambda: iter(()))


def ref(modality: str, folder: Path = Path("nowhere"), **changes: Any) -> ModelRef:
    return ModelRef(
        name="a",
        folder=str(folder),
        dtype="float32",
        device="cpu",
        threads=1,
        facts=planned.facts(modality, **changes),
    )


def data(source: str = "a.jsonl", **settings: Any) -> DataSpec:
    return DataSpec(source=source, **settings)


def test_the_bundled_sources_keep_the_names_they_had() -> None:
    assert feeding.told(data("zoo:text"), ref("causal")) == {}
    assert feeding.told(data("zoo:digits"), ref("image")) == {}


def test_a_text_model_without_a_tokenizer_that_can_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("a")
    said = feeding.misfit(ref("causal", tmp_path), data(), TEXT)
    assert said is not None
    assert "no tokenizer.json" in said
    (tmp_path / "tokenizer.json").write_text("{}")
    assert feeding.misfit(ref("causal", tmp_path), data(), TEXT) is None


def test_every_setting_that_changes_what_is_fed_is_in_the_name() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"stride": 8},
        {"context": 8},
        {"truncate": True},
        {"near_duplicates": "keep"},
    ]
    told = [feeding.told(data(**change), ref("causal")) for change in changes]
    assert len({json.dumps(one, sort_keys=True) for one in told}) == len(changes)


def test_the_models_own_transform_is_in_the_name_of_images(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    told = []
    for resample in (2, 3):
        said = {"image_processor_type": "ViTImageProcessor", "size": 16, "resample": resample}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
        one = ref("image", tmp_path, image=(16, 16, 3))
        assert feeding.misfit(one, data("pictures"), IMAGES) is None
        assert feeding.misfit(one, data("zoo:digits"), IMAGES) is None
        told.append(feeding.told(data("pictures"), one)["transform"])
    assert told[0] != told[1]


def test_a_model_that_is_not_here_has_a_transform_that_is_unknown() -> None:
    away = ref("image", image=(16, 16, 3))
    assert feeding.misfit(away, data("pictures"), IMAGES) is None
    assert feeding.told(data("pictures"), away)["transform"] == "unknown"


@pytest.mark.parametrize(
    ("modality", "settings", "said"),
    [
        ("causal", {"stride": 32}, "a stride of 32, and a window holds 31 tokens"),
        ("causal", {"stride": 20, "context": 13}, "with a stride of 20 have 12"),
        ("causal", {"context": 32}, "windows of 32 have 31"),
        ("causal", {"sequence_length": 33}, "the model takes 32 at most"),
        ("masked", {"stride": 8}, "`stride`, and a masked model looks both ways"),
        ("masked", {"context": 8}, "`context`, and a masked model looks both ways"),
        ("image", {"stride": 8}, "asks for `stride`, which is for text"),
        ("image", {"truncate": True}, "asks for `truncate`, which is for text"),
    ],
)
def test_what_cannot_be_cut_as_asked_is_refused(
    modality: str, settings: dict[str, Any], said: str
) -> None:
    source = IMAGES if modality == "image" else TEXT
    assert said in str(feeding.misfit(ref(modality), data(**settings), source))


@pytest.mark.parametrize(
    "settings",
    [{"stride": 31}, {"stride": 32, "bos": "none"}, {"stride": 20, "context": 12}, {"context": 31}],
)
def test_the_most_that_fits_is_not_refused(settings: dict[str, Any]) -> None:
    assert feeding.misfit(ref("causal"), data(**settings), TEXT) is None


def test_text_is_for_text_models_images_for_image_models_and_pairs_for_causal_ones() -> None:
    assert feeding.misfit(ref("causal"), data(), PAIRS) is None
    for modality, source in (("causal", IMAGES), ("image", TEXT), ("masked", PAIRS)):
        assert feeding.misfit(ref(modality), data(), source) is not None


@pytest.mark.parametrize(
    "settings", [{"stride": 8}, {"context": 8}, {"truncate": True}, {"near_duplicates": "keep"}]
)
def test_what_does_nothing_to_paired_prompts_is_refused(settings: dict[str, Any]) -> None:
    said = str(feeding.misfit(ref("causal"), data(**settings), PAIRS))
    assert f"asks for `{next(iter(settings))}`, and paired prompts are fed whole" in said


def test_an_image_model_without_a_transform_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    one = ref("image", tmp_path, image=(16, 16, 3))
    assert "has no preprocessor_config.json" in str(feeding.misfit(one, data("p"), IMAGES))


def test_one_window_of_a_document_and_a_stride_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="keep one"):
        data(truncate=True, stride=8)
