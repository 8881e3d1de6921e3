"""A visitor's own model file runs in the browser beside the others; nothing of it is sent; faults are said once."""

import base64
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.brought_artifacts import tfjs_that_answers_a_weight
from tests.browser.conftest import OpenPage, finished_rows, hear_out, wait_until
from tests.browser.test_page import FIRST, TOLERANCE, settled
from tests.serving import Service

DROP = """
(files) => {
  const given = new DataTransfer();
  for (const [name, base64] of files) {
    given.items.add(new File([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], name));
  }
  document.querySelector('main').dispatchEvent(
    new DragEvent('drop', { bubbles: true, cancelable: true, dataTransfer: given }));
}
"""


@pytest.fixture
def page(open_page: OpenPage, service: Service) -> Page:
    """The page with one model, which has answered."""
    opened = open_page(service, path="/#compare?models=keras_cnn")
    finished_rows(opened, FIRST)
    settled(opened)
    return opened


def drop(page: Page, *files: tuple[str, bytes]) -> str:
    """Drop files on the page; what it says of them."""
    page.evaluate(DROP, [[name, base64.b64encode(data).decode()] for name, data in files])
    message = page.get_by_test_id("own-message")
    expect(message).not_to_have_text("Reading the file …")
    return message.text_content() or ""


def test_a_file_of_each_format_runs_beside_the_model_that_takes_the_same_input(page: Page, artifacts: Path) -> None:
    requested: list[str] = []
    page.on("request", lambda request: requested.append(f"{request.method} {request.url}"))
    model = artifacts / "torch_cnn"  # another network for the same pictures
    own = {
        "mine.tflite": [("mine.tflite", (model / "tflite" / "model.tflite").read_bytes())],
        "mine.onnx": [("mine.onnx", (model / "onnx" / "model.onnx").read_bytes())],
        "model.json": [
            (file.name, file.read_bytes())
            for file in sorted((model / "tfjs").iterdir())
            if file.suffix == ".bin" or file.name == "model.json"
        ],
    }
    for name, files in own.items():
        assert drop(page, *files) == f"{name} runs beside keras_cnn."
    rows = {row.id: row for row in finished_rows(page, FIRST).values() if row.id.startswith("own_")}
    assert rows.keys() >= {"own_mine-tflite@litert-wasm", "own_mine-onnx@onnx-wasm", "own_model-tfjs@tfjs-wasm"}
    first = next(iter(rows.values()))
    for row in rows.values():
        assert (row.state, row.status) == ("done", "unverified"), row.error
        assert row.probabilities == pytest.approx(first.probabilities, abs=TOLERANCE), "one network in three formats"
        assert float(row.diff) > TOLERANCE, "and it is compared with the source of another one"
    settled(page)
    assert [line for line in requested if line.startswith("POST") or "mine" in line] == []

    page.locator('[data-sample="0001.png"]').click()
    assert {row.state for row in finished_rows(page, "test image 1").values()} == {"done"}
    settled(page)


def test_a_file_that_no_model_here_is_like_is_run_with_tensors(page: Page, odd_models: Path) -> None:
    assert drop(page, ("odd.onnx", (odd_models / "keras_cnn" / "onnx" / "model.onnx").read_bytes())) == (
        "odd.onnx runs beside own_odd."
    )
    wait_until(page, "document.querySelector(\"[data-row='own_odd-onnx@onnx-wasm']\")?.dataset.state === 'done'", 60)
    expect(page.locator("[data-form=own_odd]")).to_be_visible()
    settled(page)


def test_a_weight_that_is_an_output_is_answered_again_and_again(page: Page) -> None:
    assert drop(page, *tfjs_that_answers_a_weight().items()) == "model.json runs beside own_model."
    for _ in range(2):
        page.locator("[data-form=own_model] .primary").click()
        row = page.locator("[data-row='own_model-tfjs@tfjs-wasm']")
        expect(row).to_have_attribute("data-state", "done")
        settled(page)


def test_a_file_that_comes_before_the_list_of_the_server_waits_for_it(
    open_page: OpenPage, service: Service, artifacts: Path
) -> None:
    held: list[Route] = []
    page = open_page(
        service,
        lambda page: page.route("**/v2/repository/index", lambda route: held.append(route)),
        path="/#compare?models=keras_cnn",
    )
    data = (artifacts / "keras_cnn" / "onnx" / "model.onnx").read_bytes()
    page.evaluate(DROP, [["mine.onnx", base64.b64encode(data).decode()]])
    message = page.get_by_test_id("own-message")
    expect(message).to_have_text("Reading the file …")
    expect(page.get_by_role("alert")).to_have_count(0)  # it is not taken for a picture
    held.pop().continue_()
    expect(message).to_have_text("mine.onnx runs beside keras_cnn.")
    finished_rows(page, FIRST)
    settled(page)


REFUSED = [
    ("x.tflite", b"this is not a model", "x.tflite is not a tflite model"),
    ("x.onnx", b"", "x.onnx is not a onnx model"),
    ("x.onnx", b"this is not a model", "x.onnx cannot be run in this browser"),
    ("x.json", b"{", "x.json is not a tfjs model"),
    ("x.json", b'{"modelTopology": {}, "weightsManifest": [{"paths": ["w.bin"], "weights": []}]}', "names w.bin"),
    ("x.json", b'{"format": "layers-model", "modelTopology": {}, "weightsManifest": []}', "is a layers model"),
    ("x.bin", b"1", "Expected one model, got x.bin"),
]


def test_what_is_no_model_is_said_once(
    open_page: OpenPage, service: Service, problems: list[str], subtests: pytest.Subtests
) -> None:
    page = open_page(service, path="/?idle")
    wait_until(page, "document.documentElement.dataset.ready")
    for name, data, said in REFUSED:
        with subtests.test(said=said):
            assert said in drop(page, (name, data))
            expect(page.get_by_role("alert")).to_have_count(1)
            assert page.locator("[data-row^=own_]").count() == 0
    hear_out(page)
    problems.clear()  # a runtime may write on the console what it thinks of a file
