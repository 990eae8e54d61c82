"""The page in Chromium: pictures dropped, pasted, chosen and taken; by keyboard and by the accessibility tree."""

from __future__ import annotations

import base64
import importlib.util
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oracles.http import Client, serving
from oracles.squares import picture_file
from tools.chromium import find_chromium, open_chromium

pytest.importorskip("uvicorn")

pytestmark = [
    pytest.mark.skipif(find_chromium() is None, reason="needs Chromium: apt-get install chromium"),
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="needs playwright: pip install it"),
]

#: Puts a file on the page, as the browser does for a user who drops or pastes it.
GIVE = """([kind, name, type, content]) => {
    const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], name, { type }));
    const options = { bubbles: true, cancelable: true };
    const event = kind === "paste"
        ? new ClipboardEvent(kind, { ...options, clipboardData: data })
        : new DragEvent(kind, { ...options, dataTransfer: data });
    (document.activeElement ?? document.body).dispatchEvent(event);
}"""


class Page:
    """A page, with all that its console and its requests complained of."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        self.complaints: list[str] = []
        page.on("console", lambda message: self._note(message.type, message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self._check(request.url))

    def _note(self, kind: str, text: str) -> None:
        # the browser itself logs each answer with an error, which tests provoke
        if kind in ("error", "warning") and "Failed to load resource" not in text:
            self.complaints.append(text)

    def _check(self, url: str) -> None:
        if not url.startswith((self.address, "blob:")):
            self.complaints.append(f"a request to {url}")

    def give(self, kind: str, name: str, content: bytes, media_type: str = "image/png") -> None:
        self.page.evaluate(GIVE, [kind, name, media_type, base64.b64encode(content).decode()])

    def item(self, name: str) -> Any:
        return self.page.get_by_role("listitem", name=name, exact=True)

    def sentence(self, name: str) -> str:
        text: str = self.item(name).locator(".sentence").inner_text()
        return text


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_chromium(viewport={"width": 1200, "height": 900}, permissions=["camera"]) as opened:
        opened.set_default_timeout(20_000)
        yield opened


@pytest.fixture
def page(browser: Any, client: Client) -> Iterator[Page]:
    address = f"http://127.0.0.1:{client.port}/"
    opened = browser.new_page()
    made = Page(opened, address)
    opened.goto(address)
    opened.locator("#facts").filter(has_text="LSTM").wait_for()
    yield made
    assert made.complaints == []
    opened.close()


def test_pictures_come_in_every_way_and_are_captioned(page: Page, tmp_path: Path) -> None:
    page.give("drop", "dropped.png", picture_file("red"))
    assert page.sentence("dropped.png") == "a red square"
    page.give("paste", "pasted.png", picture_file("green"))
    assert page.sentence("pasted.png") == "a green square"
    files = [tmp_path / "one.png", tmp_path / "two.jpg"]
    for file, colour in zip(files, ("blue", "black"), strict=True):
        file.write_bytes(picture_file(colour, "JPEG" if file.suffix == ".jpg" else "PNG"))
    with page.page.expect_file_chooser() as chooser:
        page.page.get_by_role("button", name="Choose pictures").press("Enter")
    chooser.value.set_files(files)
    assert page.sentence("one.png") == "a blue square"
    assert page.sentence("two.jpg") == "a black square"
    page.page.get_by_role("button", name="Use camera").click()
    page.page.get_by_role("dialog", name="Camera").get_by_role("button", name="Take picture").click()
    page.item("Camera picture").locator(".sentence").wait_for()
    assert page.page.get_by_role("heading", name="5 pictures").is_visible()
    page.page.get_by_role("button", name="Caption test picture 0").wait_for(state="detached")
    page.page.get_by_role("button", name="Remove two.jpg").press("Enter")
    page.item("two.jpg").wait_for(state="detached")
    assert page.page.evaluate("document.activeElement.textContent") == "Remove"
    page.page.get_by_role("button", name="Remove all").click()
    page.page.get_by_role("button", name="Caption test picture 0").click()
    page.item("test picture 0").locator(".sentence").wait_for()


def test_beams_and_words_are_shown_with_their_probabilities(page: Page) -> None:
    page.give("drop", "red.png", picture_file("red"))
    item = page.item("red.png")
    assert page.sentence("red.png") == "a red square"
    words = item.get_by_role("list", name="Words with their probabilities").get_by_role("listitem")
    shown = [text.split() for text in words.all_inner_texts()]
    assert [word for word, _ in shown] == ["a", "red", "square", "end"]
    assert all(re.fullmatch(r"<?[\d.]+%", value) for _, value in shown)
    beams = item.get_by_role("list", name="Captions, the most probable first").get_by_role("button")
    assert beams.count() == 5
    assert beams.nth(0).get_attribute("aria-pressed") == "true"
    beams.nth(1).press("Enter")
    assert beams.nth(1).get_attribute("aria-pressed") == "true"
    assert page.sentence("red.png") == beams.nth(1).locator(".text").inner_text() != "a red square"
    assert "probability" in page.page.locator("#caption-status").inner_text()


def test_words_show_where_the_model_looked(browser: Any, attentive_client: Client) -> None:
    opened = browser.new_page()
    page = Page(opened, f"http://127.0.0.1:{attentive_client.port}/")
    opened.goto(page.address)
    opened.locator("#facts").filter(has_text="LSTM with attention").wait_for()
    page.give("drop", "red.png", picture_file("red", size=(40, 20)))
    item = page.item("red.png")
    canvas = item.locator(".attended canvas")
    words = item.get_by_role("list", name="Words with their probabilities").get_by_role("button")
    words.first.wait_for()
    assert not canvas.is_visible()
    words.nth(1).hover()
    assert canvas.is_visible()
    # the encoder crops: left and right of the middle square all is shaded, in the square the heaviest cell is not
    alphas = canvas.evaluate("""canvas => {
        const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        const at = (x, y) => data[4 * (Math.floor(y * height) * width + Math.floor(x * width)) + 3];
        const middle = [0.375, 0.625].flatMap((x) => [0.25, 0.75].map((y) => at(x, y)));
        return [at(0.1, 0.5), at(0.9, 0.5), Math.min(...middle)];
    }""")
    assert alphas[:2] == [209, 209]  # 0.82 of 255
    assert alphas[2] < 100
    opened.mouse.move(0, 0)
    assert not canvas.is_visible()
    assert words.nth(0).get_attribute("tabindex") == "0"
    words.nth(0).focus()
    assert canvas.is_visible()
    opened.keyboard.press("ArrowRight")
    assert words.nth(1).evaluate("button => button === document.activeElement && button.tabIndex === 0")
    assert re.search(r"looked at: (top|bottom) (left|right)", words.nth(1).inner_text())
    opened.keyboard.press("Escape")
    assert not canvas.is_visible()
    opened.keyboard.press("End")
    assert canvas.is_visible()
    opened.keyboard.press("Tab")
    assert not canvas.is_visible()
    assert item.locator(".beams button").first.evaluate("button => button === document.activeElement")
    assert page.complaints == []
    opened.close()


def test_sliders_are_moved_by_keyboard(page: Page) -> None:
    page.give("drop", "red.png", picture_file("red"))
    item = page.item("red.png")
    item.locator(".sentence").wait_for()
    slider = page.page.get_by_role("slider", name="Beam width")
    slider.focus()
    slider.press("ArrowLeft")
    slider.press("ArrowLeft")
    item.locator(".beams li").nth(3).wait_for(state="detached")
    assert item.locator(".beams li").count() == 3
    assert page.page.locator("#beam-value").inner_text() == "3"
    with page.page.expect_request(lambda request: "temperature=1.2" in request.url):
        temperature = page.page.get_by_role("slider", name="Temperature")
        temperature.focus()
        temperature.press("ArrowRight")
        temperature.press("ArrowRight")
    item.get_by_role("list", name="Captions, the most probable first").wait_for()
    assert page.page.get_by_role("radio", name="At random").is_checked()
    with page.page.expect_request(re.compile("seed=[1-9]")):
        page.page.get_by_role("button", name="Draw again").press("Enter")


@pytest.mark.parametrize(
    ("name", "content", "media_type", "words"),
    [
        ("notes.txt", b"no picture at all", "text/plain", "not a picture"),
        ("half.png", picture_file("red", size=(400, 400))[:500], "image/png", "cannot be decoded"),
        ("large.png", b"\x89PNG" + bytes(300_000), "image/png", "too large"),
        ("<img src=x onerror=alert(1)>.png", b"x", "image/png", "not a picture"),
    ],
)
def test_a_bad_picture_is_explained_where_it_would_be(
    page: Page, name: str, content: bytes, media_type: str, words: str
) -> None:
    page.give("drop", name, content, media_type)
    page.item(name).locator(".error").filter(has_text=words).wait_for()
    page.give("drop", "good.png", picture_file("blue"))
    assert page.sentence("good.png") == "a blue square"


def test_the_gallery_is_searched_and_ordered(page: Page) -> None:
    page.page.get_by_role("link", name="Gallery").click()
    cards = page.page.get_by_role("list", name="Pictures").locator("li")
    page.page.get_by_text("8 of 8 pictures shown.").wait_for()
    assert "no such thing as this <b> picture </b>" in cards.nth(0).inner_text()  # the worst, as text
    page.page.get_by_label("Search").fill("red square")
    page.page.get_by_text("2 of 2 pictures shown").wait_for()
    assert all("a red square" in text for text in cards.all_inner_texts())
    page.page.get_by_label("Search").fill("")
    page.page.get_by_role("radio", name=re.compile("Other words")).check(force=True)
    page.page.get_by_text("1 of 1 picture shown").wait_for()
    page.page.get_by_role("radio", name=re.compile("All")).check(force=True)
    page.page.get_by_label("Order").select_option("Best first")
    cards.nth(0).get_by_text("word for word").wait_for()
    page.page.get_by_label("Split").select_option("val")
    page.page.locator("#split-note").filter(has_text="8 pictures").wait_for()
    assert page.page.evaluate("[...document.images].every((image) => image.alt !== null)")


def test_the_curve_is_read_by_keyboard_and_as_a_table(page: Page) -> None:
    page.page.get_by_role("link", name="Training").click()
    chart = page.page.get_by_role("group", name="Loss per word")
    assert "Best validation loss" in chart.get_by_role("img").get_attribute("aria-label")
    assert page.page.get_by_role("status").filter(has_text="Finished").is_visible()
    chart.press("Home")
    assert page.page.locator("#chart-readout").inner_text().startswith("Epoch 1, training ")
    chart.press("End")
    assert page.page.locator("#chart-readout").inner_text().startswith("Epoch 40, training ")
    page.page.get_by_text("All epochs as a table").click()
    assert page.page.get_by_role("row").count() == 41


def test_rewards_of_self_critical_training_are_a_curve_of_their_own(browser: Any, self_critical: Path) -> None:
    from capgpu.serve.app import create_app
    from capgpu.serve.service import Service
    from capgpu.training.run_folder import RunFolder

    with serving(create_app(Service(RunFolder(self_critical)))) as client, browser.new_page() as page:
        page.goto(f"http://127.0.0.1:{client.port}/#training")
        chart = page.get_by_role("group", name="Reward of drawn captions")
        assert re.match(r"After epoch 2: reward \d", chart.get_by_role("img").get_attribute("aria-label"))
        chart.press("Home")
        assert re.match(r"Epoch 1, reward \d", page.locator("#reward-readout").inner_text())
        assert chart.locator(".line.training").get_attribute("d").count("L") == 1
        page.locator(".tile").filter(has_text="Best CIDEr").wait_for()
        losses = page.get_by_role("group", name="Loss per word")
        assert (losses.locator(".line.training").get_attribute("d"), losses.locator(".best").count()) == ("", 0)
        page.get_by_text("All epochs as a table").click()
        assert page.get_by_role("row").all_inner_texts()[0].split("\t") == ["Epoch", "Reward", "Validation loss"]


def test_the_curve_grows_while_the_run_is_trained(browser: Any, training: Path, squares: Path) -> None:
    from capgpu.serve.app import create_app
    from capgpu.serve.service import Service
    from capgpu.training.run_folder import RunFolder

    lines = (squares / "history.jsonl").read_text().splitlines(keepends=True)
    half = next(i for i, line in enumerate(lines) if '"kind": "epoch"' in line and '"epoch": 20' in line) + 1
    record = training / "history.jsonl"
    record.write_text("".join(lines[:half]))
    with serving(create_app(Service(RunFolder(training)))) as client, browser.new_page() as page:
        page.goto(f"http://127.0.0.1:{client.port}/")
        page.locator("#model-missing").filter(has_text="when training has finished").wait_for()
        page.get_by_role("link", name="Training (in progress)").click()
        page.get_by_role("status").filter(has_text="Training").wait_for()
        page.locator(".tile").filter(has_text="20of 40").wait_for()
        before = page.locator(".line.training").get_attribute("d")
        record.write_text("".join(lines))
        page.get_by_role("status").filter(has_text="Finished").wait_for()
        page.locator(".tile").filter(has_text="40of 40").wait_for()
        after = page.locator(".line.training").get_attribute("d")
        assert (before.count("L"), after.count("L")) == (19, 39)
        shutil.copy(squares / "model.safetensors", training)
        page.get_by_role("link", name="Captions").click()
        page.get_by_role("button", name="Caption test picture 0").wait_for()


def test_colours_follow_the_system_and_the_choice(page: Page) -> None:
    def lightness() -> float:
        channels: list[float] = page.page.evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).map(Number)"
        )
        return sum(channels[:3]) / 3

    page.page.emulate_media(color_scheme="light")
    assert lightness() > 200
    page.page.emulate_media(color_scheme="dark")
    assert lightness() < 60
    page.page.get_by_role("radio", name="Light").check(force=True)
    page.page.reload()
    assert lightness() > 200
    page.page.get_by_role("radio", name="Auto").check(force=True)
    page.page.emulate_media(color_scheme=None)


#: Contrast of each text with its background (WCAG 2, 1.4.3), and controls without a name.
EXAMINE = """() => {
    const channels = (colour) => {
        const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const luminance = ([r, g, b]) => [r, g, b]
        .map((value) => value / 255)
        .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
        .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = channels(getComputedStyle(at).backgroundColor);
            if (colour[3] > 250) return colour;
        }
        return [255, 255, 255];
    };
    const faults = [];
    for (const element of document.querySelectorAll("body *")) {
        const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (!text || !element.checkVisibility() || element.closest(":disabled, .hidden, svg")) continue;
        const pair = [channels(getComputedStyle(element).color), ground(element)].map(luminance);
        const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
        if (contrast < 4.5) faults.push(`${contrast.toFixed(2)}: ${element.className} ${element.textContent}`);
    }
    return faults;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_and_controls_have_names(page: Page, scheme: str) -> None:
    page.page.emulate_media(color_scheme=scheme)
    page.give("drop", "red.png", picture_file("red"))
    page.item("red.png").locator(".sentence").wait_for()
    for view in ("captions", "gallery", "training"):
        page.page.goto(f"{page.address}#{view}")
        page.page.wait_for_load_state("networkidle")
        assert page.page.evaluate(EXAMINE) == []
        tree = page.page.locator("body").aria_snapshot()
        for role in ("button", "link", "slider", "radio", "searchbox", "combobox", "checkbox", "heading"):
            assert not re.search(rf"- {role}\s*(\[|$|:)", tree, flags=re.M), f"a {role} without a name in {view}"
        assert page.page.locator("h1:visible").count() == 1
    page.page.emulate_media(color_scheme=None)


def test_the_page_is_used_by_the_tab_key_alone(page: Page) -> None:
    reached = []
    for _ in range(12):
        page.page.keyboard.press("Tab")
        reached.append(page.page.evaluate("document.activeElement.textContent.trim() || document.activeElement.id"))
    for name in ("Skip to content", "Captions", "Gallery", "Choose pictures", "Use camera", "beam", "temperature"):
        assert name in reached, reached
    page.page.keyboard.press("Shift+Tab")
    outline = page.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"


def test_a_narrow_window_needs_no_sideways_scrolling(page: Page) -> None:
    page.page.set_viewport_size({"width": 360, "height": 700})
    page.give("drop", "red.png", picture_file("red"))
    page.item("red.png").locator(".sentence").wait_for()
    for view in ("captions", "gallery", "training"):
        page.page.goto(f"{page.address}#{view}")
        page.page.wait_for_load_state("networkidle")
        assert page.page.evaluate("document.documentElement.scrollWidth") <= 360, view
