"""Pictures for display: whole, in proportion, on white; what is no picture is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from capgpu.data.pictures import thumbnail

WHITE = [255, 255, 255]


@pytest.mark.parametrize(("width", "height"), [(1, 1), (7, 33), (33, 7), (500, 300), (1, 3000), (3000, 1)])
def test_the_whole_picture_stands_in_the_middle_of_white(width: int, height: int, tmp_path: Path) -> None:
    Image.new("RGB", (width, height), (10, 200, 30)).save(tmp_path / "p.png")
    sheet = thumbnail(tmp_path / "p.png", 32)
    assert sheet.shape == (32, 32, 3)
    assert sheet.dtype == np.uint8
    assert sheet[16, 16].tolist() == [10, 200, 30]
    coloured = (sheet != 255).any(axis=-1)
    for along, size in ((coloured.any(axis=0), width), (coloured.any(axis=1), height)):
        assert along.sum() == max(round(32 * size / max(width, height)), 1)
        assert abs(int(np.argmax(along)) - int(np.argmax(along[::-1]))) <= 1


@pytest.mark.parametrize(("width", "height", "shape"), [(500, 300, (19, 32)), (7, 33, (32, 7)), (1, 3000, (32, 1))])
def test_a_picture_inside_a_square_keeps_its_shape(
    width: int, height: int, shape: tuple[int, int], tmp_path: Path
) -> None:
    Image.new("RGB", (width, height), (10, 200, 30)).save(tmp_path / "p.png")
    picture = thumbnail(tmp_path / "p.png", 32, fit="inside")
    assert picture.shape == (*shape, 3)
    assert (picture == (10, 200, 30)).all()


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (thumbnail(tmp_path / "clear.png", 8) == 255).all()


def test_greys_of_sixteen_bits_keep_their_shade(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 257 * 90, np.uint16)).save(tmp_path / "grey.png")
    assert (thumbnail(tmp_path / "grey.png", 8) == 90).all()


def test_a_picture_stands_as_its_camera_was_held(tmp_path: Path) -> None:
    lying = Image.new("RGB", (8, 4), "black")
    exif = lying.getexif()
    exif[0x0112] = 6
    lying.save(tmp_path / "p.jpg", exif=exif)
    sheet = thumbnail(tmp_path / "p.jpg", 8)
    assert sheet[4, 0].tolist() == WHITE
    assert sheet[0, 4].max() < 20


def test_what_is_no_picture_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    Image.new("1", (40, 40)).save(tmp_path / "bomb.png")
    Image.new("RGB", (30, 30)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    # Pillow would hand such a file to another program
    (tmp_path / "drawing.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    for name in ("bomb.png", "cut.png", "text.png", "empty.png", "drawing.eps"):
        with pytest.raises(ValueError, match=rf"{name}: expected a readable picture"):
            thumbnail(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        thumbnail(tmp_path / "missing.png")
