"""The page of the shipped neural head in a headless Chromium: it connects, shows a head, and another one on request."""

import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ("--no-sandbox", "--disable-background-networking", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")


@pytest.fixture
def page():
    pytest.importorskip("viser")
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "launch.view", "--port", str(port), "--resolution", "48"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for line in server.stdout:
            if str(port) in line:
                break
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            opened = browser.new_page(viewport={"width": 900, "height": 600})
            opened.goto(f"http://localhost:{port}/")
            yield opened
            browser.close()
    finally:
        server.kill()
        server.wait()


def head(page, path):
    """The page's left part as gray values, once it shows something dark."""
    for _ in range(60):
        page.wait_for_timeout(1000)
        page.screenshot(path=path)
        gray = np.asarray(Image.open(path).convert("L"))[160:520, :500]
        if (gray < 200).sum() > 2000:
            return gray.astype(int)
    raise AssertionError("no head is shown")


def test_head_is_shown_and_changed(page, tmp_path):
    first = head(page, tmp_path / "mean.png")
    page.get_by_text("random person").click()
    for _ in range(60):
        other = head(page, tmp_path / "random.png")
        if np.abs(other - first).max() > 60:
            return
    raise AssertionError("the head stays as it was")
