"""Chromium for tests of the pages: start it, show a page in it, and use it as a person does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--enable-precise-memory-info",
)


def start_chromium(profile: Path) -> webdriver.Chrome:
    """A headless browser with a profile of its own."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.fail(
            "no chromium with chromedriver: apt-get install chromium chromium-driver, or HEMAX_NO_BROWSER=1"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    session = webdriver.Chrome(options=options, service=Service(driver))
    session.set_script_timeout(60)
    return session


def show(browser, path: Path, width: int = 1440, height: int = 900, dark: bool = False) -> None:
    """Open a file in a window of this size."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    browser.get(path.as_uri())


def press(browser, *keys: str) -> None:
    """One key after the other, to whatever has the focus."""
    for key in keys:
        ActionChains(browser).send_keys(key).perform()


def chord(browser, modifier: str, *keys: str) -> None:
    """Keys while a modifier is held."""
    ActionChains(browser).key_down(modifier).send_keys(*keys).key_up(modifier).perform()


def into_grid(browser) -> None:
    """From the control before the grid to the chosen cell, by the Tab key."""
    browser.execute_script("document.getElementById('gallery').focus()")
    press(browser, Keys.TAB)


def js(browser, expression: str, *arguments):
    """The value of an expression in the page."""
    return browser.execute_script(f"return {expression}", *arguments)


def text(browser, css: str) -> str:
    """The text of the first element that matches."""
    return js(browser, "document.querySelector(arguments[0]).textContent.trim()", css)
