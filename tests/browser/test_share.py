"""What visitors take along: a link with the same picture and rows, the table as text, as a file, and on paper."""

import csv
import io
import json
from pathlib import Path

import PIL.Image
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenPage, finished_rows, wait_until
from tests.browser.test_page import settled, shoe_photo, upload
from tests.serving import Service

GIVEN = "#compare?picture=2&models=keras_cnn&sort=size&rows=tf"


@pytest.fixture
def page(open_page: OpenPage, service: Service) -> Page:
    """The page as a link opens it."""
    opened = open_page(service, path=f"/{GIVEN}")
    opened.context.grant_permissions(["clipboard-read", "clipboard-write"])
    finished_rows(opened, "test image 2")
    settled(opened)
    return opened


def shown(page: Page) -> list[str]:
    rows: list[str] = page.locator("[data-row]").evaluate_all("(rows) => rows.map(({ dataset }) => dataset.row)")
    return rows


def copied(page: Page, button: str) -> str:
    page.get_by_role("button", name=button, exact=True).click()
    expect(page.get_by_test_id("shared")).to_contain_text("Copied")
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text


def test_a_link_opens_the_same_picture_rows_and_order(page: Page, tmp_path: Path) -> None:
    rows = shown(page)
    assert rows and all(row.startswith("keras_cnn-tf") for row in rows)
    sizes = page.locator("[data-cell=bytes]").evaluate_all(
        "(cells) => cells.map((cell) => cell.title.replaceAll(',', ''))"
    )
    assert sorted(map(int, sizes)) == list(map(int, sizes))
    assert copied(page, "Copy link") == page.evaluate("location.href")

    lines = copied(page, "Markdown").splitlines()
    assert lines[0].startswith("| Row | Status | Answer |") and len(lines) == len(rows) + 2
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == rows

    with page.expect_download() as download:
        page.get_by_role("button", name="CSV", exact=True).click()
    download.value.save_as(tmp_path / "rows.csv")
    head, *body = csv.reader(io.StringIO((tmp_path / "rows.csv").read_text()))
    assert head[3:5] == ["Time (ms)", "Size (B)"] and [line[0] for line in body] == rows
    assert all(float(line[3]) > 0 for line in body)

    with page.expect_download() as download:
        page.get_by_role("button", name="PNG", exact=True).click()
    download.value.save_as(tmp_path / "rows.png")
    with PIL.Image.open(tmp_path / "rows.png") as picture:
        assert picture.width > 800 and picture.height == 2 * 30 * (len(rows) + 2.5)
        assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 10, "there are letters on it"

    page.get_by_label("Filter rows").fill("LITERT")
    assert shown(page) == ["keras_cnn-tflite@litert-wasm"]
    page.get_by_label("Filter rows").fill("")
    assert len(shown(page)) > len(rows)


def test_a_visitor_s_own_picture_is_in_no_link(page: Page) -> None:
    upload(page, "shoe.png", shoe_photo("PNG"))
    finished_rows(page, "shoe.png")
    assert "picture=" not in copied(page, "Copy link")
    expect(page.get_by_test_id("shared")).to_contain_text("but not your picture")
    settled(page)


def test_where_the_clipboard_is_refused_the_text_is_there_to_copy(open_page: OpenPage, service: Service) -> None:
    page = open_page(service, path="/?idle")
    wait_until(page, "document.documentElement.dataset.ready")
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')); }")
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_test_id("shared")).to_contain_text("Not copied")
    assert page.get_by_label("To copy").input_value().startswith(f"{service.url}/")


def test_on_paper_there_is_what_was_found_and_no_buttons(page: Page) -> None:
    page.emulate_media(media="print")
    for name in ("Copy link", "Print"):
        expect(page.get_by_role("button", name=name)).to_be_hidden()
    expect(page.locator(".views")).to_be_hidden()
    expect(page.locator(".summary")).to_be_visible()
    expect(page.locator("[data-row]").first).to_be_visible()


def test_an_address_with_unknown_names_is_taken_as_far_as_it_can_be(open_page: OpenPage, service: Service) -> None:
    page = open_page(service, path="/?idle#compare?models=none,torch_cnn&sort=moon&picture=99999")
    wait_until(page, "document.documentElement.dataset.ready")
    assert {row.partition("-")[0] for row in shown(page)} == {"torch_cnn"}
    assert json.loads(page.evaluate("JSON.stringify([...document.querySelectorAll('[aria-sort=ascending]')])")) == []
