"""Pictures of all modes and shapes come out upright, opaque, square and 8 bits deep; faulty ones are refused."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from capgpu.vision import Preprocessing, load_picture
from capgpu.vision.preprocessing import strict_pillow

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def saved(picture: Image.Image, path: Path, **how: object) -> Path:
    picture.save(path, **how)
    return path


def colour(path: Path, **how: object) -> tuple[int, ...]:
    """Return the colour of a picture that has only one."""
    pixels = load_picture(path, 8, **how).reshape(-1, 3)
    assert (pixels == pixels[0]).all()
    return tuple(int(value) for value in pixels[0])


@pytest.mark.parametrize(
    ("mode", "fill", "suffix", "wanted"),
    [
        ("RGB", RED, "png", RED),
        ("RGB", RED, "bmp", RED),
        ("RGB", RED, "ppm", RED),
        ("RGB", RED, "tga", RED),
        ("RGBA", (255, 0, 0, 255), "png", RED),
        ("RGBA", (255, 0, 0, 0), "png", WHITE),
        ("LA", (0, 0), "png", WHITE),
        ("L", 100, "png", (100, 100, 100)),
        ("1", 1, "png", WHITE),
        ("I;16", 65535, "png", WHITE),
        ("I;16", 25700, "png", (100, 100, 100)),
        ("I;16", 25700, "tif", (100, 100, 100)),
        ("I", 25700, "tif", (100, 100, 100)),
        ("CMYK", (0, 255, 255, 0), "tif", RED),
        ("CMYK", (0, 0, 0, 255), "jpg", BLACK),
    ],
)
def test_every_mode_becomes_rgb_on_white(tmp_path, mode, fill, suffix, wanted):
    assert colour(saved(Image.new(mode, (5, 9), fill), tmp_path / f"picture.{suffix}")) == wanted


@pytest.mark.parametrize("transparency", [0, bytes([0])])
def test_transparent_palettes_are_laid_on_the_background(tmp_path, transparency):
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette(RED)
    path = saved(picture, tmp_path / "palette.png", transparency=transparency)
    assert colour(path) == WHITE
    assert colour(path, background="#0000ff") == BLUE


def test_half_transparent_pixels_are_mixed_with_the_background(tmp_path):
    path = saved(Image.new("RGBA", (3, 3), (255, 0, 0, 128)), tmp_path / "half.png")
    assert colour(path, background="black") == (128, 0, 0)


def test_pictures_are_turned_as_their_exif_data_say(tmp_path):
    picture = Image.new("RGB", (16, 8), RED)
    picture.paste(GREEN, (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees clockwise
    path = saved(picture, tmp_path / "turned.png", exif=exif)
    pixels = load_picture(path, 16)
    assert tuple(pixels[0, 8]) == GREEN
    assert tuple(pixels[15, 8]) == RED


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_the_first_frame_of_an_animation_is_used(tmp_path, suffix):
    frames = [Image.new("RGB", (4, 4), fill) for fill in (BLACK, WHITE)]
    assert colour(saved(frames[0], tmp_path / f"film.{suffix}", save_all=True, append_images=frames[1:])) == BLACK


def test_each_fit_gives_its_documented_size_and_region(tmp_path):
    picture = Image.new("RGB", (24, 8), GREEN)
    picture.paste(RED, (0, 0, 8, 8))
    picture.paste(BLUE, (16, 0, 24, 8))
    path = saved(picture, tmp_path / "wide.png")
    assert colour(path, fit="crop") == GREEN
    stretched = load_picture(path, 24, fit="stretch")
    assert [tuple(stretched[12, column]) for column in (3, 12, 20)] == [RED, GREEN, BLUE]
    padded = load_picture(path, 24, fit="pad", background="black")
    assert [tuple(padded[12, column]) for column in (3, 12, 20)] == [RED, GREEN, BLUE]
    assert not padded[:7].any()
    assert not padded[17:].any()


def test_decoding_a_large_jpeg_at_reduced_size_changes_little(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)
    picture = Image.fromarray(noise).resize((1200, 1600), Image.Resampling.BICUBIC)
    for mode in ("RGB", "CMYK"):
        large = saved(picture.convert(mode), tmp_path / "large.jpg", quality=95)
        with Image.open(large) as opened:
            whole = np.asarray(opened.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC), np.int16)
        assert np.abs(load_picture(large, 64) - whole).max() <= 4
        # the middle square is what is left of a cut picture, whatever the size at decoding
        assert load_picture(large, 64, fit="crop").shape == (64, 64, 3)


def test_a_picture_of_one_pixel_is_accepted(tmp_path):
    assert colour(saved(Image.new("RGB", (1, 1), BLUE), tmp_path / "dot.png")) == BLUE


def test_each_channel_is_scaled_by_its_own_mean_and_deviation(tmp_path):
    path = saved(Image.new("RGB", (2, 2), (10, 20, 30)), tmp_path / "grey.png")
    scaled = Preprocessing(4, (10.0, 10.0, 10.0), (10.0, 5.0, 2.0)).pixels(path)
    assert scaled.shape == (3, 4, 4)
    assert scaled.dtype == np.float32
    assert scaled[:, 0, 0].tolist() == [0, 2, 10]
    turned = Preprocessing(4, (0.0, 0.0, 0.0), (30.0, 20.0, 10.0), channels="BGR").pixels(path)
    assert turned[:, 0, 0].tolist() == [1, 1, 1]


def png() -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"this is no picture", png()[:5000], png()[:60], png()[:40] + bytes(2000), b"%!PS-Adobe-3.0 EPSF-3.0\n"],
    ids=["empty", "text", "cut", "cut in the header", "zeros", "a program for a printer"],
)
def test_truncated_and_damaged_pictures_are_refused(tmp_path, content):
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises((OSError, ValueError, SyntaxError)):
        load_picture(path, 8)


def test_paths_other_than_regular_files_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no regular file"):
        load_picture(tmp_path / "pipe", 8)
    with pytest.raises(IsADirectoryError):
        load_picture(tmp_path, 8)
    with pytest.raises(FileNotFoundError):
        load_picture(tmp_path / "missing.png", 8)


def test_modes_without_a_defined_range_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected pixels of 8 or 16 bits, got mode"):
        load_picture(saved(Image.new("F", (2, 2), 0.5), tmp_path / "float.tif"), 8)
    with pytest.raises(ValueError, match="expected pixels of 8 or 16 bits, got mode"):
        load_picture(saved(Image.new("I", (2, 2), 70000), tmp_path / "wide.tif"), 8)


def test_more_pixels_than_pillows_limit_are_refused(tmp_path, monkeypatch):
    path = saved(Image.new("1", (100, 100)), tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9_999)
    with strict_pillow(), pytest.raises(Image.DecompressionBombWarning):
        load_picture(path, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Image.DecompressionBombError, match="9999"):
            load_picture(path, 8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    assert colour(path) == BLACK


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"size": 0}, "size: expected at least 1, got 0"),
        ({"mean": (1.0, 2.0)}, "three finite numbers"),
        ({"std": (1.0, float("nan"), 1.0)}, "three finite numbers"),
        ({"std": (1.0, 0.0, 1.0)}, "std: expected numbers above 0"),
        ({"channels": "RBG"}, "channels: expected one of RGB, BGR, got 'RBG'"),
        ({"fit": "squeeze"}, "fit: expected one of stretch, crop, pad"),
        ({"background": "no colour"}, "background: expected a colour"),
    ],
)
def test_invalid_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**{"size": 8, **PLAIN, **setting})
