"""The page in a browser, against the shipped model: what is typed is asked, what settles is shown, nothing else is called.

Needs a chromium of the system (DGEMMA_CHROMIUM names another one); without one these tests are skipped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

import dgemma
from tests.server.test_http import Live

CHROMIUM = os.environ.get("DGEMMA_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
]
PATIENCE = 120_000  # ms
PREFIX, SUFFIX = "def area(r):\n    \t", "\n\n# ü 😀 <b>&amp;\nprint(area(2))  \n"


@pytest.fixture(scope="module")
def service() -> Iterator[Live]:
    live = Live(dgemma.load(), keys=("right key".replace(" ", ""),))
    yield live
    live.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no chromium here; apt-get install chromium, or DGEMMA_CHROMIUM=PATH")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture
def page(browser: Any, service: Live) -> Iterator[Any]:
    """A page that has its key; it must not have called anybody else, nor met an error."""
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    asked: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda told: wrong.append(told.text) if "Content Security" in told.text else None)
    page.goto(service.url)
    page.fill(".key input", "rightkey")
    page.keyboard.press("Enter")
    page.wait_for_selector("button.main:enabled")
    yield page
    page.close()
    assert asked and all(url.startswith(service.url) for url in asked) and not wrong, (asked, wrong)


def canvas(page: Any) -> str:
    return page.text_content(".tokens")


def test_a_chat_streams_and_the_scrubber_moves(page: Any) -> None:
    page.click("#tab-chat")
    page.fill("textarea", "<img src=x onerror=alert(1)> hello")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".message.live")
    page.wait_for_selector(".tokens span.noise, .tokens span.draft, .tokens span.accepted")
    page.wait_for_selector(".message.assistant:not(.live)")
    assert page.text_content(
        ".message.user"
    ).strip() == "<img src=x onerror=alert(1)> hello" and not page.query_selector(".message img")
    slider, last = page.locator("#scrubber"), canvas(page)
    steps = int(slider.get_attribute("max"))
    assert steps > 2 and slider.input_value() == str(steps)
    page.focus("#tab-chat")
    page.keyboard.press("Home")
    page.wait_for_function("document.querySelector('#scrubber').value === '0'")
    page.wait_for_function(
        "text => document.querySelector('.tokens').textContent !== text", arg=last
    )  # painted a moment after
    assert page.text_content(".figures dd:nth-child(2) >> nth=1") == "1"
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('#scrubber').value === '1'")
    page.keyboard.press("End")
    page.wait_for_function(f"document.querySelector('#scrubber').value === '{steps}'")
    page.wait_for_function("text => document.querySelector('.tokens').textContent === text", arg=last)


def test_enter_sends_and_shift_enter_breaks_the_line(page: Any) -> None:
    assert page.text_content(".name") == "dgemma" and page.title() == "dgemma – dgemma"
    assert "demo model" in page.text_content(".demo")
    page.click("#tab-chat")
    page.click("details.system summary")
    page.fill("[name=system]", "Be brief.\n")
    page.focus("[name=said]")
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    assert page.input_value("[name=said]") == "one\ntwo" and not page.query_selector(".message")
    page.evaluate("""document.querySelector('[name=said]').dispatchEvent(
        new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true}))""")
    assert not page.query_selector(".message")  # it ends a word of an input method
    with page.expect_request("**/v1/canvas") as sent:
        page.keyboard.press("Enter")
    said = [{"role": "system", "content": "Be brief.\n"}, {"role": "user", "content": "one\ntwo"}]
    assert sent.value.post_data_json["messages"] == said
    page.wait_for_selector(".message.assistant:not(.live)")
    assert page.input_value("[name=said]") == "" and page.input_value("[name=system]") == "Be brief.\n"
    assert page.text_content(".message.user").strip() == "one\ntwo" and page.locator(".message").count() == 2
    page.fill("[name=said]", "three")
    with page.expect_request("**/v1/canvas") as sent:
        page.keyboard.press("Enter")
    roles = [message["role"] for message in sent.value.post_data_json["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    page.keyboard.press("Escape")
    page.click("#tab-complete")
    page.fill("[name=prompt]", "a")
    page.focus("[name=prompt]")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    assert page.input_value("[name=prompt]") == "a\n"  # a text is no message


@pytest.mark.parametrize("width", [1280, 390, 320])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(page: Any, width: int, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    for task in ("chat", "complete", "infill", "edit"):
        page.click(f"#tab-{task}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for name in (".name", ".demo", "button.main"):
            assert page.locator(name).is_visible()


def test_an_infill_keeps_both_sides(page: Any) -> None:
    page.click("#tab-infill")
    page.fill("[name=prefix]", PREFIX)
    page.fill("[name=suffix]", SUFFIX)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("pre.text ins")
    gap, whole = page.text_content("pre.text ins"), page.text_content("pre.text")
    assert whole.encode() == (PREFIX + gap + SUFFIX).encode()
    assert page.locator(".tokens .pinned").count() > 5 and page.locator(".rows button").count() > 1


def test_an_edit_changes_what_is_selected_and_shows_its_diff(page: Any) -> None:
    page.click("#tab-edit")
    document = "# 😀\ndef area(r):\n    return 3\n"
    page.fill("[name=document]", document)
    start = document.encode("utf-16-le").index("3".encode("utf-16-le")) // 2
    page.evaluate(
        f"const box = document.querySelector('[name=document]'); box.focus(); box.setSelectionRange({start}, {start + 1})"
    )
    page.wait_for_selector(f"text=Only characters {start}–{start + 1}")
    with page.expect_request("**/v1/canvas") as sent:
        page.keyboard.press("Control+Enter")
    assert sent.value.post_data_json["spans"] == [[start - 1, start]]  # the service counts characters
    page.wait_for_selector(".diff, .work > p.empty")
    assert page.text_content(".line.gone code") == "    return 3"
    assert (
        page.text_content(".line.new code").startswith("    return ")
        and page.locator(".line mark").count() >= 1
    )
    chosen = page.text_content(".rows [aria-pressed=true]")
    assert "✓" in chosen and page.text_content(".line.new code mark").strip() in canvas(page)
    assert page.locator(".tokens .committed").count() and not page.locator(".tokens .accepted").count()


def test_a_text_that_replaces_the_selection_leaves_none(page: Any) -> None:
    page.click("#tab-edit")
    page.fill("[name=document]", "a long text that was there before\n")
    page.focus("[name=document]")
    page.keyboard.press("Control+A")
    page.wait_for_selector("text=Only characters 0–34 may change")
    page.keyboard.insert_text("short")  # as a paste by the mouse: no key goes up
    page.wait_for_selector("text=Select what may change")


def test_escape_ends_the_request(page: Any, service: Live) -> None:
    page.click("#tab-complete")
    page.click("summary")
    page.fill("[name=max_tokens]", "2000")
    page.focus("[name=prompt]")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".tokens span")
    assert service.open == 1
    page.keyboard.press("Escape")
    page.wait_for_selector("text=stopped")
    for _ in range(100):
        if not service.open:
            break
        page.wait_for_timeout(50)
    assert service.open == 0
