"""Firefox and WebKit, as visitors have them: each row answers as its source does, once a call; no fault spreads."""

import json
from collections.abc import Iterator

import pytest

from tests.browser.anybrowser import LAUNCHERS, Tab, missing, opened
from tests.browser.conftest import PAGE, READ_ROWS, ROW_SECONDS, Row
from tests.browser.test_page import BROWSER_ROWS, FIRST, SERVER_ROWS, TOLERANCE
from tests.serving import Service

EVERYWHERE = {row for row in BROWSER_ROWS if not row.endswith("-webgl")}
"""WebGL is where the browser has a graphics processor, or draws in software."""

GIVE = """
(name, bytes) => {
  const files = new DataTransfer();
  files.items.add(new File([Uint8Array.from(bytes)], name));
  document.querySelector('main').dispatchEvent(
    new DragEvent('drop', { bubbles: true, cancelable: true, dataTransfer: files }));
}
"""

HANG = """
(() => {
  const post = Worker.prototype.postMessage;
  window.wasPost = post;
  Worker.prototype.postMessage = function (...given) {
    const [{ name, given: [model] = [] } = {}] = given;
    if (name !== 'predict' || !String(model).includes('tfjs')) post.apply(this, given);
  };
})()
"""


@pytest.fixture(scope="module", params=LAUNCHERS)
def tab(request: pytest.FixtureRequest, service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """One tab for all tests of a browser, since loading every runtime takes long."""
    if not PAGE.is_file():
        pytest.fail("The page is not built: run `make web`.", pytrace=False)
    if why := missing(request.param):
        pytest.skip(why)
    with opened(request.param, service, tmp_path_factory.mktemp(request.param)) as running:
        yield running
        assert running.evaluate("problems") == [], "errors that nobody caught"


def rows_of(tab: Tab, picture: str) -> dict[str, Row]:
    """The rows by name, once each has answered or failed for this picture, and is timed."""
    tab.wait_until(
        f"document.querySelector('.results')?.dataset.picture === {json.dumps(picture)}"
        " && document.querySelector('[data-summary]').dataset.summary === 'done'",
        ROW_SECONDS,
    )
    return {row["id"]: Row(**row) for row in tab.evaluate(f"({READ_ROWS})()[1]")}


def assert_answered(rows: dict[str, Row]) -> None:
    assert rows.keys() >= SERVER_ROWS | EVERYWHERE
    for row in rows.values():
        assert row.state == "done", f"{row.id}: {row.error}"
        assert sum(row.probabilities) == pytest.approx(1, abs=1e-3)
        if row.diff != "source":
            assert float(row.diff) <= TOLERANCE, row


def test_every_row_answers_as_its_source_does(tab: Tab) -> None:
    assert_answered(rows_of(tab, FIRST))
    tab.evaluate("document.querySelector('[data-sample=\"0001.png\"]').click()")
    assert_answered(rows_of(tab, "test image 1"))


def test_each_call_gets_one_reply(tab: Tab) -> None:
    """A chunk that imports the worker's own file made WebKit run it a second time, and answer each call twice."""
    rows_of(tab, "test image 1")
    replies = tab.evaluate("replies")
    assert len(replies) >= 2 * len(EVERYWHERE), "they were counted"
    assert {call: count for call, count in replies.items() if count != 1} == {}


def test_both_sides_see_the_same_tensor(tab: Tab) -> None:
    tab.wait_until("document.querySelector('[data-testid=same-tensor]')?.className === 'same'")


def test_a_file_that_is_no_picture_is_reported_once_and_the_next_one_is_answered(tab: Tab) -> None:
    tab.evaluate(GIVE, "text.png", list(b"This is not a picture."))
    assert {row.state for row in rows_of(tab, "text.png").values()} == {"failed"}
    said = tab.evaluate("[...document.querySelectorAll('[data-cell=picture-error]')].map((one) => one.textContent)")
    assert len(said) == 1 and "Not a picture in a supported format" in said[0]
    tab.evaluate("document.querySelector('[data-sample=\"0002.png\"]').click()")
    assert_answered(rows_of(tab, "test image 2"))


def test_rows_race(tab: Tab) -> None:
    tab.evaluate("void (location.hash = 'race')")
    tab.wait_until("document.querySelector('[name=seconds]')")
    tab.evaluate(
        "document.querySelectorAll('.choices input').forEach((box) => box.name.endsWith('-onnx@server') || box.click())"
    )
    tab.wait_until("document.querySelectorAll('.choices input:checked').length === 2")
    tab.evaluate("document.querySelector('form .primary').click()")
    tab.wait_until("document.querySelector('[data-race]')?.dataset.race === 'done'")
    medians = tab.evaluate("[...document.querySelectorAll('[data-cell=median]')].map((cell) => cell.textContent)")
    assert len(medians) == 2 and all(median.endswith("ms") for median in medians)
    tab.evaluate("void (location.hash = 'compare')")


def test_a_runtime_that_hangs_holds_no_other_row(tab: Tab) -> None:
    """Its calls never reach it: the others answer within their own time, not after its patience has ended."""
    tab.evaluate(HANG)
    tab.evaluate("document.querySelector('[data-sample=\"0003.png\"]').click()")
    others = "[...document.querySelectorAll('[data-row]:not([data-row*=\"@tfjs\"])')]"
    tab.wait_until(
        "document.querySelector('.results').dataset.picture === 'test image 3'"
        f" && {others}.every(({{ dataset }}) => dataset.state === 'done')",
        25,
    )
    hanging = tab.evaluate(
        "[...document.querySelectorAll('[data-row*=\"@tfjs\"]')].map(({ dataset }) => dataset.state)"
    )
    assert hanging and set(hanging) == {"running"}
    tab.evaluate("void (Worker.prototype.postMessage = window.wasPost)")
