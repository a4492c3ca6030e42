"""Resizing and scaling against the implementations whose numbers are to be met, pixel by pixel."""

import importlib.util
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from consistency_bench.benchmarks.metrics.extractors import dinov2, preprocessing
from consistency_bench.benchmarks.metrics.extractors.preprocessing import PROTOCOLS

from ....conftest import require

SIZES = [(32, 32), (28, 28), (64, 48), (299, 299), (299, 64), (300, 200), (513, 700), (8, 8), (5, 3), (1, 1)]
#: Of 255. float32 sums in another order; the resizes themselves are the same.
CLOSE = 2e-4


def images(height: int, width: int, channels: int = 3, count: int = 2) -> torch.Tensor:
    """Noise: the hardest image for a resize, as every neighbour differs."""
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randint(0, 256, (count, channels, height, width), generator=generator, dtype=torch.uint8)


def in_grey_levels(protocol: str, x: torch.Tensor) -> torch.Tensor:
    """What the network would see, back in [0, 255]."""
    unit = 127.5 if protocol == "legacy_pytorch" else 128.0
    return PROTOCOLS[protocol](x) * unit + unit


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("protocol", ["clean", "legacy_pytorch"])
def test_resizes_are_those_of_clean_fid(protocol, size):
    from cleanfid.resize import build_resizer

    x = images(*size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, on an argument that clean-fid gives it
        resize = build_resizer(protocol)
        expected = np.stack([resize(image.permute(1, 2, 0).numpy()) for image in x])
    assert expected.shape == (2, 299, 299, 3)
    assert np.abs(in_grey_levels(protocol, x).permute(0, 2, 3, 1).numpy() - expected).max() <= CLOSE


@pytest.mark.parametrize("size", SIZES)
def test_the_graph_s_resize_is_that_of_torch_fidelity(size):
    found = importlib.util.find_spec("torch_fidelity") is not None
    require(found, "torch-fidelity", "pip install torch-fidelity==0.4.0")
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    x = images(*size)
    expected = interpolate_bilinear_2d_like_tensorflow1x(x.float(), size=(299, 299), align_corners=False)
    assert (in_grey_levels("legacy_tensorflow", x) - expected).abs().max() <= CLOSE


@pytest.mark.parametrize("size", SIZES)
def test_the_graph_s_resize_is_that_of_its_translation(size):
    """The archive of NVIDIA resizes by an affine grid, shifted by half a pixel of the input less one of the output."""
    x = images(*size).float()
    height, width = size
    theta = torch.tensor([[[1.0, 0, 1 / width - 1 / 299], [0, 1.0, 1 / height - 1 / 299]]]).expand(len(x), -1, -1)
    grid = torch.nn.functional.affine_grid(theta, [len(x), 3, 299, 299], align_corners=False)
    expected = torch.nn.functional.grid_sample(x, grid, "bilinear", "border", align_corners=False)
    # The grid is in [-1, 1], where float32 has fewer digits to say where between two pixels a sample is.
    close = 255 * 4e-7 * max(size)
    assert (in_grey_levels("legacy_tensorflow", x.byte()) - expected).abs().max() <= max(close, CLOSE)


@pytest.mark.parametrize("size", SIZES)
def test_the_antialiased_resize_is_pillow_s(size):
    x = images(*size, channels=1, count=1)
    prepare = preprocessing.Preparation(224, preprocessing.bicubic, mean=(0.0,), std=(1.0,))
    picture = Image.fromarray(x[0, 0].numpy().astype(np.float32))
    expected = np.asarray(picture.resize((224, 224), resample=Image.Resampling.BICUBIC))
    assert np.abs(prepare(x)[0].numpy() - expected).max() <= CLOSE


@settings(max_examples=40, deadline=None)
@given(
    pixels=st.integers(1, 700),
    out=st.integers(1, 400),
    weights=st.sampled_from([preprocessing.bicubic, preprocessing.bilinear_corners, preprocessing.bilinear_centres]),
)
def test_weights_keep_a_flat_image_flat(pixels, out, weights):
    matrix = weights(pixels, out)
    assert matrix.shape == (out, pixels)
    assert matrix.dtype == np.float64
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-12)
    if pixels == out:
        np.testing.assert_allclose(matrix, np.eye(out), atol=1e-5)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_grey_is_three_equal_channels_and_rows_do_not_depend_on_the_batch(protocol):
    grey = images(28, 28, channels=1, count=5)
    x = PROTOCOLS[protocol](grey)
    assert x.shape == (5, 3, 299, 299)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, PROTOCOLS[protocol](grey.expand(-1, 3, -1, -1)), rtol=0, atol=1e-5)
    torch.testing.assert_close(x[3:4], PROTOCOLS[protocol](grey[3:4]), rtol=0, atol=1e-5)


def test_dinov2_gets_its_scaling():
    """A flat colour, by hand: resizing leaves it unchanged, channels have their own mean and deviation."""
    red, green, blue = 200, 100, 50
    colour = torch.tensor([red, green, blue], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 20, 30)
    expected = [(red / 255 - 0.485) / 0.229, (green / 255 - 0.456) / 0.224, (blue / 255 - 0.406) / 0.225]
    x = dinov2.PREPARATION(colour)
    assert x.shape[2:] == (224, 224)
    torch.testing.assert_close(x[0, :, 100, 100], torch.tensor(expected), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        torch.rand(2, 3, 8, 8),
        torch.full((2, 3, 8, 8), torch.nan),
        torch.zeros(2, 3, 8, 8, dtype=torch.int64),
        torch.zeros(2, 2, 8, 8, dtype=torch.uint8),
        torch.zeros(3, 8, 8, dtype=torch.uint8),
        torch.zeros(2, 8, 8, 3, dtype=torch.uint8),
        torch.zeros(2, 3, 0, 8, dtype=torch.uint8),
    ],
)
def test_what_is_no_uint8_image_is_refused(wrong):
    with pytest.raises(ValueError, match=r"images must be uint8 \[N, C, H, W\] with 1 or 3 channels, got"):
        PROTOCOLS["clean"](wrong)
