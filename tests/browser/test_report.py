"""The report made explorable: what is recommended follows the sliders, by the rule of `make compare`."""

import base64
import dataclasses
import json
from dataclasses import asdict

import pytest
from playwright.sync_api import Page, Route, expect

from compare.figures import Missing
from compare.recommend import recommend
from compare.report import Constraints, FlippedPicture, Report
from contract.parity_result import ORDINARY
from contract.placement import Placement
from tests.browser.conftest import OpenPage, wait_until
from tests.reports import PROOF, report_of, row
from tests.serving import Service

PICTURE = FlippedPicture(
    42, 1, base64.b64encode(b"not looked at").decode(), "Bag", "Bag", "Shirt", 1e-5, 1e-5, near_tie=True
)
PLACEMENT = Placement("XNNPACK", 8, 9, 2, is_loaded=True)
DIFFERENCE = "with a picture that is black, probabilities is nan instead of 0.03"


def flipped() -> Report:
    """A source, three that fit, one that failed its parity, and two for browsers."""
    wrong, its_row = row("m-onnx", ms=0.2, mb=5, same=9_900, verdict="the largest difference is 0.3")
    placed, placed_row = row("m-tflite", ms=0.8, mb=130)
    ordinary, ordinary_row = row("m-savedmodel", ms=2, mb=40)
    return report_of(
        row("m-keras", ms=10, mb=1500),
        (dataclasses.replace(wrong, flips=(PICTURE,), flip_count=100, status="unverified"), its_row),
        (dataclasses.replace(placed, placements=(PLACEMENT,), arm=PROOF), placed_row),
        (dataclasses.replace(ordinary, status=ORDINARY, differs=(DIFFERENCE,)), ordinary_row),
        row("m-tfjs", ms=5, mb=20, runtime="tfjs-wasm", where="browser"),
    )


@pytest.fixture
def page(open_page: OpenPage, service: Service) -> Page:
    return open_report(open_page, service, flipped())


def open_report(open_page: OpenPage, service: Service, report: Report | None) -> Page:
    def answer(route: Route) -> None:
        route.fulfill(content_type="application/json", body=json.dumps(report and asdict(report)))

    page = open_page(service, lambda page: page.route("**/report/report.json", answer), path="/?idle#report")
    page.locator(".reporting").first.wait_for()
    return page


def slide(page: Page, name: str, step: int) -> None:
    page.get_by_role("slider", name=name).fill(str(step))


def chosen(page: Page) -> str:
    return page.locator(".verdict").get_attribute("data-choice") or ""


def test_sliders_recompute_the_recommendation_at_once(page: Page) -> None:
    report = flipped()
    choice = recommend(report, "server", Constraints()).choice
    assert choice and chosen(page) == choice
    expect(page.locator(".verdict")).to_contain_text(f"Ship {choice}: 2.00 ms per picture, 40.0 MB, accuracy 90.00 %.")

    slide(page, "Maximum time", 40)
    value, unit = (page.get_by_role("slider", name="Maximum time").get_attribute("aria-valuetext") or "").split()
    limit = float(value) * {"µs": 1e-3, "ms": 1}[unit]
    assert 0.8 < limit < 2
    assert chosen(page) == recommend(report, "server", Constraints(max_ms=limit)).choice == "m-tflite@server"

    slide(page, "Maximum size", 30)
    expect(page.locator(".verdict")).to_contain_text("No row meets these limits.")
    expect(page.locator(".verdict")).to_contain_text("Allow 130 MB to get m-tflite@server.")
    expect(page.locator("[data-candidate='m-tflite@server']")).to_contain_text("✗")


def test_a_share_of_kept_classes_lets_in_what_parity_keeps_out(page: Page) -> None:
    expect(page.locator("[data-candidate='m-onnx@server']")).to_contain_text("✗")
    slide(page, "Minimum agreement", 2)
    assert chosen(page) == recommend(flipped(), "server", Constraints(min_agreement=0.99)).choice == "m-onnx@server"


def test_each_target_has_its_own_rows_and_its_plots(page: Page) -> None:
    page.get_by_label("Where it will run").select_option("browser")
    assert chosen(page) == "m-tfjs@tfjs-wasm"
    assert page.locator("[data-candidate]").count() == 1
    page.get_by_label("Where it will run").select_option("ios")
    expect(page.get_by_text("No phone was measured")).to_be_visible()
    wait_until(page, "document.querySelectorAll('.chart svg').length === 2")
    assert page.locator(".chart").first.locator("circle").count() >= 2, "each candidate is a dot"


def test_parity_and_flipped_pictures_are_shown(page: Page) -> None:
    expect(page.locator("[data-parity='m-onnx']")).to_contain_text("the largest difference is 0.3")
    expect(page.locator("[data-parity='m-tflite']")).to_contain_text("passed")
    expect(page.locator("[data-parity='m-tflite']")).to_contain_text(str(PLACEMENT))
    expect(page.locator("[data-parity='m-tflite']").get_by_text("proven", exact=True)).to_have_attribute(
        "title", str(PROOF)
    )
    cell = page.locator("[data-parity='m-tflite'] td").last
    expect(cell).to_have_css("white-space", "normal")  # else the longest column is cut off
    ordinary = page.locator("[data-parity='m-savedmodel']")
    expect(ordinary).to_contain_text(ORDINARY)
    expect(ordinary.locator("td").first).to_have_attribute("title", DIFFERENCE)
    gallery = page.get_by_test_id("gallery")
    expect(gallery).to_contain_text("Bag → Shirt")
    expect(gallery).to_contain_text("1 of 100")


def test_without_a_report_the_page_says_how_to_get_one(open_page: OpenPage, service: Service) -> None:
    page = open_page(service, path="/?idle#report")
    expect(page.get_by_test_id("no-report")).to_contain_text("Run make compare")


def test_a_report_of_another_schema_says_what_to_do(open_page: OpenPage, service: Service) -> None:
    old = {name: value for name, value in asdict(flipped()).items() if name != "targets"} | {"schema": 1}
    page = open_page(
        service,
        lambda page: page.route("**/report/report.json", lambda route: route.fulfill(json=old)),
        path="/?idle#report",
    )
    expect(page.get_by_role("alert")).to_contain_text("Run make compare again")


def test_an_accuracy_that_nobody_knows_is_called_unknown(open_page: OpenPage, service: Service) -> None:
    unknown = Missing("unknown: there are no pictures with labels")
    report = flipped()
    artifacts = {
        name: dataclasses.replace(one, figures={**one.figures, "accuracy": unknown})
        for name, one in report.artifacts.items()
    }
    page = open_report(open_page, service, dataclasses.replace(report, artifacts=artifacts))
    cell = page.locator("[data-parity='m-tflite']").get_by_text("unknown", exact=True)
    expect(cell).to_have_attribute("title", unknown.missing)
    assert chosen(page) == ""
    expect(page.get_by_test_id("why-not")).to_contain_text(unknown.missing)
    page.get_by_label("Where it will run").select_option("browser")
    expect(page.locator("[data-candidate]")).to_have_count(0)
