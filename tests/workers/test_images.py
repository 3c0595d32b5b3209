"""What a picture becomes before a model sees it: byte for byte what its own library makes of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from workers.images import Transform, TransformError, fed, transform

SIZES = [(48, 48), (61, 47), (30, 77), (24, 24), (9, 40), (33, 32), (200, 131)]


def picture(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    """Return a picture with smooth parts, an edge and noise."""
    draw = np.random.default_rng([height, width, channels])
    y_HWC, x_HWC, channel_HWC = np.mgrid[:height, :width, :channels]
    waves_HWC = 127 + 90 * np.sin(x_HWC / 7) * np.cos(y_HWC / 5 + channel_HWC)
    waves_HWC[: height // 3, : width // 2] = 240
    waves_HWC += draw.normal(0, 9, (height, width, 1))
    return np.clip(waves_HWC, 0, 255).astype(np.uint8)


def checkpoint(folder: Path, *, config: Any = None, preprocessor: Any = None) -> Path:
    (folder / "config.json").write_text(json.dumps(config or {"architectures": ["X"]}))
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def timm_config(**changes: Any) -> dict[str, Any]:
    cfg = {"input_size": [3, 24, 24], "mean": [0.5, 0.4, 0.3], "std": [1, 1, 1], **changes}
    return {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": cfg}


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("share", [1.0, 0.9, 0.875])
def test_bytes_are_those_of_timms_evaluation_transform(
    mode: str, share: float, interpolation: str, tmp_path: Path
) -> None:
    from timm.data import create_transform, resolve_data_config

    said = timm_config(crop_pct=share, crop_mode=mode, interpolation=interpolation)
    how = transform(checkpoint(tmp_path, config=said), (24, 24, 3))
    settings = resolve_data_config(pretrained_cfg=said["pretrained_cfg"])
    library = create_transform(**settings, normalize=False)
    for height, width in SIZES:
        pixels = picture(height, width)
        expected = library(Image.fromarray(pixels)).numpy().transpose(1, 2, 0)
        assert np.array_equal(fed(pixels, how), expected), (height, width)


def test_a_model_that_is_not_square_is_fed_as_timm_feeds_it(tmp_path: Path) -> None:
    from timm.data import create_transform

    said = timm_config(crop_pct=0.9, input_size=[3, 24, 40])
    how = transform(checkpoint(tmp_path, config=said), (24, 40, 3))
    library = create_transform((3, 24, 40), crop_pct=0.9, interpolation="bicubic", normalize=False)
    for height, width in SIZES:
        pixels = picture(height, width)
        expected = library(Image.fromarray(pixels)).numpy().transpose(1, 2, 0)
        assert np.array_equal(fed(pixels, how), expected), (height, width)


VIT = {"image_processor_type": "ViTImageProcessor", "size": {"height": 24, "width": 24}}
DEIT = {"image_processor_type": "DeiTImageProcessor", "size": 29, "crop_size": 24}
SHORTEST = {**DEIT, "size": {"shortest_edge": 27}, "crop_size": {"height": 24, "width": 24}}
SMALL = {**DEIT, "size": {"height": 21, "width": 26}}  # the crop needs a border above


@pytest.mark.parametrize("said", [VIT, DEIT, SHORTEST, SMALL], ids=["vit", "deit", "edge", "small"])
def test_bytes_are_those_of_transformers_processors(said: dict[str, Any], tmp_path: Path) -> None:
    from transformers import DeiTImageProcessor, ViTImageProcessor
    from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    plain = {"do_rescale": False, "do_normalize": False}
    settings = {k: v for k, v in said.items() if k != "image_processor_type"} | plain
    kinds = (ViTImageProcessorPil, ViTImageProcessor)
    if said is not VIT:
        kinds = (DeiTImageProcessorPil, DeiTImageProcessor)
    exact, fast = (kind(**settings) for kind in kinds)
    how = transform(checkpoint(tmp_path, preprocessor=said), (24, 24, 3))
    for height, width in SIZES:
        pixels = picture(height, width)
        ours = fed(pixels, how)
        (theirs,) = exact(Image.fromarray(pixels))["pixel_values"]
        assert np.array_equal(ours, np.asarray(theirs).transpose(1, 2, 0)), (height, width)
        if said is not SMALL:  # there torchvision puts the odd pixel of the border elsewhere
            (close,) = fast(Image.fromarray(pixels), return_tensors="np")["pixel_values"]
            apart = np.abs(ours.astype(int) - close.transpose(1, 2, 0).astype(int))
            assert apart.max() <= 1, (height, width)


def test_what_a_processors_file_leaves_out_is_what_transformers_does(tmp_path: Path) -> None:
    bare = {"feature_extractor_type": "DeiTFeatureExtractor"}
    how = transform(checkpoint(tmp_path, preprocessor=bare), (224, 224, 3))
    assert (how.edge, how.size, how.crop, how.resample) == ("both", (256, 256), (224, 224), 3)
    for config, bare in (
        ({}, {"image_processor_type": "ViTImageProcessorFast"}),
        ({"model_type": "vit"}, {"image_mean": [0.5]}),
    ):
        how = transform(checkpoint(tmp_path, config=config, preprocessor=bare), (224, 224, 3))
        assert (how.edge, how.size, how.crop, how.resample) == ("both", (224, 224), None, 2)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_picture_gets_the_models_channels(channels: int, tmp_path: Path) -> None:
    pixels = picture(24, 24, channels)
    colours = transform(checkpoint(tmp_path, config=timm_config(crop_pct=1.0)), (24, 24, 3))
    grey = transform(checkpoint(tmp_path, config=timm_config(crop_pct=1.0)), (24, 24, 1))
    made = fed(pixels, colours)
    assert made.shape == (24, 24, 3)
    assert fed(pixels, grey).shape == (24, 24, 1)
    if channels == 1:
        assert np.array_equal(made, np.repeat(pixels, 3, axis=2))
    if channels == 4:  # what is transparent keeps the colour it has underneath
        assert np.array_equal(made, pixels[:, :, :3])


def test_a_picture_of_the_models_size_that_is_not_cropped_stays_as_it_is(tmp_path: Path) -> None:
    how = transform(checkpoint(tmp_path, preprocessor=VIT), (24, 24, 3))
    assert np.array_equal(fed(picture(24, 24), how), picture(24, 24))


def test_a_transform_can_be_told_as_plain_values(tmp_path: Path) -> None:
    for said in (VIT, DEIT):
        how = transform(checkpoint(tmp_path, preprocessor=said), (24, 24, 3))
        assert Transform.of(json.loads(json.dumps(how.told()))) == how


@pytest.mark.parametrize(
    ("config", "preprocessor", "said"),
    [
        (None, None, "has no preprocessor_config.json"),
        (None, {**VIT, "size": 32}, r"makes 32 x 32 pixels, and the model takes 24 x 24"),
        (None, {**VIT, "do_resize": False}, "makes pictures as they come"),
        (None, {**VIT, "size": {"shortest_edge": 24}}, "makes pictures as they come"),
        (None, {**VIT, "size": {"longest_edge": 24}}, "longest_edge"),
        (None, {**VIT, "crop_pct": 0.9}, "`crop_pct` is 0.9, which is not known here"),
        (None, {**VIT, "resample": 17}, "17"),
        (None, {"image_processor_type": "OtherProcessor"}, "size"),
        (None, [], "holds no mapping"),
        (timm_config(crop_mode="spiral"), None, "spiral"),
        (timm_config(interpolation="random"), None, "random"),
    ],
)
def test_a_transform_that_is_not_known_is_refused(
    config: Any, preprocessor: Any, said: str, tmp_path: Path
) -> None:
    folder = checkpoint(tmp_path, config=config, preprocessor=preprocessor)
    with pytest.raises(TransformError, match=said):
        transform(folder, (24, 24, 3))


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 5), (0, 8, 3)])
def test_what_is_no_picture_is_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    how = transform(checkpoint(tmp_path, preprocessor=VIT), (24, 24, 3))
    with pytest.raises(ValueError, match="expected"):
        fed(np.zeros(shape, np.uint8), how)
