"""The app in headless Chromium, on a tiny model of random weights (make test-browser)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compose.regions import Mask
from compose_app.metadata import read_recipe
from tests.app.ui.conftest import PATIENCE, SHOTS, Served

pytestmark = pytest.mark.skipif(
    not os.environ.get("LORA_COMPOSE_BROWSER"), reason="drives a browser: make test-browser"
)
Open = Callable[[], Any]


@pytest.fixture
def page(served: Served, browser: Any, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Open windows, each a browser of its own. At the end: nothing was asked of other machines, no
    error stands in a console, and a screenshot of each is kept.
    """
    opened: list[Any] = []
    trouble: list[str] = []

    def note(sent: Any) -> None:
        if not sent.url.startswith((served.url, "data:", "blob:")):
            trouble.append(sent.url)

    def open_window() -> Any:
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        context.set_default_timeout(PATIENCE * 1000)
        window = context.new_page()
        window.on("request", note)
        window.on("pageerror", lambda error: trouble.append(str(error)))
        window.goto(served.url)
        window.wait_for_selector("#go")
        opened.append(window)
        return window

    yield open_window
    SHOTS.mkdir(parents=True, exist_ok=True)
    for number, window in enumerate(opened):
        name = request.node.name.removeprefix("test_")
        window.screenshot(path=SHOTS / f"{name}-{number}.png", full_page=True)
        window.context.close()
    assert trouble == []


def ask(window: Any, prompt: str, *, steps: int = 2, seed: int | None = None) -> None:
    """Fill the page in."""
    window.fill("#prompt textarea", prompt)
    window.get_by_label("Steps").first.fill(str(steps))
    if seed is not None:
        window.fill("#seed textarea, #seed input", str(seed))


def choose(window: Any, selector: str, word: str) -> None:
    """Choose from a list by typing."""
    window.click(f"{selector} input")
    window.keyboard.press("Control+a")
    window.keyboard.type(word)
    window.locator("ul[role=listbox] li", has_text=word).first.click()


def status(window: Any, words: str, selector: str = "#status") -> str:
    """Wait until a status says something; all that it says then."""
    window.locator(selector, has_text=re.compile(words)).wait_for()
    return str(window.inner_text(selector))


def generate(window: Any, words: str = "1 picture saved") -> str:
    window.click("#go")
    return status(window, words)


def newest(served: Served, pattern: str = "*.png") -> Path:
    return max(served.out.glob(pattern), key=lambda path: path.stat().st_mtime_ns)


def test_a_picture_is_made_and_saved_with_its_recipe(page: Open, served: Served) -> None:
    window = page()
    ask(window, "mochi cat <lora:tiny_two:0.5>", seed=11)
    choose(window, "#adapters", "tiny_one")
    window.wait_for_selector("#slot-0")
    generate(window)
    request = read_recipe(newest(served, "11-merge-*.png")).request
    assert request.prompt == "mochi cat" and request.seeds == (11,) and request.steps == 2
    assert {use.name: use.weight for use in request.adapters} == {"tiny_one": 1, "tiny_two": 0.5}
    window.wait_for_selector("#picture img")


def test_cancelled_between_steps_and_ready_again(page: Open, served: Served) -> None:
    window = page()
    ask(window, "cat", steps=900, seed=21)
    window.get_by_label("Pictures").first.fill("16")  # more than it can make before the click
    window.click("#go")
    window.wait_for_selector("#status .fill")
    window.click("#stop")
    told = re.search(r"cancelled; (\d+) picture", status(window, "cancelled"))
    kept = list(served.out.glob("2[0-9]-*.png")) + list(served.out.glob("3[0-6]-*.png"))
    assert told is not None and len(kept) == int(told[1]) < 16
    ask(window, "cat", steps=2, seed=91)
    window.get_by_label("Pictures").first.fill("1")
    generate(window)
    assert read_recipe(newest(served, "91-*.png")).request.steps == 2


def test_a_painted_mask_becomes_the_region(page: Open, served: Served) -> None:
    window = page()
    ask(window, "mochi cat", seed=71)
    choose(window, "#adapters", "tiny_one")
    window.wait_for_selector("#slot-0")
    choose(window, "#method", "Regional")
    window.get_by_role("tab", name="Regions").click()
    window.wait_for_selector("#canvas canvas")
    window.locator("#paint-for label", has_text="tiny_one").wait_for()
    window.locator("#canvas").get_by_role("button", name=re.compile("brush", re.I)).first.click()
    box = window.locator("#canvas canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    window.mouse.move(x - 60, y)
    window.mouse.down()
    for step in range(1, 9):
        window.mouse.move(x - 60 + step * 6, y)
    window.mouse.up()
    window.click("#keep-mask")
    status(window, "mask of tiny_one is kept", "#mask-status")
    window.wait_for_selector("#overlay img")
    SHOTS.mkdir(parents=True, exist_ok=True)
    window.screenshot(path=SHOTS / "regions.png", full_page=True)
    window.get_by_role("tab", name="Picture").click()
    generate(window)
    region = read_recipe(newest(served, "71-regional-*.png")).request.adapters[0].region
    assert isinstance(region, Mask)
    assert 0 < sum(region.pixels) < 255 * len(region.pixels)


def test_methods_are_compared_side_by_side(page: Open, served: Served) -> None:
    window = page()
    ask(window, "mochi cat", seed=41)
    choose(window, "#adapters", "tiny_one")
    window.wait_for_selector("#slot-0")
    window.get_by_role("tab", name="Compare").click()
    window.click("#sheet-go")
    status(window, "4 pictures saved", "#sheet-status")
    window.wait_for_selector("#sheet img")
    made = {path.name.split("-")[1] for path in served.out.glob("41-*.png")}
    assert made == {"base", "tiny_one", "merge", "composite", "grid"}
    assert {read_recipe(p).request.seeds for p in served.out.glob("41-[bmct]*.png")} == {(41,)}


def test_every_setting_comes_back_from_a_png(page: Open, served: Served) -> None:
    first = page()
    ask(first, "mochi cat", steps=3, seed=51)
    choose(first, "#adapters", "tiny_one")
    first.wait_for_selector("#slot-0")
    choose(first, "#method", "Switch")
    generate(first)
    before = read_recipe(newest(served, "51-switch-*.png"))
    second = page()
    second.set_input_files("#recall input[type=file]", newest(served, "51-switch-*.png"))
    status(second, "settings of")
    second.wait_for_selector("#slot-0")
    assert second.input_value("#prompt textarea") == "mochi cat"
    generate(second)
    again = max(served.out.glob("51-switch-*.png"), key=lambda p: p.stat().st_mtime_ns)
    after = read_recipe(again)
    assert len(list(served.out.glob("51-switch-*.png"))) == 2
    assert after == before


def test_two_users_at_once_get_their_own_pictures(page: Open, served: Served) -> None:
    windows = [page(), page()]
    for window, seed in zip(windows, (61, 62), strict=True):
        ask(window, "cat", steps=100, seed=seed)
    for window in windows:
        window.click("#go")
    for window, seed in zip(windows, (61, 62), strict=True):
        status(window, "1 picture saved")
        window.locator("#shots", has_text=f"seed {seed}").wait_for()
        assert f"seed {123 - seed}" not in window.inner_text("#shots")


def test_mistakes_are_told_in_a_sentence(page: Open, tmp_path: Path) -> None:
    window = page()
    ask(window, "mochi cat <lora:nobody:1>")
    told = generate(window, "no adapter is called")
    assert "Traceback" not in told and "tiny_one" in told
    bare = tmp_path / "bare.png"
    from PIL import Image

    Image.new("RGB", (8, 8)).save(bare)
    window.set_input_files("#recall input[type=file]", bare)
    status(window, "bare.png was given and carries none")


def test_a_bad_upload_is_refused_and_the_page_goes_on(page: Open, tmp_path: Path) -> None:
    window = page()
    bad = tmp_path / "picture.png"
    bad.write_bytes(b"#!/bin/sh\n" + bytes(200))
    window.set_input_files("#recall input[type=file]", bad)
    window.get_by_text("expected PNG, JPEG, WebP or safetensors").first.wait_for()
    ask(window, "cat", seed=81)
    generate(window)


def test_tags_are_completed_from_the_library(page: Open) -> None:
    window = page()
    window.click("#prompt textarea")
    window.keyboard.type("cat <lora:tw")
    window.wait_for_selector(".completions .on")
    window.keyboard.press("Enter")
    assert window.input_value("#prompt textarea") == "cat <lora:tiny_two:1>"


def test_it_is_readable_on_a_narrow_screen(page: Open) -> None:
    window = page()
    window.set_viewport_size({"width": 420, "height": 900})
    window.wait_for_selector("#go")
    assert window.evaluate("document.documentElement.scrollWidth") <= 420
