"""The page in a real Chromium: every row answers, and like the server; every way in works; every fault is shown."""

import base64
import io
import json
import re
import urllib.request
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page, Response, Route, expect

import compare.browser
from compare.advice import add_recommendations
from compare.page import write_page
from compare.report import Constraints
from contract import dataset
from contract.code import ROOT
from contract.dataset import Split
from contract.image import FORMATS, image_to_batch
from contract.manifest import ImageSpec
from serve.replies import HEADERS
from tests import reports
from tests.browser.conftest import ROW_SECONDS, OpenPage, Row, assert_none, finished_rows, hear_out, opening, wait_until
from tests.formats_here import run_from
from tests.serving import Service, started
from verify.parity import compare as compare_answers
from verify.parity import judge

GOLDEN = ROOT / "tests" / "golden"
CASES = json.loads((GOLDEN / "cases.json").read_bytes())["cases"]
FASHION = dataset.get("fashion_mnist").image

SOURCES = {"keras_cnn-keras", "torch_cnn-torch"}
CONVERTED = {f"{source}_cnn-{format}" for source in ("keras", "torch") for format in run_from(source)}
RUNTIMES = {
    family: tuple(name for name in runtimes if not name.endswith("-webgpu"))
    for family, runtimes in compare.browser.RUNTIMES.items()
}
SERVER_ROWS = {f"{name}@server" for name in SOURCES | CONVERTED}
BROWSER_ROWS = {f"{name}@{runtime}" for name in CONVERTED for runtime in RUNTIMES.get(name.partition("-")[2], ())}
"""What any Chromium has: WebGPU rows come on top where there is a graphics processor."""
LIGHT_SERVER_ROWS = {f"keras_cnn-{format}@server" for format in RUNTIMES}
LIGHT_BROWSER_ROWS = {row for row in BROWSER_ROWS if row.startswith("keras_cnn-")}
"""The rows of `light_artifacts`."""

FIRST = "test image 0"
SAME_TENSOR = "same bytes in the browser and on the server"
TOLERANCE = 1e-4

INFER_ALL = """
async ([row, base64, count]) => {
  const pixels = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const size = pixels.length / count;
  const answers = [];
  for (let at = 0; at < pixels.length; at += size) {
    answers.push(await window.rosetta.infer(row, [...pixels.subarray(at, at + size)]));
  }
  return answers;
}
"""

MAKE_TENSOR = """
(base64) => window.rosetta.tensor(
  'keras_cnn-keras@server', Array.from(atob(base64), (letter) => letter.charCodeAt(0)))
"""

GIVE_FILE = """
([base64, name, type, gesture]) => {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const files = new DataTransfer();
  files.items.add(new File([bytes], name, { type }));
  const how = { bubbles: true, cancelable: true, dataTransfer: files, clipboardData: files };
  const events = {
    drop: [new DragEvent('dragover', how), new DragEvent('drop', how)],
    paste: [new ClipboardEvent('paste', how)],
  };
  return events[gesture].some((event) => document.querySelector('main').dispatchEvent(event));
}
"""

RUN_INLINE = """
() => {
  const script = document.createElement('script');
  script.textContent = 'window.ran = true';
  document.head.append(script);
  return 'ran' in window;
}
"""

SHOWN_TENSOR = """
() => {
  const canvas = document.querySelector('[data-testid=tensor]');
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  return Array.from(data.filter((_, i) => i % 4 === 0));
}
"""


@pytest.fixture(scope="module")
def warm(browser: Browser, service: Service) -> Iterator[tuple[Page, list[str]]]:
    """One page for all tests that need none of their own, since loading every runtime takes long; its problems."""
    problems: list[str] = []
    with opening(browser, problems) as open_page:
        page = open_page(service)
        finished_rows(page, FIRST)
        yield page, problems


@pytest.fixture
def page(warm: tuple[Page, list[str]], request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page with the first test image answered, as when it was opened; what a test lets it do ends with the test."""
    page, problems = warm
    choose_tab(page, "Upload")  # and back: what was found among the test images is gone
    choose_tab(page, "Test image")
    if page.locator(".results").get_attribute("data-picture") != FIRST:
        page.locator('[data-sample="0000.png"]').click()
    finished_rows(page, FIRST)
    yield page
    page.unroute_all()
    page.context.clear_permissions()
    hear_out(page)
    found = problems.copy()
    problems.clear()
    assert_none(found, request)


@pytest.fixture(scope="module")
def shoe() -> bytes:
    return shoe_photo("PNG")


def shoe_photo(format: str, orientation: int = 1, **options: Any) -> bytes:
    """A photo-like picture of a dark shoe on white paper, 400x300: uneven light, noise, soft edges."""
    picture = PIL.Image.new("RGB", (1600, 1200), "white")
    draw = PIL.ImageDraw.Draw(picture)
    draw.polygon([(240, 420), (520, 380), (820, 620), (1330, 700), (1380, 860), (230, 880)], fill=(60, 38, 30))
    draw.rectangle((220, 870, 1400, 930), fill=(25, 25, 35))
    pixels = np.asarray(picture.resize((400, 300), PIL.Image.Resampling.LANCZOS), np.float64)
    light = np.linspace(1.0, 0.88, 400)[np.newaxis, :, np.newaxis]
    noise = np.random.default_rng(7).normal(0, 3, pixels.shape)
    shot = PIL.Image.fromarray(np.clip(pixels * light + noise, 0, 255).astype(np.uint8))
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    shot.save(file, format, **({"exif": exif.tobytes()} if orientation > 1 else {}), **options)
    return file.getvalue()


def sample_png(service: Service, file: str) -> bytes:
    with urllib.request.urlopen(f"{service.url}/samples/{file}", timeout=60) as response:
        data: bytes = response.read()
        return data


def assert_all_answered(rows: dict[str, Row], expected: Set[str] = SERVER_ROWS | BROWSER_ROWS) -> None:
    """Every row that any Chromium has answers, and like its source."""
    assert rows.keys() >= expected
    for row in rows.values():
        assert row.state == "done", f"{row.id}: {row.error}"
        assert sum(row.probabilities) == pytest.approx(1, abs=1e-3)
        if row.diff != "source":
            assert float(row.diff) <= TOLERANCE, row


def choose_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()
    expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")


def upload(page: Page, name: str, data: bytes) -> None:
    choose_tab(page, "Upload")
    files: Any = {"name": name, "mimeType": "application/octet-stream", "buffer": data}
    page.locator(".drop input[type=file]").set_input_files(files)


def notice(page: Page) -> str:
    """The message beside the picture; empty where there is none."""
    return " ".join(page.locator("[data-cell=picture-error]").all_text_contents())


# --- Rows


def test_every_row_answers_the_first_sample_as_the_server_does(page: Page, service: Service) -> None:
    rows = finished_rows(page, FIRST)
    assert_all_answered(rows)

    answers = {
        row["model"]: row for row in service.ask_json("POST", "/compare", sample_png(service, "0000.png"))["results"]
    }
    for row in rows.values():
        answer = answers[row.id.partition("@")[0]]
        assert row.label == answer["label"]
        assert row.status == answer["status"]
        assert row.probabilities == pytest.approx(list(answer["probabilities"].values()), abs=TOLERANCE)
    assert {row.id for row in rows.values() if row.diff == "source"} == {f"{name}@server" for name in SOURCES}
    assert {row.status for row in rows.values()} == {"source", "verified"}
    assert {row.where for row in rows.values() if row.id in BROWSER_ROWS} == {"browser"}
    seen = image_to_batch(sample_png(service, "0000.png"), FASHION)
    assert page.evaluate(SHOWN_TENSOR) == seen.ravel().tolist()


def test_every_row_answers_like_its_source_on_real_test_pictures(
    open_page: OpenPage, service: Service, test_split: Split, subtests: pytest.Subtests
) -> None:
    page = open_page(service, path="/?idle")
    wait_until(page, "document.documentElement.dataset.ready")
    rows = page.evaluate("window.rosetta.rows()")
    assert set(rows) >= SERVER_ROWS | BROWSER_ROWS
    references = {source: source_answers(service, source, test_split) for source in SOURCES}
    for row in rows:
        # The server's rows were all compared when their artifacts were made: a few show that the page asks rightly.
        images = test_split.images[: 8 if row.endswith("@server") else 64]
        pixels = base64.b64encode(images.tobytes()).decode()
        answers = np.array(page.evaluate(INFER_ALL, [row, pixels, len(images)]))
        source = next(source for source in SOURCES if source.split("-")[0] == row.split("-")[0])
        with subtests.test(row=row):
            assert judge([compare_answers(references[source][: len(images)], answers, batch=1)]) == []


def source_answers(service: Service, source: str, split: Split) -> NDArray[np.float64]:
    """What the source artifact answers on the server, (N, classes)."""
    shape = split.images.shape
    tensor = {"name": "pixels", "shape": shape, "datatype": "FP32", "data": split.images.ravel().tolist()}
    (output,) = service.ask_json("POST", f"/v2/models/{source}/infer", json.dumps({"inputs": [tensor]}).encode())[
        "outputs"
    ]
    return np.array(output["data"]).reshape(output["shape"])


def test_the_page_has_the_rows_that_make_compare_measures_and_names_them_alike(
    open_page: OpenPage, service: Service
) -> None:
    page = open_page(service, path="/?idle")
    wait_until(page, "document.documentElement.dataset.ready")
    assert {row for row in page.evaluate("window.rosetta.rows()") if not row.endswith("-webgpu")} == (
        SERVER_ROWS | BROWSER_ROWS
    )
    titles = {name: title for names in compare.browser.RUNTIMES.values() for name, title in names.items()}
    shown = page.locator("[data-where=browser]").evaluate_all(
        "(rows) => rows.map((row) => [row.dataset.row, row.querySelector('.runtime').firstChild.textContent.trim()])"
    )
    assert len(shown) >= len(BROWSER_ROWS)
    for row, title in shown:
        assert title == titles[row.partition("@")[2]]


# --- The tensor


def page_tensor(page: Page, picture: bytes) -> NDArray[np.float64]:
    return np.array(page.evaluate(MAKE_TENSOR, base64.b64encode(picture).decode()))


def test_the_page_makes_the_golden_tensors_bit_for_bit(page: Page) -> None:
    cases = [case for case in CASES if ImageSpec(**case["spec"]) == FASHION]
    assert len(cases) > 40
    wrong = []
    for case in cases:
        expected = np.frombuffer((GOLDEN / case["tensor"]).read_bytes(), np.uint8)
        if not np.array_equal(page_tensor(page, (GOLDEN / case["file"]).read_bytes()), expected):
            wrong.append(case["name"])
    assert wrong == []


@pytest.mark.parametrize(
    ("format", "options", "levels"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 90}, 2),  # no two decoders round alike
        ("WEBP", {"quality": 90}, 2),
    ],
)
def test_the_page_sees_a_photo_as_the_server_does(
    page: Page, format: str, options: dict[str, Any], levels: int
) -> None:
    upright = image_to_batch(shoe_photo(format, **options), FASHION)
    assert upright[0, :4].max() < 64 < 150 < upright.max()  # it is dark on white, so it was inverted
    for orientation in (1, 6, 3) if format in ("PNG", "JPEG") else (1,):
        photo = shoe_photo(format, orientation, **options)
        expected = image_to_batch(photo, FASHION).ravel()
        assert np.abs(page_tensor(page, photo) - expected).max() <= levels
        assert (np.abs(expected - upright.ravel()).max() > 100) == (orientation > 1)


# --- What is seen of the answers


def test_each_row_is_timed_warm_when_all_have_answered(page: Page) -> None:
    """The runtime's own time is the large figure; what is not the runtime's is named apart."""
    settled(page)
    parts = "(cells) => cells.map((cell) => [...cell.querySelectorAll('dt')].map((part) => part.textContent).join())"
    for where, besides in {"server": "queue,network", "browser": ""}.items():
        for shown in page.locator(f"[data-where={where}] .time").evaluate_all(parts):
            calls, _, rest = shown.partition(",")
            assert int(calls.removeprefix("median of ").removesuffix(" calls")) >= 3
            assert rest == besides


def settled(page: Page) -> str:
    """Wait until every row has answered and is timed; the line above the tables."""
    wait_until(page, "document.querySelector('[data-summary]').dataset.summary === 'done'", ROW_SECONDS)
    return page.locator(".summary").inner_text()


def test_digits_are_compared(page: Page) -> None:
    finished_rows(page, FIRST)
    rows = page.locator("[data-row]").evaluate_all(
        "(rows) => rows.map(({ dataset, children }) =>"
        " [dataset.row, dataset.probabilities, children[5].querySelector('.digits').innerText])"
    )
    for row, probabilities, digits in rows:
        assert digits == f"{max(json.loads(probabilities)):.9f}", row
        source = next(other for other in rows if other[0].startswith(row[:5]) and other[0].partition("@")[0] in SOURCES)
        same = page.locator(f"[data-row='{row}'] .digits").evaluate("(code) => code.firstChild.textContent")
        assert source[2].startswith(same)
        assert same == digits or not source[2].startswith(digits[: len(same) + 1])


def test_rows_are_sorted_by_each_figure_with_the_keyboard_too(page: Page) -> None:
    finished_rows(page, FIRST)
    table = page.locator("article").first
    shown = "(rows) => rows.map((row) => row.dataset.row)"
    unsorted = table.locator("[data-row]").evaluate_all(shown)
    button = table.locator("[data-sort=size]")
    button.focus()
    page.keyboard.press("Enter")
    expect(table.locator("th[aria-sort=ascending]")).to_have_text(re.compile("Size"))
    sizes = [int(title.replace(",", "")) for title in table.locator("[data-cell=bytes]").evaluate_all(TITLES)]
    assert sizes == sorted(sizes) and len(set(sizes)) > 3
    page.keyboard.press("Enter")
    sizes = [int(title.replace(",", "")) for title in table.locator("[data-cell=bytes]").evaluate_all(TITLES)]
    assert sizes == sorted(sizes, reverse=True)
    page.keyboard.press("Enter")
    assert table.locator("[data-row]").evaluate_all(shown) == unsorted
    table.locator("[data-sort=diff]").click()
    differences = [cell for cell in table.locator("[data-cell=diff]").all_text_contents() if cell != "source"]
    assert list(map(float, differences)) == sorted(map(float, differences))
    assert page.locator("article").nth(1).locator("th[aria-sort=ascending]").count() == 1, "all tables are sorted alike"
    table.locator("[data-sort=diff]").click(click_count=2)
    expect(page.locator("th[aria-sort=ascending], th[aria-sort=descending]")).to_have_count(0)
    assert table.locator("[data-row]").evaluate_all(shown) == unsorted


TITLES = "(cells) => cells.map((cell) => cell.title)"


def test_the_tensor_is_shown_to_be_the_same_on_both_sides(page: Page, shoe: bytes) -> None:
    finished_rows(page, FIRST)
    expect(page.get_by_test_id("same-tensor")).to_have_text(SAME_TENSOR)
    upload(page, "photo.png", shoe)
    finished_rows(page, "photo.png")
    expect(page.get_by_test_id("same-tensor")).to_have_text(SAME_TENSOR)


def test_a_tensor_that_differs_from_the_server_s_is_reported(page: Page) -> None:
    def other(route: Route) -> None:
        answer = route.fetch().json()
        route.fulfill(json=answer | {"tensor": "0" * 64})

    page.route("**/predict/*", other)
    page.locator('[data-sample="0001.png"]').click()
    finished_rows(page, "test image 1")
    expect(page.get_by_test_id("same-tensor")).to_contain_text("the server decodes this picture differently")


def test_where_no_format_disagrees_the_closest_call_is_shown(page: Page, service: Service) -> None:
    finished_rows(page, FIRST)
    index = service.ask_json("GET", "/samples/index.json")
    margins: dict[int, float] = {}
    for source in SOURCES:
        for sample in index["samples"][:: len(index["samples"]) // 10]:
            answers = service.ask_json("POST", f"/predict/{source}", sample_png(service, sample["file"]))[
                "probabilities"
            ]
            best = sorted(answers.values())
            margins[sample["index"]] = min(margins.get(sample["index"], 1), best[-1] - best[-2])
    page.get_by_test_id("disagree").click()
    found = page.locator(".found")
    expect(found).to_contain_text("No format disagrees with its source on any of the")
    nearest = re.search(r"test images here is (\d+): .* only (\S+) more than", found.text_content() or "")
    assert nearest and float(nearest[2]) <= min(margins.values())
    assert_all_answered(finished_rows(page, f"test image {nearest[1]}"))


@pytest.mark.parametrize("image", [3, 4242])
def test_a_picture_that_a_format_flips_is_found(page: Page, service: Service, image: int) -> None:
    """One that is among the test images, and one that only the report has."""
    flip = {"image": image, "source": 9, "artifact": 7, "margin": 1e-5, "difference": 1e-4, "near_tie": True}
    png = base64.b64encode(sample_png(service, "0001.png")).decode()
    report = {"artifacts": {"torch_cnn-tflite": {"flips": [{"image": image, "png": png}]}}}

    def flipped(route: Route) -> None:
        parity = route.fetch().json()
        parity["batches"][0]["flips"] = [flip]
        route.fulfill(json=parity)

    page.route("**/artifacts/torch_cnn/tflite/parity.json", flipped)
    page.route("**/report/report.json", lambda route: route.fulfill(json=report))
    page.get_by_test_id("disagree").click()
    words = f"Test image {image}: torch_cnn-tflite says Sneaker, its source says Ankle boot."
    expect(page.locator(".found")).to_have_text(words)
    assert_all_answered(finished_rows(page, f"test image {image}"))


# --- Ways in


def test_a_test_image_is_chosen(page: Page) -> None:
    finished_rows(page, FIRST)
    button = page.locator('[data-sample="0002.png"]')
    button.click()
    assert_all_answered(finished_rows(page, "test image 2"))
    expect(page.locator("figcaption b").first).to_have_text(button.get_attribute("title") or "")


def test_the_formats_of_pictures_are_the_service_s(page: Page) -> None:
    choose_tab(page, "Upload")
    accepted = page.locator(".drop input[type=file]").get_attribute("accept") or ""
    assert accepted.split(",") == [f"image/{name.lower()}" for name in (*FORMATS, "AVIF")], "some browsers read AVIF"
    expect(page.locator(".drop")).to_contain_text(f"Formats: {', '.join(FORMATS)}.")


def test_a_file_is_uploaded(page: Page, service: Service, tmp_path: Path, shoe: bytes) -> None:
    file = tmp_path / "shoe.png"
    file.write_bytes(shoe)
    choose_tab(page, "Upload")
    with page.expect_file_chooser() as chooser:
        page.get_by_text("Choose a file").click()
    chooser.value.set_files(file)
    assert_shoe(page, service, finished_rows(page, "shoe.png"), shoe)


@pytest.mark.parametrize("gesture", ["drop", "paste"])
def test_a_file_is_dropped_or_pasted(page: Page, service: Service, shoe: bytes, gesture: str) -> None:
    given = [base64.b64encode(shoe).decode(), "shoe.png", "image/png", gesture]
    not_handled = page.evaluate(GIVE_FILE, given)
    assert not not_handled, "the browser would open the file in place of the page"
    assert_shoe(page, service, finished_rows(page, "shoe.png"), shoe)


def assert_shoe(page: Page, service: Service, rows: dict[str, Row], shoe: bytes) -> None:
    assert_all_answered(rows)
    assert page.evaluate(SHOWN_TENSOR) == image_to_batch(shoe, FASHION).ravel().tolist()
    for answer in service.ask_json("POST", "/compare", shoe)["results"]:
        expected = list(answer["probabilities"].values())
        assert rows[f"{answer['model']}@server"].probabilities == pytest.approx(expected, abs=1e-6)


def test_a_picture_is_copied_and_pasted_by_keyboard(page: Page, shoe: bytes) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate(
        """async (base64) => {
            const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
            const type = 'image/png';
            await navigator.clipboard.write([new ClipboardItem({ [type]: new Blob([bytes], { type }) })]);
        }""",
        base64.b64encode(shoe).decode(),
    )
    page.keyboard.press("Control+V")
    assert_all_answered(finished_rows(page, "image.png"))


def test_a_drawing_is_answered_when_the_pen_is_lifted(page: Page) -> None:
    finished_rows(page, FIRST)  # its picture is shown: nothing moves the paper any more
    choose_tab(page, "Draw")
    page.get_by_test_id("drawing").scroll_into_view_if_needed()
    paper = page.get_by_test_id("drawing").bounding_box()
    assert paper
    x, y = paper["x"], paper["y"]
    page.mouse.move(x + 60, y + 100)
    page.mouse.down()
    page.mouse.move(x + 60, y + 200, steps=5)
    page.mouse.move(x + 220, y + 200, steps=5)
    page.mouse.up()
    assert_all_answered(finished_rows(page, "drawing"))
    drawn = np.reshape(page.evaluate(SHOWN_TENSOR), (28, 28))
    ink = np.argwhere(drawn > 127)  # ink on white paper is inverted
    scale = 28 / paper["width"]
    assert ink.min(axis=0) == pytest.approx([(100 - 9) * scale, (60 - 9) * scale], abs=1)
    assert ink.max(axis=0) == pytest.approx([(200 + 9) * scale, (220 + 9) * scale], abs=1)
    page.get_by_role("button", name="Clear").click()
    assert page.get_by_test_id("drawing").evaluate(
        "(paper) => paper.getContext('2d').getImageData(0, 0, 280, 280).data.every((value) => value === 255)"
    )


def test_the_camera_takes_a_picture_and_is_off_afterwards(page: Page) -> None:
    page.context.grant_permissions(["camera"])
    choose_tab(page, "Camera")
    wait_until(page, "document.querySelector('video')?.videoWidth > 0")
    page.evaluate("() => { window.stream = document.querySelector('video').srcObject; }")
    page.get_by_role("button", name="Take a picture").click()
    assert_all_answered(finished_rows(page, "photograph"))
    choose_tab(page, "Test image")
    wait_until(page, "window.stream.getTracks().every(({ readyState }) => readyState === 'ended')")


def test_a_camera_that_is_refused_says_what_to_do(page: Page) -> None:
    choose_tab(page, "Camera")
    message = page.get_by_role("alert")
    expect(message).to_contain_text("Allow the camera, or upload a file.")
    expect(message).to_contain_text("denied")
    choose_tab(page, "Test image")
    expect(message).to_have_count(0)
    page.locator('[data-sample="0001.png"]').click()
    assert_all_answered(finished_rows(page, "test image 1"))


@pytest.mark.failed_requests
def test_a_picture_that_comes_before_the_rows_are_known_is_answered(
    open_page: OpenPage, service: Service, shoe: bytes
) -> None:
    held: list[Route] = []
    page = open_page(service, lambda page: page.route("**/v2/repository/index", lambda route: held.append(route)))
    upload(page, "early.png", shoe)
    expect(page.get_by_alt_text("early.png")).to_be_visible()
    (index,) = held
    index.continue_()
    assert_all_answered(finished_rows(page, "early.png"))


# --- Pictures that cannot be used


@pytest.mark.failed_requests
def test_a_picture_that_cannot_be_used_is_named_and_the_next_one_is_answered(
    page: Page, subtests: pytest.Subtests, shoe: bytes
) -> None:
    settled(page)
    posted: list[str] = []
    page.on("request", lambda request: posted.extend([request.url] if request.method == "POST" else []))
    for file, said in {
        "text.png": r"Not a picture in a supported format: got \d+ bytes that start with [0-9a-f ]+\. Send one of PNG",
        "empty.png": "got 0 bytes",
        "truncated.png": "truncated or broken",
        "enormous_60000x60000.png": "60000 x 60000 = 3600000000 pixels, the limit is 50000000",
        "animated.gif": r"The GIF picture is animated: got \d frames",
        "animated.png": r"The PNG picture is animated: got \d frames",
    }.items():
        with subtests.test(file=file):
            upload(page, file, (GOLDEN / file).read_bytes())
            rows = finished_rows(page, file)
            assert re.search(said, notice(page))
            assert {(row.state, row.error) for row in rows.values()} == {("failed", "")}, "it is said once, above"
            expect(page.get_by_test_id("picture")).to_have_count(0)
            assert posted == [], "nothing is sent to the server"
            upload(page, f"after {file}", shoe)
            assert_all_answered(finished_rows(page, f"after {file}"))
            assert notice(page) == ""
            settled(page)
            posted.clear()


# --- Faults


@pytest.fixture
def damaged(light_artifacts: Path, tmp_path: Path) -> Iterator[Service]:
    """A service with one file damaged before it starts, and another one while it runs."""
    flip_byte(light_artifacts / "keras_cnn" / "tflite" / "model.tflite")
    with started(light_artifacts, tmp_path / "log") as service:
        flip_byte(light_artifacts / "keras_cnn" / "onnx" / "model.onnx")
        yield service


def flip_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.failed_requests
def test_a_damaged_artifact_says_why_and_all_others_answer(open_page: OpenPage, damaged: Service) -> None:
    page = open_page(damaged)
    rows = finished_rows(page, FIRST)
    failed = {row.id: row for row in rows.values() if row.state == "failed"}
    assert failed.keys() == {"keras_cnn-tflite@server", "keras_cnn-onnx@onnx-wasm"}
    assert re.search(
        r"model\.tflite has sha256 .* expected .* run make artifacts", failed["keras_cnn-tflite@server"].error
    )
    assert failed["keras_cnn-tflite@server"].status == "failed"
    assert "changed since keras_cnn-onnx was loaded" in failed["keras_cnn-onnx@onnx-wasm"].error
    assert rows.keys() >= LIGHT_SERVER_ROWS | LIGHT_BROWSER_ROWS - {"keras_cnn-tflite@litert-wasm"}
    assert rows["keras_cnn-onnx@server"].state == "done"  # it has the bytes that were hashed


@pytest.mark.parametrize(
    ("blocked", "runtimes"),
    [
        ("**/runtimes/tfjs/*.wasm", {"tfjs-wasm"}),
        ("**/runtimes/onnx/*.wasm", {"onnx-wasm"}),
        ("**/runtimes/litert/*.wasm", {"litert-wasm"}),
        ("**/runtimes/**", {"tfjs-wasm", "onnx-wasm", "litert-wasm"}),
        ("**/assets/tflite-*.js", {"litert-wasm"}),
    ],
)
@pytest.mark.failed_requests
def test_a_runtime_that_cannot_be_downloaded_fails_alone(
    open_page: OpenPage, service: Service, blocked: str, runtimes: set[str]
) -> None:
    page = open_page(service, lambda page: page.route(blocked, lambda route: route.abort()))
    rows = finished_rows(page, FIRST)
    failed = {row.id for row in rows.values() if row.state == "failed"}
    assert failed == {row for row in BROWSER_ROWS if row.partition("@")[2] in runtimes}
    for row in failed:
        assert "Check the server, then load the page again" in rows[row].error
        assert "[object" not in rows[row].error
    page.locator('[data-sample="0001.png"]').click()
    rows = finished_rows(page, "test image 1")
    assert {row.id for row in rows.values() if row.state == "done"} >= (SERVER_ROWS | BROWSER_ROWS) - failed


@pytest.mark.failed_requests
def test_a_server_that_dies_leaves_what_the_browser_has_loaded(
    open_page: OpenPage, light_artifacts: Path, tmp_path: Path, shoe: bytes
) -> None:
    with started(light_artifacts, tmp_path / "log") as service:
        page = open_page(service)
        assert_all_answered(finished_rows(page, FIRST), LIGHT_SERVER_ROWS | LIGHT_BROWSER_ROWS)
        service.stop()
        upload(page, "later.png", shoe)
        rows = finished_rows(page, "later.png")
        for row in rows.values():
            if row.where == "browser":
                assert row.state == "done", row
                assert row.diff == "no source answer"
            else:
                assert re.search(r"The server did not answer .* Check that it runs", row.error)
        choose_tab(page, "Test image")
        page.locator('[data-sample="0001.png"]').click()
        expect(page.locator("[data-cell=picture-error]")).to_contain_text("The server did not answer /samples/0001.png")


# --- The page as a whole


def test_no_request_leaves_the_page_s_origin(open_page: OpenPage, service: Service) -> None:
    requested: list[str] = []
    page = open_page(service, lambda page: page.on("request", lambda request: requested.append(request.url)))
    finished_rows(page, FIRST)
    fetched = [url for url in requested if url.startswith("http")]
    assert len(fetched) > 40
    assert all(url.startswith(f"{service.url}/") for url in fetched)
    for file in ("tfjs-backend-wasm", "ort-wasm", "litert_wasm"):
        assert any(f"/{file}" in url for url in fetched), "the runtimes come from the service itself"


def test_the_page_is_isolated_and_keeps_the_service_s_policy(
    open_page: OpenPage, service: Service, problems: list[str]
) -> None:
    answers: list[Response] = []
    page = open_page(service, lambda page: page.on("response", lambda answer: answers.append(answer)))
    document = next(answer for answer in answers if answer.url == f"{service.url}/")
    for name, value in HEADERS.items():
        assert document.headers[name.lower()] == value
    assert page.evaluate("crossOriginIsolated") is True
    assert page.evaluate(RUN_INLINE) is False
    assert page.evaluate("fetch('http://elsewhere.test/').catch((error) => error.name)") == "TypeError"
    hear_out(page)
    for seen in (
        "script-src-elem of the page's policy refused inline",
        "connect-src of the page's policy refused http",
    ):
        assert any(seen in problem for problem in problems), "violations are seen, and fail a test at its end"
    problems.clear()


def test_everything_is_reached_by_keyboard(open_page: OpenPage, service: Service, tmp_path: Path, shoe: bytes) -> None:
    page = open_page(service)
    finished_rows(page, FIRST)
    page.keyboard.press("Tab")
    tab_to(page, '[role=tab][aria-selected="true"]')
    tab_to(page, '[data-sample="0000.png"]')
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.sample") == "0001.png"
    page.keyboard.press("Enter")
    assert_all_answered(finished_rows(page, "test image 1"))
    tab_to(page, ".switch input")
    page.keyboard.press("Space")
    assert finished_rows(page, "test image 1").keys() == SERVER_ROWS

    tab_to(page, "[role=tab]", "Shift+Tab")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Upload")).to_have_attribute("aria-selected", "true")
    tab_to(page, ".drop input[type=file]")
    assert page.locator(".drop").evaluate("(label) => label.matches(':focus-within')")
    with page.expect_file_chooser() as chooser:
        page.evaluate("0")  # what asks to intercept the chooser goes this way, and a key could overtake it
        page.keyboard.press("Space")
    (tmp_path / "typed.png").write_bytes(shoe)
    chooser.value.set_files(tmp_path / "typed.png")
    assert finished_rows(page, "typed.png").keys() == SERVER_ROWS


def tab_to(page: Page, selector: str, key: str = "Tab") -> None:
    """Press the tab key until what the selector names has the focus."""
    for _ in range(60):
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press(key)
    raise AssertionError(f"{selector} cannot be reached with {key}.")


@pytest.fixture(scope="module")
def report_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report's page and its plots."""
    folder = tmp_path_factory.mktemp("report")
    report = reports.report_of(reports.row("m-keras", ms=9), reports.row("m-onnx"))
    write_page(add_recommendations(report, None, Constraints()), folder)
    return folder


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_report_is_shown_under_the_service_s_policy(
    open_page: OpenPage, service: Service, report_folder: Path, theme: str, width: int
) -> None:
    """Every plot in it, without a script, and without sideways scrolling of the page."""
    body = (report_folder / "report.html").read_bytes()
    headers = {**HEADERS, "Content-Type": "text/html; charset=utf-8"}
    page = open_page(
        service,
        lambda page: page.route("**/report/", lambda route: route.fulfill(body=body, headers=headers)),
        path="/report/",
        color_scheme=theme,
        viewport={"width": width, "height": 800},
    )
    expect(page.get_by_role("heading", name="Which format to ship")).to_be_visible()
    expect(page.get_by_text("For a server, ship m-onnx on Runtime 1.2.")).to_be_visible()
    plots = page.evaluate("Array.from(document.images, ({ naturalWidth, currentSrc }) => [naturalWidth, currentSrc])")
    assert len(plots) == 6
    assert all(size > 500 for size, _ in plots)
    suffix = base64.b64encode((report_folder / f"latency-{theme}.png").read_bytes()).decode()
    assert any(source.endswith(suffix) for _, source in plots), "each theme has its own"
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_an_idle_page_runs_what_it_is_told_and_nothing_else(open_page: OpenPage, service: Service) -> None:
    page = open_page(service, path="/?idle")
    wait_until(page, "document.documentElement.dataset.ready")
    timing = page.evaluate("window.rosetta.time('keras_cnn-tflite@litert-wasm', [Array(784).fill(9)], 0.05)")
    assert len(timing["samples"]) >= 3
    assert timing["backend"].startswith("wasm, threads: ")
    assert timing["unsteady"] <= TOLERANCE
    assert sum(timing["answers"][0]) == pytest.approx(1, abs=1e-4)
    states = page.evaluate("Array.from(document.querySelectorAll('[data-row]'), (row) => row.dataset.state)")
    assert set(states) == {"idle"}


@pytest.mark.failed_requests
def test_a_narrow_screen_needs_no_sideways_scrolling(open_page: OpenPage, service: Service) -> None:
    page = open_page(service, viewport={"width": 360, "height": 740}, has_touch=True)
    finished_rows(page, FIRST)
    too_wide = """() => [...document.querySelectorAll('body *')].filter((element) => {
        const { left, right } = element.getBoundingClientRect();
        return !element.closest('thead') && (left < 0 || right > innerWidth); // the head is for screen readers here
    }).map((element) => element.outerHTML.slice(0, 200))"""
    for tab in ("Test image", "Upload", "Draw", "Camera"):
        choose_tab(page, tab)
        assert page.evaluate(too_wide) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    upload(page, "text.png", (GOLDEN / "text.png").read_bytes())
    finished_rows(page, "text.png")
    assert page.evaluate(too_wide) == []
