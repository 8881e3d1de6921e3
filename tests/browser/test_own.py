"""Models that users bring: choosing among several, the form for tensors, and conversions that failed."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from contract.code import ROOT
from contract.image import image_to_batch
from serve.protocol import MAX_BATCH
from tests.brought_artifacts import CLASSES, FAILED, LOG, PHOTO, write_brought
from tests.browser.conftest import DRAWN, OpenPage, finished_rows, wait_until
from tests.browser.test_care import AXE, SERIOUS
from tests.browser.test_page import SAME_TENSOR, shoe_photo, upload
from tests.browser.test_ship import ROUNDING, do_what_it_says_before, printed, run_python, serving_files, snippets
from tests.browser.test_ship import choose as choose_row
from tests.conftest import write_every_type
from tests.serving import Service, started

PAIR_ROWS = {
    *(f"pair-{format}@server" for format in ("onnx", "tflite", "tfjs")),
    *("pair-onnx@onnx-wasm", "pair-tflite@litert-wasm", "pair-tfjs@tfjs-wasm", "pair-tfjs@tfjs-webgl"),
}
SNIPPET_ROWS = ["pair-tfjs@tfjs-wasm", "pair-tflite@litert-wasm", "sequence-onnx@onnx-wasm"]

ANSWERS = """
(model) => Object.fromEntries([...document.querySelectorAll(`[data-row^="${model}-"]`)].map((row) => [row.dataset.row, {
  state: row.dataset.state,
  outputs: Object.fromEntries([...row.querySelectorAll('[data-output]')].map((output) =>
    [output.dataset.output, [output.querySelector('small').textContent, output.querySelector('dd').textContent]])),
  diff: row.querySelector('[data-cell=diff]')?.textContent ?? '',
  error: row.querySelector('[data-cell=error]')?.textContent ?? '',
}]))
"""

# What reaches beyond the right edge, where the page can be scrolled sideways.
WIDER = """
() => document.documentElement.scrollWidth <= innerWidth ? [] : [...document.querySelectorAll('body *')]
  .filter((element) => element.getBoundingClientRect().right > innerWidth)
  .map((element) => `${element.tagName} ${element.className}: ${element.textContent.slice(0, 80)}`)
"""

Answers = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("brought")
    write_brought(folder)
    write_every_type(folder / "texts" / "onnx", ["bytes"])
    write_every_type(folder / "half" / "onnx", ["float16", "bool"])
    return folder


@pytest.fixture(scope="module")
def own(brought: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("own") / "log"
    with started(brought, log, SERVE_FORMATS="onnx,tflite,tfjs") as running:  # TensorFlow takes its time to start
        yield running


@pytest.fixture
def page(open_page: OpenPage, own: Service) -> Page:
    return opened(open_page, own)


def opened(open_page: OpenPage, own: Service, path: str = "/", **options: Any) -> Page:
    page = open_page(own, path=path, **options)
    wait_until(page, "document.documentElement.dataset.ready")
    return page


def choose(page: Page, *models: str) -> None:
    """These models and no others."""
    for box in page.locator(".chooser input").all():
        box.set_checked((box.get_attribute("name") or "") in models)


def answers(page: Page, model: str) -> Answers:
    """What its rows show, once each has answered or failed."""
    rows: Answers = {}

    def finished() -> bool:
        nonlocal rows
        rows = page.evaluate(f"async (model) => {{ await {DRAWN}; return ({ANSWERS})(model); }}", model)
        return bool(rows) and all(row["state"] in ("done", "failed") for row in rows.values())

    for _ in range(1200):
        if finished():
            return rows
        page.wait_for_timeout(50)
    raise AssertionError(rows)


def run(page: Page, model: str) -> Answers:
    """Press the button; what the rows then show."""
    form = page.locator(f"[data-form={model}]")
    form.get_by_role("button", name="Run", exact=True).click()
    return answers(page, model)


def write(page: Page, name: str, text: str) -> None:
    field = page.locator(f"[data-input={name}]")
    field.get_by_label("Values").select_option("json")
    field.get_by_role("textbox").fill(text)


def test_pictures_are_offered_where_a_chosen_model_takes_some_and_nowhere_else(page: Page) -> None:
    boxes = page.locator(".chooser input")
    chosen = {box.get_attribute("name"): box.is_checked() for box in boxes.all()}
    expected = dict.fromkeys(("features", "half", "pair", "photo", "sequence", "texts"), False)
    assert chosen == expected | {"features": True, "photo": True}, "those that take pictures"
    expect(page.get_by_role("region", name="Picture")).to_be_visible()
    expect(page.locator("[data-form]")).to_have_count(0)
    choose(page, "pair")
    expect(page.get_by_role("region", name="Picture")).to_have_count(0)
    expect(page.locator("main").get_by_role("tab")).to_have_count(0)
    expect(page.get_by_test_id("disagree")).to_have_count(0)
    expect(page.locator("[data-form]")).to_have_count(1)
    assert {row.partition("-")[0] for row in answers(page, "pair")} == {"pair"}
    choose(page)
    expect(page.get_by_text("Choose a model to compare its formats.")).to_be_visible()


def test_every_row_answers_tensors_as_the_server_does(page: Page, own: Service) -> None:
    choose(page, "pair")
    first = answers(page, "pair")
    assert first.keys() >= PAIR_ROWS, "it is asked without a button being pressed"
    for row in PAIR_ROWS:
        assert first[row]["state"] == "done", first[row]["error"]
        assert first[row]["outputs"] == first["pair-onnx@server"]["outputs"]
        assert first[row]["diff"] == "source" or float(first[row]["diff"]) < 1e-6
    left, ids = [[1, 2, 3, 4], [0.5, 0, -1, 0.25]], [[7, 8, -9], [0, 1, 2]]
    write(page, "left", json.dumps(left))
    write(page, "ids", json.dumps(ids))
    rows = run(page, "pair")
    inputs = [
        {"name": "left", "datatype": "FP32", "shape": [2, 4], "data": left},
        {"name": "ids", "datatype": "INT32", "shape": [2, 3], "data": ids},
    ]
    answer = own.ask_json("POST", "/v2/models/pair-onnx/infer", json.dumps({"inputs": inputs}).encode())["outputs"]
    assert "takes a batch of 1, got 2" in rows["pair-tflite@litert-wasm"]["error"]
    for row in PAIR_ROWS - {"pair-tflite@litert-wasm"}:
        assert rows[row]["state"] == "done", rows[row]["error"]
        (kind, scores), (whole, doubled) = rows[row]["outputs"]["scores"], rows[row]["outputs"]["doubled"]
        assert (kind, whole) == ("FP32 [2, 2]", "INT32 [2, 3]")
        assert [float(value) for value in scores.split(", ")] == pytest.approx(answer[0]["data"], rel=1e-4)
        assert [int(value) for value in doubled.split(", ")] == answer[1]["data"] == [14, 16, -18, 0, 2, 4]


def test_each_way_to_fill_an_input(page: Page) -> None:
    choose(page, "pair")
    random = answers(page, "pair")["pair-onnx@server"]["outputs"]
    left, ids = (page.locator(f"[data-input={name}]") for name in ("left", "ids"))
    left.get_by_label("Seed").fill("2")
    again = run(page, "pair")["pair-onnx@server"]["outputs"]
    assert again["scores"] != random["scores"] and again["doubled"] == random["doubled"]
    expect(page.get_by_label("Batch size")).to_have_attribute("max", str(MAX_BATCH))
    page.get_by_label("Batch size").fill("3")
    for field in (left, ids):
        field.get_by_label("Values").select_option("zeros")
    zeros = run(page, "pair")["pair-tflite@server"]["outputs"]
    assert zeros == {
        "scores": ["FP32 [3, 2]", ", ".join(["0.5"] * 6)],
        "doubled": ["INT32 [3, 3]", "0, 0, 0, 0, 0, 0, 0, 0, …"],
    }
    ids.get_by_label("Values").select_option("json")
    expect(ids.get_by_role("textbox")).to_have_value("[0,0,0,0,0,0,0,0,0]")


@pytest.mark.failed_requests
def test_values_that_do_not_fit_are_reported_beside_the_form(page: Page) -> None:
    choose(page, "pair")
    answers(page, "pair")
    for text, said in {
        "[1, 2": "this is not JSON",
        "[1.5, 2, 3]": "1.5 is not of datatype INT32",
        "[[1, 2]]": "nested as [1, 2]",
    }.items():
        write(page, "ids", text)
        page.get_by_role("button", name="Run", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text(said)
    write(page, "ids", "[[1, 2, 3]]")
    write(page, "left", "[[1, 2, 3, 4], [5, 6, 7, 8]]")
    rows = run(page, "pair")
    expect(page.get_by_role("alert")).to_have_count(0)
    assert "The inputs differ in their batch" in rows["pair-onnx@server"]["error"], "the server's own word"
    write(page, "ids", "[[1, 2, 3], [4, 5, 6]]")
    assert run(page, "pair")["pair-onnx@server"]["state"] == "done"


def test_other_datatypes_sizes_and_a_batch_of_one(page: Page) -> None:
    choose(page, "sequence", "texts", "half")
    write(page, "tokens", "[[0, 2, 4, 10]]")
    for row in run(page, "sequence").values():
        assert row["outputs"] == {"mean": ["FP32 [1, 2]", "8, 9"]}, row
    page.locator("[data-input=tokens]").get_by_label("Values").select_option("random")
    page.locator("[data-input=tokens]").get_by_label("Size of dimension 2").fill("300")
    assert {row["state"] for row in run(page, "sequence").values()} == {"done"}
    page.get_by_label("bytes_in: one text per line").fill("grüezi\n두 줄")
    for row in run(page, "texts").values():
        assert row["outputs"] == {"bytes_out": ["BYTES [2, 1]", '"grüezi", "두 줄"']}, row
    half = answers(page, "half")
    assert half["half-onnx@server"]["state"] == "done"
    assert "ONNX Runtime Web does not support FP16, the datatype of float16_in." in half["half-onnx@onnx-wasm"]["error"]


def test_a_picture_without_labels_and_one_that_is_not_classified(page: Page, own: Service) -> None:
    shoe = shoe_photo("PNG")
    upload(page, "shoe.png", shoe)
    rows = finished_rows(page, "shoe.png")
    answer = own.ask_json("POST", "/predict/photo-onnx", shoe)
    for name in ("photo-onnx@server", "photo-onnx@onnx-wasm"):
        assert rows[name].label == answer["label"]
        assert rows[name].probabilities == pytest.approx(list(answer["probabilities"].values()), abs=1e-5)
    assert len(rows["photo-onnx@server"].probabilities) == CLASSES
    expect(page.get_by_test_id("same-tensor")).to_have_text(SAME_TENSOR)
    expect(page.get_by_text(f"{PHOTO.height} × {PHOTO.width} × {PHOTO.channels}")).to_be_visible()
    expect(page.get_by_text("what the model sees: the whole picture, stretched")).to_be_visible()
    features = answers(page, "features")
    assert {row["outputs"]["features"][0] for row in features.values()} == {f"FP32 [1, {CLASSES}]"}
    assert float(features["features-onnx@onnx-wasm"]["diff"]) < 1e-5
    choose(page, "photo", "pair")
    assert {row["state"] for row in answers(page, "pair").values()} == {"done"}
    assert {row.state for row in finished_rows(page, "shoe.png").values()} == {"done"}, "they are kept"


def test_a_conversion_that_failed_says_why_and_what_to_try(page: Page, own: Service) -> None:
    choose(page, "pair")
    row = page.locator("[data-failed-edge]")
    expect(row).to_have_count(1)
    for words in (FAILED.format, "not converted", FAILED.parent, FAILED.reason, FAILED.cause, FAILED.advice):
        expect(row).to_contain_text(words)
    row.get_by_text("The 2 routes that were tried").click()
    expect(row.get_by_text("ValueError: GridSample")).to_be_visible()
    with page.expect_popup() as popup:
        row.get_by_role("link", name="Full log").click()
    assert popup.value.url == f"{own.url}/artifacts/pair/failed/onnx-int8.log"
    assert popup.value.locator("body").inner_text().strip() == LOG.strip()
    assert popup.value.evaluate("document.scripts.length") == 0


@pytest.mark.parametrize(("width", "scheme"), [(320, "light"), (360, "dark"), (1280, "light")])
def test_the_form_is_for_all(open_page: OpenPage, own: Service, width: int, scheme: str) -> None:
    page = opened(open_page, own, "/?idle", viewport={"width": width, "height": 800}, color_scheme=scheme)
    choose(page, "pair", "sequence", "texts")
    write(page, "left", "[1, 2, 3, 4]")
    assert run(page, "pair")["pair-onnx@server"]["state"] == "done"
    page.evaluate(AXE.read_text())
    found = page.evaluate("async () => (await axe.run()).violations")
    assert [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in SERIOUS] == []
    assert page.evaluate(WIDER) == []
    page.locator(".chooser input").first.focus()
    page.keyboard.press("Space")
    expect(page.locator(".chooser input").first).to_be_checked()


def test_models_of_every_kind_race(page: Page) -> None:
    choose(page, "pair", "sequence")
    answers(page, "pair")
    page.locator(".views a[href='#race']").click()
    page.get_by_role("button", name="None").click()
    for row in ("pair-tflite@litert-wasm", "pair-onnx@server", "sequence-onnx@onnx-wasm"):
        page.get_by_label(row, exact=True).check()
    page.get_by_label("Seconds per row").fill("0.1")
    page.get_by_role("button", name="Start the race").click()
    wait_until(page, "document.querySelector('[data-race]')?.dataset.race === 'done'", 60)
    phases = page.locator("[data-lane]").evaluate_all("(rows) => rows.map(({ dataset }) => dataset.phase)")
    assert phases == ["done"] * 3


# --- What ships


@pytest.fixture
def ship(open_page: OpenPage, own: Service) -> Page:
    return opened(open_page, own, "/?idle#ship")


def test_what_calls_a_tensor_model_works_when_pasted(ship: Page, brought: Path, tmp_path: Path) -> None:
    for row, expected in {
        "pair-tflite@server": "scores",
        "pair-onnx@server": "scores",
        "sequence-onnx@server": "mean",
    }.items():
        choose_row(ship, row)
        model, _, format = row.partition("@")[0].partition("-")
        folder = shutil.copytree(brought / model / format, tmp_path / row)
        answer = json.loads(printed(["bash", "-c", snippets(ship, "sh")["curl"]], folder))
        assert answer["outputs"][0]["name"] == expected
        codes = snippets(ship, "python")
        assert len(codes) == 2
        for code in codes.values():
            lines = printed([sys.executable, "-c", code], folder).splitlines()
            assert any(line.startswith(f"{expected} ") for line in lines)
        if shutil.which("Rscript"):
            lines = printed(["Rscript", "-"], folder, snippets(ship, "r")["R"]).splitlines()
            assert any(line.startswith(f"{expected} ") for line in lines)


def test_code_for_a_stretched_picture_works_when_pasted(
    ship: Page, own: Service, brought: Path, tmp_path: Path
) -> None:
    shoe = shoe_photo("PNG")
    choose_row(ship, "photo-onnx@onnx-wasm")
    folder = shutil.copytree(brought / "photo" / "onnx", tmp_path / "photo")
    (folder / "shoe").write_bytes(shoe)
    ((label, values),) = run_python(snippets(ship, "python")["Python, ONNX Runtime"], folder, "shoe")
    answer = own.ask_json("POST", "/predict/photo-onnx", shoe)
    assert label == answer["label"]
    assert values == pytest.approx(list(answer["probabilities"].values()), abs=ROUNDING)
    ((_, code),) = snippets(ship, "javascript").items()
    function = code[code.index("async function toTensor") : code.index("const pixels = await")]
    script = f"async (bytes) => {{ {function} return [...await toTensor(new Blob([new Uint8Array(bytes)]))]; }}"
    np.testing.assert_allclose(ship.evaluate(script, list(shoe)), image_to_batch(shoe, PHOTO).ravel(), atol=1)


def test_a_missing_example_is_named_with_its_reason(ship: Page) -> None:
    choose_row(ship, "features-onnx@onnx-wasm")
    expect(ship.get_by_test_id("left-out")).to_have_text(
        "No example for curl: 1680 values are too many for a command line."
    )
    choose_row(ship, "half-onnx@onnx-wasm")
    expect(ship.get_by_test_id("left-out")).to_contain_text("JavaScript, ONNX Runtime Web does not support FP16")
    choose_row(ship, "photo-onnx@server")
    assert f"range({CLASSES})]" in snippets(ship, "python")["Python, ONNX Runtime"]


def test_javascript_that_runs_a_tensor_model_works_when_pasted(
    ship: Page, browser: Browser, brought: Path, tmp_path: Path
) -> None:
    (tmp_path / "node_modules").symlink_to(ROOT / "web" / "node_modules")
    for number, row in enumerate(SNIPPET_ROWS):
        choose_row(ship, row)
        ((_, code),) = snippets(ship, "javascript").items()
        (tmp_path / f"{number}.js").write_text(code)
        (tmp_path / f"{number}.html").write_text(f'<script type="module" src="./{number}.js"></script>')
        do_what_it_says_before(code, tmp_path)
        model, _, format = row.partition("@")[0].partition("-")
        shutil.copytree(brought / model / format, tmp_path / "public", dirs_exist_ok=True)
    names = json.dumps([f"{number}.html" for number in range(len(SNIPPET_ROWS))])
    options = f"build: {{ target: 'es2022', rolldownOptions: {{ input: {names} }} }}, logLevel: 'error'"
    (tmp_path / "vite.config.js").write_text(f"export default {{ {options} }};")
    printed([str(tmp_path / "node_modules" / ".bin" / "vite"), "build"], tmp_path)
    with serving_files(tmp_path / "dist") as url, browser.new_context() as context:
        for number, (name, values) in enumerate([("scores", [0.5, 0.5]), ("scores", [0.5, 0.5]), ("mean", [0, 1])]):
            page, start = context.new_page(), f"{name} "
            with page.expect_console_message(lambda message: message.text.startswith(start)) as said:  # noqa: B023
                page.goto(f"{url}/{number}.html")
            assert said.value.args[1].json_value() == pytest.approx(values)
