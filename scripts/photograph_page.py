"""Makes the pictures of the page in docs/server.md: an infill, an edit in dark colours, a chat on a small screen.

    python scripts/photograph_page.py [--out docs]

Starts `dgemma serve` with the model that ships, asks what it can do, and takes each picture from a chromium of the
system (DGEMMA_CHROMIUM names another one). Needs the extra `test`. Trap: a picture shows whatever the model answered,
so look at it before it is committed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

DOCS = Path(__file__).resolve().parent.parent / "docs"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
LARGE = {"width": 1280, "height": 640}
SMALL = {"width": 390, "height": 780}
PREFIX = 'def even_numbers(numbers):\n    """Return the even numbers in numbers."""\n'
SUFFIX = "\n\nprint(even_numbers([1, 2, 3, 4]))\n"
LETTER = "Mia likes the brown kite in the shop.\n"


@contextlib.contextmanager
def service() -> Iterator[str]:
    """A service of this interpreter's dgemma on a free port; its address."""
    command = [sys.executable, "-m", "dgemma", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if address := re.search(r"http://\S+:\d+", line):
                    yield address[0]
                    break
        finally:
            process.terminate()


def infill(page: Any) -> None:
    """A gap in the middle of its steps."""
    page.click("#tab-infill")
    page.fill("[name=prefix]", PREFIX)
    page.fill("[name=suffix]", SUFFIX)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("pre.text ins")
    page.locator("#scrubber").focus()
    page.keyboard.press("Home")
    for _ in range(2):
        page.keyboard.press("ArrowRight")


def edit(page: Any) -> None:
    """A document, an instruction and the difference."""
    page.click("#tab-edit")
    page.fill("[name=document]", LETTER)
    page.fill("[name=instruction]", "Replace brown with pink.")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".diff")


def chat(page: Any) -> None:
    """Two turns."""
    page.click("#tab-chat")
    for said in ("What is the opposite of day?", "Translate into German: The tree is old."):
        page.fill("[name=said]", said)
        page.keyboard.press("Enter")
        page.wait_for_selector(".message.live")
        page.wait_for_selector(".message.live", state="detached")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DOCS)
    folder = parser.parse_args().out
    chromium = os.environ.get("DGEMMA_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    pictures = [("light", LARGE, infill), ("dark", LARGE, edit), ("small", SMALL, chat)]
    with service() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        for name, size, act in pictures:
            scheme = "dark" if name == "dark" else "light"
            page = browser.new_page(viewport=size, color_scheme=scheme)
            page.goto(url)
            page.wait_for_selector("button.main:enabled")
            act(page)
            page.wait_for_timeout(500)
            page.screenshot(path=folder / f"page-{name}.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
