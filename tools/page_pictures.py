"""Take the pictures of the web page in docs/serve/.

Run as ``python -m tools.page_pictures http://127.0.0.1:8000/ [NAME ...] [--out DIR]`` while ``capgpu serve`` serves a
run that was trained on the emoji; needs Chromium and playwright. Without names it takes ``captions``, ``gallery`` and
``training``, in both colours; ``attention`` is of a run with attention, ``rewards`` of a self-critical one.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

from PIL import Image

from tools.chromium import open_chromium

_VIEWPORT = {"width": 1240, "height": 860}
#: Numbers of the samples that are captioned, the last one on top.
_SAMPLES = (5, 1)


def _save(page: Any, path: Path) -> None:
    """Write what the window shows as a PNG of 256 colours, a quarter of the size."""
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def _show_captions(page: Any) -> None:
    for number in _SAMPLES:
        # the samples are hidden once there is a picture
        page.goto(page.url.partition("#")[0] + "#captions")
        button = page.locator("#samples button").nth(number)
        button.wait_for(state="attached")
        button.evaluate("button => button.click()")
        page.locator(".result .words").first.wait_for()
    page.locator(".result:not(.busy)").nth(len(_SAMPLES) - 1).wait_for()
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")


def _show_attention(page: Any) -> None:
    _show_captions(page)
    page.locator(".result .words button").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")  # as by keyboard, so that the focus is visible


def _show_gallery(page: Any) -> None:
    page.goto(f"{page.url.partition('#')[0]}#gallery")
    page.locator(".entry img").first.wait_for()
    page.wait_for_load_state("networkidle")


def _show_training(page: Any) -> None:
    page.goto(f"{page.url.partition('#')[0]}#training")
    page.locator("#chart svg").wait_for()


#: What shows each picture, and its colours; a picture in one colour has no colour in its name.
_PICTURES = {
    "captions": (_show_captions, ("light", "dark")),
    "gallery": (_show_gallery, ("light", "dark")),
    "training": (_show_training, ("light", "dark")),
    "attention": (_show_attention, ("light",)),
    "rewards": (_show_training, ("light",)),
}


def main() -> None:
    """Parse the command line, open the page, and write its pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(_PICTURES)}")
    parser.add_argument("--out", type=Path, default=Path("docs/serve"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names or ("captions", "gallery", "training"):
        show, schemes = _PICTURES[name]
        for scheme in schemes:
            with open_chromium(viewport=_VIEWPORT, color_scheme=scheme) as browser:
                page = browser.new_page()
                page.goto(options.address)
                show(page)
                page.wait_for_timeout(300)
                _save(page, options.out / (f"{name}-{scheme}.png" if len(schemes) > 1 else f"{name}.png"))


if __name__ == "__main__":
    main()
