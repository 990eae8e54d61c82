"""Take the pictures of the web page in docs/serve/.

Run as ``python -m tools.page_pictures http://127.0.0.1:8000/ [--out DIR]`` while ``capgpu serve`` serves a run that was
trained on the emoji; needs Chromium and playwright.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

from PIL import Image

from tools.chromium import open_chromium

_VIEWPORT = {"width": 1240, "height": 860}


def _save(page: Any, path: Path) -> None:
    """Write what the window shows as a PNG of 256 colours, a quarter of the size."""
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def _caption_samples(page: Any, numbers: tuple[int, ...]) -> None:
    for number in numbers:
        # the samples are hidden once there is a picture
        page.goto(page.url.partition("#")[0] + "#captions")
        button = page.locator("#samples button").nth(number)
        button.wait_for(state="attached")
        button.evaluate("button => button.click()")
        page.locator(".result .words").first.wait_for()
    page.locator(".result:not(.busy)").nth(len(numbers) - 1).wait_for()


def main() -> None:
    """Parse the command line, open the page, and write its pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("--out", type=Path, default=Path("docs/serve"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for scheme in ("light", "dark"):
        with open_chromium(viewport=_VIEWPORT, color_scheme=scheme) as browser:
            page = browser.new_page()
            page.goto(options.address)
            _caption_samples(page, (5, 1))
            page.mouse.move(0, 0)
            page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
            page.wait_for_timeout(300)
            _save(page, options.out / f"captions-{scheme}.png")
            page.goto(f"{options.address}#gallery")
            page.locator(".entry img").first.wait_for()
            page.wait_for_load_state("networkidle")
            _save(page, options.out / f"gallery-{scheme}.png")
            page.goto(f"{options.address}#training")
            page.locator("#chart svg").wait_for()
            page.wait_for_timeout(300)
            _save(page, options.out / f"training-{scheme}.png")


if __name__ == "__main__":
    main()
