"""What ships: files with their hashes, and code that works when it is pasted."""

import contextlib
import dataclasses
import functools
import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from contract.arm_proof import ArmProof
from contract.code import ROOT
from contract.formats import is_installed
from contract.manifest import read_manifest
from contract.parity_result import read_status
from tests.browser.conftest import OpenPage, wait_until
from tests.browser.test_page import shoe_photo
from tests.reports import PROOF
from tests.serving import Service

PYTHON_ROWS = ["keras_cnn-onnx@server", "keras_cnn-tflite@server", "torch_cnn-torch@server", "keras_cnn-keras@server",
               "keras_cnn-savedmodel@server"]  # fmt: skip
PYTHON_ROWS += [f"torch_cnn-{format}@server" for format in ("executorch", "coreai") if is_installed(format)]
CONVERTED = ("onnx", "savedmodel", "tflite", "tfjs")
SCRIPT_ROWS = [
    "keras_cnn-onnx@onnx-wasm",
    "keras_cnn-tflite@litert-wasm",
    "keras_cnn-tfjs@tfjs-wasm",
    "torch_cnn-tfjs@tfjs-webgl",
]
COMMAND_SECONDS = 180
ROUNDING = 0.01
"""How far an answer may be off for a photo: where a mean lies at a half, floats may round to the other level."""


@pytest.fixture
def page(open_page: OpenPage, service: Service) -> Page:
    page = open_page(service, path="/?idle#ship")
    wait_until(page, "document.documentElement.dataset.ready")
    return page


def choose(page: Page, row: str) -> None:
    page.get_by_label("Row", exact=True).select_option(row)
    page.locator(f"[data-ship='{row}']").wait_for()


def snippets(page: Page, language: str) -> dict[str, str]:
    """Title -> code."""
    found = page.locator(f"[data-snippet][data-language={language}]")
    titles = found.evaluate_all("(all) => all.map(({ dataset }) => dataset.snippet)")
    return dict(zip(titles, found.all_text_contents(), strict=True))


def test_files_have_the_hashes_of_the_manifest_and_can_be_downloaded(
    page: Page, artifacts: Path, tmp_path: Path
) -> None:
    choose(page, "keras_cnn-tfjs@tfjs-wasm")
    manifest = read_manifest(artifacts / "keras_cnn" / "tfjs")
    rows = page.locator("[data-file]")
    shown = rows.evaluate_all("(rows) => rows.map((row) => [row.dataset.file, row.querySelector('code').textContent])")
    assert dict(shown) == manifest.files
    for name, digest in manifest.files.items():
        with page.expect_download() as download:
            page.get_by_role("link", name=name, exact=True).click()
        download.value.save_as(tmp_path / name)
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest


def test_where_the_operators_run_is_named(page: Page, artifacts: Path) -> None:
    choose(page, "torch_cnn-tflite@server")
    parity = read_status(artifacts / "torch_cnn" / "tflite").parity
    assert parity and len(parity.placements) == 1
    expect(page.locator("[data-placement='XNNPACK']")).to_have_text(f"{parity.placements[0]}.")


OTHER = dataclasses.replace(PROOF, passed=False, reasons=("3 answers change class at batch 1",))


@pytest.mark.parametrize(
    ("proof", "locale", "words"),
    [
        (PROOF, "en", f"{PROOF}."),
        (
            dataclasses.replace(PROOF, differs=("at zero it is 1",)),
            "en",
            "cortex-a76, 1,000 questions); at zero it is 1;",
        ),
        (OTHER, "en", f"{OTHER}."),
        (PROOF, "ko", "64비트 ARM에서 같은 답 확인(cortex-a76 에뮬레이션, 질문 1,000개); 시간은 측정하지 않음."),
        (None, "en", ""),
    ],
)
def test_whether_its_answers_are_proven_on_arm_is_named(
    open_page: OpenPage, service: Service, proof: ArmProof | None, locale: str, words: str
) -> None:
    def with_proof(route: Route) -> None:
        response = route.fetch()
        about = response.json()
        about["parameters"]["arm"] = proof and dataclasses.asdict(proof)
        route.fulfill(response=response, json=about)

    name, pattern = "torch_cnn-tflite", "**/v2/models/torch_cnn-tflite"
    page = open_page(
        service, lambda page: page.route(pattern, with_proof), path=f"/?idle#ship/{name}@server", locale=locale
    )
    page.locator(f"[data-ship='{name}@server']").wait_for()
    if proof is None:
        expect(page.locator("[data-arm]")).to_have_count(0)
    else:
        expect(page.locator(f"[data-arm='{name}']")).to_contain_text(words)


def test_each_row_names_the_image_of_its_runtime(page: Page) -> None:
    images = re.findall(r"image: (rosetta-serve/serve-\w+)", (ROOT / "docker" / "compose.yaml").read_text())
    named = set()
    for row in ("keras_cnn-keras", "torch_cnn-torch", *(f"keras_cnn-{format}" for format in CONVERTED)):
        choose(page, f"{row}@server")
        line = snippets(page, "sh")["Container"]
        family = row.partition("-")[2].replace("savedmodel", "keras")  # TensorFlow's image runs both
        assert line.startswith("docker run ") and line.endswith(f" rosetta-serve/serve-{family}")
        named.add(line.split()[-1])
    assert named == set(images)


def test_the_tab_opens_a_row_of_a_chosen_model(open_page: OpenPage, service: Service) -> None:
    page = open_page(service, path="/?idle")
    wait_until(page, "document.documentElement.dataset.ready")
    page.locator(".chooser input[name=keras_cnn]").uncheck()
    page.locator(".views a[href='#ship']").click()
    expect(page.get_by_label("Row", exact=True)).to_have_value(re.compile("^torch_cnn-"))


def test_an_unknown_row_is_named_and_no_other_is_shown(open_page: OpenPage, service: Service) -> None:
    for address, row in {"nobody-onnx@server": "nobody-onnx@server", "%": "%", "%25": "%"}.items():
        page = open_page(service, path=f"/?idle#ship/{address}")
        expect(page.get_by_role("alert")).to_have_text(f"There is no row {row} here. Choose another row.")
        assert shown_files(page) == []
    choose(page, "keras_cnn-onnx@server")
    expect(page.get_by_role("alert")).to_have_count(0)
    assert shown_files(page) == ["model.onnx"]


@pytest.mark.failed_requests
def test_the_row_of_a_broken_artifact_says_what_is_wrong_and_shows_no_other(
    open_page: OpenPage, service: Service
) -> None:
    def refuse(route: Route) -> None:
        route.fulfill(status=503, json={"error": "model.json is damaged."})

    def prepare(page: Page) -> None:
        page.route("**/v2/models/torch_cnn-tfjs", refuse)

    page = open_page(service, prepare, path="/?idle#ship/torch_cnn-tfjs@server")
    alert = page.get_by_role("alert")
    expect(alert).to_have_text("torch_cnn-tfjs@server cannot be shipped. model.json is damaged.")
    assert shown_files(page) == []
    assert snippets(page, "sh") == {}


def shown_files(page: Page) -> list[str]:
    return page.locator("[data-file] a").all_text_contents()


def test_copied_is_shown_only_if_the_text_was_copied(page: Page) -> None:
    button = page.get_by_role("button", name="Copy: curl")
    refuse = "() => { navigator.clipboard.writeText = () => Promise.reject(new Error('refused')); }"
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    button.click()
    expect(page.get_by_role("button", name="Copied: curl")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == snippets(page, "sh")["curl"]
    expect(button).to_be_visible()
    page.evaluate(refuse)
    button.click()
    expect(page.get_by_text("Not copied. Select the text.")).to_be_visible()
    expect(page.get_by_text("Copied", exact=True)).to_have_count(0)
    expect(button).to_be_visible()


@pytest.fixture(scope="module")
def pictures(artifacts: Path) -> dict[str, tuple[bytes, float]]:
    """A picture, and how far answers may be off: one that needs no scaling, and one that needs all of the steps."""
    sample = (artifacts / "samples" / "0002.png").read_bytes()
    return {"sample": (sample, 1e-4), "photo": (shoe_photo("PNG", orientation=6), ROUNDING)}


@pytest.fixture(scope="module", params=["sample", "photo"])
def picture(request: pytest.FixtureRequest, pictures: dict[str, tuple[bytes, float]]) -> tuple[bytes, float]:
    return pictures[request.param]


def expected(service: Service, row: str, data: bytes) -> tuple[str, list[float]]:
    answer = service.ask_json("POST", f"/predict/{row.partition('@')[0]}", data)
    return answer["label"], list(answer["probabilities"].values())


def test_what_calls_the_service_works_when_pasted(
    page: Page, service: Service, picture: tuple[bytes, float], tmp_path: Path
) -> None:
    data, _ = picture
    for name in ("picture.png", "given"):
        (tmp_path / name).write_bytes(data)
    row = "torch_cnn-onnx@server"
    choose(page, row)
    label, probabilities = expected(service, row, data)
    assert json.loads(printed(["bash", "-c", snippets(page, "sh")["curl"]], tmp_path))["label"] == label
    ((said, values),) = run_python(snippets(page, "python")["Python"], tmp_path, "given")
    assert said == label
    assert values == pytest.approx(probabilities, abs=1e-6)


needs_r = pytest.mark.skipif(shutil.which("Rscript") is None, reason="R is not installed")


@needs_r
def test_r_that_calls_the_service_works_when_pasted(
    page: Page, service: Service, artifacts: Path, tmp_path: Path
) -> None:
    data = (artifacts / "samples" / "0002.png").read_bytes()
    (tmp_path / "picture.png").write_bytes(data)
    row = "torch_cnn-onnx@server"
    choose(page, row)
    answer = service.ask_json("POST", f"/predict/{row.partition('@')[0]}", data)
    label, *lines = printed(["Rscript", "-"], tmp_path, snippets(page, "r")["R"]).splitlines()
    assert label.rstrip() == answer["label"]
    values = {name: float(value) for name, value in (line.rstrip().rsplit(" ", 1) for line in lines)}
    assert values == pytest.approx(answer["probabilities"], rel=1e-6)


@needs_r
def test_r_reads_the_weights_of_a_keras_model_with_their_axes_in_keras_s_order(page: Page, artifacts: Path) -> None:
    choose(page, "keras_cnn-keras@server")
    folder = artifacts / "keras_cnn" / "keras"
    code = snippets(page, "r")["R, hdf5r"] + '\ncat(weights[[2]][2, 3, 1, 5], "\\n")'
    *lines, value = printed(["Rscript", "-"], folder, code).splitlines()
    with h5py.File(folder / "model.h5") as file:
        shapes: dict[str, list[int]] = {}
        file["model_weights"].visititems(
            lambda name, item: shapes.update({name: list(item.shape)}) if isinstance(item, h5py.Dataset) else None
        )
        assert {name: list(map(int, sizes)) for name, *sizes in map(str.split, lines)} == shapes
        assert float(value) == pytest.approx(file["model_weights"][list(shapes)[1]][1, 2, 0, 4], rel=1e-6)


@pytest.mark.skipif(shutil.which("g++") is None, reason="There is no compiler of C++.")
@pytest.mark.skipif(not is_installed("openvino"), reason="OpenVINO is missing: run `make runtimes RUNTIMES=openvino`.")
def test_cpp_that_runs_the_artifact_works_when_pasted(
    page: Page, service: Service, artifacts: Path, tmp_path: Path
) -> None:
    row = "torch_cnn-openvino@server"
    choose(page, row)
    code = snippets(page, "cpp")["C++, OpenVINO"]
    folder = shutil.copytree(folder_of(artifacts, row), tmp_path / row)
    (folder / "predict.cpp").write_text(code)
    commands = re.findall(r"^// (OPENVINO=.*|g\+\+ .*)$", code, re.MULTILINE)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    printed(["bash", "-ec", "\n".join(commands)], folder, PATH=path)
    name, _, values = printed([str(folder / "predict")], folder).partition(": ")
    zeros = {"name": "pixels", "shape": [1, 28, 28, 1], "datatype": "FP32", "data": [0.0] * 784}
    answer = service.ask_json("POST", "/v2/models/torch_cnn-openvino/infer", json.dumps({"inputs": [zeros]}).encode())
    assert name == answer["outputs"][0]["name"]
    assert [*map(float, values.split())] == pytest.approx(answer["outputs"][0]["data"], rel=1e-4)


def test_python_that_runs_the_artifact_works_when_pasted(
    page: Page,
    service: Service,
    artifacts: Path,
    pictures: dict[str, tuple[bytes, float]],
    tmp_path: Path,
    subtests: pytest.Subtests,
) -> None:
    """Each row's code in a process of its own, once for each picture."""
    codes = {}
    for row in PYTHON_ROWS:
        choose(page, row)
        (codes[row],) = [code for title, code in snippets(page, "python").items() if title != "Python"]
        folder = shutil.copytree(folder_of(artifacts, row), tmp_path / row)
        for name, (data, _) in pictures.items():
            (folder / name).write_bytes(data)
    with ThreadPoolExecutor(2) as pool:  # most of the time is the frameworks' start
        said = pool.map(lambda row: run_python(codes[row], tmp_path / row, *pictures), PYTHON_ROWS)
        for row, answers in zip(PYTHON_ROWS, said, strict=True):
            for (data, tolerance), (label, values) in zip(pictures.values(), answers, strict=True):
                with subtests.test(row=row, tolerance=tolerance):
                    right, probabilities = expected(service, row, data)
                    assert label == right
                    assert values == pytest.approx(probabilities, abs=tolerance)


def folder_of(artifacts: Path, row: str) -> Path:
    model, _, format = row.partition("@")[0].partition("-")
    return artifacts / model / format


PASTE = """
import os, sys
code = sys.stdin.read()
for picture in sys.argv[1:]:
    os.replace(picture, "picture.png")
    exec(code, {"__name__": "__main__"})
"""


def run_python(code: str, folder: Path, *pictures: str) -> list[tuple[str, list[float]]]:
    """Run a snippet on each of these files in turn, as its `picture.png`; the labels and probabilities that it prints.

    Each time it starts with nothing but what it imports itself; a process of its own for each would take longer.
    """
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "ORT_DISABLE_TELEMETRY": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", PASTE, *pictures]
    return [answer_in(line) for line in printed(command, folder, code, **quiet).splitlines() if " {" in line]


def printed(command: list[str], folder: Path, given: str = "", **environment: str) -> str:
    """What a command prints in this folder. Raises AssertionError if it fails."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | environment,
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def answer_in(line: str) -> tuple[str, list[float]]:
    label, _, rest = line.partition(" {")
    values: dict[str, float] = eval("{" + rest, {"__builtins__": {}})
    return label, list(values.values())


@pytest.fixture(scope="module")
def built(
    browser: Browser, service: Service, artifacts: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of pages that are nothing but the snippets, one for each of SCRIPT_ROWS, as Vite builds them."""
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "node_modules").symlink_to(ROOT / "web" / "node_modules")
    with browser.new_context(service_workers="block") as context:
        page = context.new_page()
        page.goto(f"{service.url}/?idle#ship")
        wait_until(page, "document.documentElement.dataset.ready")
        for number, row in enumerate(SCRIPT_ROWS):
            choose(page, row)
            ((_, code),) = snippets(page, "javascript").items()
            (folder / f"{number}.js").write_text(code)
            (folder / f"{number}.html").write_text(f'<script type="module" src="./{number}.js"></script>')
            do_what_it_says_before(code, folder)
            shutil.copytree(folder_of(artifacts, row), folder / "public" / str(number))
    names = json.dumps([f"{number}.html" for number in range(len(SCRIPT_ROWS))])
    options = f"build: {{ target: 'es2022', rolldownOptions: {{ input: {names} }} }}, logLevel: 'error'"
    (folder / "vite.config.js").write_text(f"export default {{ {options} }};")
    printed([str(folder / "node_modules" / ".bin" / "vite"), "build"], folder)
    with serving_files(folder / "dist") as url:
        yield url


def do_what_it_says_before(code: str, folder: Path) -> None:
    """Run the snippet's own commands for files to copy; what it installs is here."""
    for line in code.splitlines():
        if line.startswith("// mkdir "):
            printed(["bash", "-c", line.removeprefix("// ")], folder)


@contextlib.contextmanager
def serving_files(folder: Path) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("row", SCRIPT_ROWS)
def test_javascript_that_runs_the_artifact_works_when_pasted(
    browser: Browser, built: str, service: Service, row: str, picture: tuple[bytes, float]
) -> None:
    data, tolerance = picture
    number = SCRIPT_ROWS.index(row)
    label, probabilities = expected(service, row, data)
    with browser.new_context() as context:
        page = context.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.route("**/picture.png", lambda route: route.fulfill(body=data, content_type="image/png"))
        for name in ("model.onnx", "model.tflite", "model.json", "group*.bin"):
            page.route(f"{built}/{name}", lambda route: route.continue_(url=with_folder(route.request.url, number)))
        with page.expect_console_message(lambda message: message.text.startswith(f"{label} "), timeout=60_000) as said:
            page.goto(f"{built}/{number}.html")
        assert errors == []
        assert said.value.args[1].json_value() == pytest.approx(probabilities, abs=tolerance)


def with_folder(url: str, number: int) -> str:
    start, _, name = url.rpartition("/")
    return f"{start}/{number}/{name}"
