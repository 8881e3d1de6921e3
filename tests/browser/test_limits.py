"""No test waits for ever: a page that never answers is ended."""

import pytest
from playwright.sync_api import Browser, Error

from tests.browser.conftest import limited


def test_a_script_that_never_ends_fails_within_its_time(browser: Browser) -> None:
    page = browser.new_page()
    with limited(0.2), pytest.raises(Error, match="closed"):
        page.evaluate("new Promise(() => {})")
