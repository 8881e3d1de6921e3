"""The documents say what is there: links, commands, settings, paths and figures are held to the project."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from compare.tables import START, TABLES
from contract.code import ROOT
from contract.manifest import ImageSpec, Manifest, TensorSpec, sha256_of_files, write_json, write_manifest
from serve.settings import Settings
from tests.serving import Service, started
from tests.test_serve_process import variables

Run = Callable[..., subprocess.CompletedProcess[str]]

README, SERVING, DEVELOPMENT = ROOT / "README.md", ROOT / "docs" / "serving.md", ROOT / "docs" / "development.md"
PAGES = (
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "CHANGELOG.md",
    ROOT / "tests" / "conformance" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
)
MAKEFILE = (ROOT / "Makefile").read_text()
ADDRESS = "http://127.0.0.1:8000"
"""The service's address in the examples."""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def each_page(*pages: Path) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages or PAGES, ids=name_of)


def prose(page: Path) -> str:
    """A page's text without its blocks of code."""
    return re.sub(r"(?m)^    (?! *[-*] ).*$", "", page.read_text())


def blocks(page: Path) -> Iterator[str]:
    """The blocks of code of a page: paragraphs that are indented by four spaces."""
    for block in re.findall(r"(?:(?:^|\n)    .*|\n(?=\n    ))+", page.read_text()):
        yield re.sub(r"(?m)^    ", "", block).strip("\n")


def table(page: Path, header: str) -> Iterator[list[str]]:
    """The cells of each row of the table whose header begins like this."""
    _, found, rest = page.read_text().partition(f"\n{header}")
    assert found, f"{name_of(page)} has no table {header}"
    for line in rest.splitlines()[2:]:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


def in_backticks(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


# Links


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """The links of a page that lead nowhere. Addresses of other servers are not tried."""
    targets = [link for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)) if "://" not in link]
    return [link for link in targets if not leads_somewhere(page, link)]


def leads_somewhere(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    return target.exists() and (not anchor or anchor in anchors(target))


@each_page()
def test_every_link_and_anchor_leads_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    other = tmp_path / "other.md"
    other.write_text("# A title, `code`\n\n    # no heading\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md#a-title-code) [b](other.md#no-heading) [c](gone.md) [d](#none) [e](other.md)\n# Here\n"
    )
    assert broken_links(page) == ["other.md#no-heading", "gone.md", "#none"]


def test_every_page_is_reached_from_the_readme() -> None:
    linked = {
        (README.parent / link.partition("#")[0]).resolve() for link in re.findall(r"\]\(([^)\s]+)\)", prose(README))
    }
    assert [name_of(page) for page in (ROOT / "docs").glob("*.md") if page not in linked] == []


# The README


def test_the_readme_fits_on_two_screens() -> None:
    assert len(README.read_text().splitlines()) <= 150


def test_the_readmes_tree_has_every_folder_and_no_other() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    folders = {line.partition("/")[0] for line in listed.splitlines() if "/" in line and not line.startswith(".")}
    (tree,) = (block for block in blocks(README) if "contract/" in block)
    shown = [line.partition("/")[0] for line in tree.splitlines()]
    assert sorted(shown) == sorted(folders)


@each_page()
def test_every_path_in_the_text_is_there(page: Path) -> None:
    paths = [
        code for code in in_backticks(page.read_text()) if re.fullmatch(r"[\w.-]+/[\w./-]*\.(py|tsx?|js|j2|json)", code)
    ]
    made = ("artifacts", "build")
    assert [path for path in paths if not path.startswith(made) and not (ROOT / path).exists()] == []


def test_every_test_that_the_trust_page_names_is_there() -> None:
    named = [name for _, name in table(ROOT / "docs" / "trust.md", "| attack | test |")]
    written = "\n".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    assert named
    assert [name for name in named if f"def {name.strip('`')}(" not in written] == []


# Figures


def marks() -> dict[str, list[str]]:
    """Each table's name -> the pages that have its marks."""
    pages: dict[str, list[str]] = {}
    for page in PAGES:
        for name in re.findall(START.replace("{}", r"(\w+)"), page.read_text()):
            pages.setdefault(name, []).append(name_of(page))
    return pages


def test_every_table_of_figures_has_one_place_and_a_command() -> None:
    written_by = {
        "serving": "bench.serving",
        "images": "bench.images",
        "zoo": "bench.zoo",
        "variants": "bench.zoo",
        "field": "bench.field",
        "runtimes": "bench.runtimes",
        "page": "bench.page",
        "faults": "bench.faults",
    }
    places = marks()
    assert set(places) == set(TABLES) | set(written_by)
    assert {name: pages for name, pages in places.items() if len(pages) > 1} == {}
    assert [module for module in written_by.values() if f"-m {module}" not in MAKEFILE] == []


def figures(page: Path, name: str) -> list[str]:
    lines = page.read_text().partition(START.format(name))[2].partition("<!-- /figures -->")[0].splitlines()
    return [line for line in lines if line.startswith("| `")]


def test_the_readmes_figures_are_those_of_the_formats_page() -> None:
    """Both are written from one report at once: nobody fills one of them from another run, or by hand."""
    long = {line.split("|")[1].strip(): line.split("|") for line in figures(ROOT / "docs" / "formats.md", "artifacts")}
    short = [line.split("|") for line in figures(README, "answer")]
    assert len(short) == len(long) > 0
    for _, name, answers, time, size, _ in short:
        row = [cell.strip() for cell in long[name.partition(",")[0].strip()]]  # without its marks
        assert answers.strip() == ", ".join(filter(None, row[4:6])), name
        assert [time.strip(), size.strip()] == [row[10], f"{row[6]} + {row[7]}"], name


# Commands


def lines_of_code(page: Path) -> list[str]:
    return [line.partition(" #")[0].rstrip() for block in blocks(page) for line in block.splitlines()]


TARGETS = set(re.findall(r"^([a-z-]+):(?!=)", MAKEFILE, re.MULTILINE))
MAKE_LINES = sorted({line for page in PAGES for line in lines_of_code(page) if line.startswith("make ")})


@each_page()
def test_every_target_of_make_is_there(page: Path) -> None:
    named = re.findall(r"`make ([a-z-]+)|^    make ([a-z-]+)", page.read_text(), re.MULTILINE)
    assert [target for pair in named for target in pair if target and target not in TARGETS] == []


@pytest.mark.parametrize("line", MAKE_LINES)
def test_make_understands_every_example(line: str, make: Run) -> None:
    """Make prints what it would run, and runs nothing; nothing is installed either."""
    done = make("--dry-run", *shlex.split(line)[1:])
    assert done.returncode == 0, done.stderr


def test_make_help_lists_what_the_readme_begins_with(make: Run) -> None:
    listed = make("help").stdout
    assert {"run", "compare", "all", "up", "test"} <= {line.split()[0] for line in listed.splitlines() if line}


MODULE_LINES = sorted(
    {line[line.index("python -m ") :] for page in PAGES for line in lines_of_code(page) if "python -m " in line}
)


@pytest.mark.parametrize("line", [line for line in MODULE_LINES if "pytest" not in line])
def test_every_module_in_an_example_takes_its_options(line: str) -> None:
    _, _, module, *arguments = shlex.split(line)
    command = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [word for word in arguments if word.startswith("--") and word not in done.stdout] == []


def test_an_example_of_a_module_is_there() -> None:
    assert "python -m bring.verdict flowers.h5" in MODULE_LINES


@each_page()
def test_every_module_in_the_text_is_there(page: Path) -> None:
    named = {module for module in re.findall(r"python -m ([\w.]+)", page.read_text()) if module != "pytest"}
    paths = {module: ROOT.joinpath(*module.split(".")) for module in named}
    assert [
        m for m, path in paths.items() if not (path.with_suffix(".py").is_file() or (path / "__main__.py").is_file())
    ] == []


# The examples with curl


@pytest.fixture(scope="module")
def small_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service over one small ONNX model with the name that the examples use, and one sample picture."""
    folder = tmp_path_factory.mktemp("docs")
    write_model(folder / "artifacts" / "keras_cnn" / "onnx")
    samples = folder / "artifacts" / "samples"
    samples.mkdir()
    PIL.Image.fromarray(np.arange(784, dtype=np.uint8).reshape(28, 28)).save(samples / "0000.png")
    write_json(samples / "index.json", {"samples": []})
    with started(folder / "artifacts", folder / "output") as service:
        yield service


def write_model(folder: Path) -> None:
    """Pixels (N, 28, 28, 1) -> ten probabilities, with weights that nobody trained."""
    import onnx
    from onnx import helper, numpy_helper

    weights = np.random.default_rng(1).normal(size=(784, 10)).astype(np.float32) / 1000
    nodes = [
        helper.make_node("Flatten", ["pixels"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("pixels", ["n", 28, 28, 1]), ("probabilities", ["n", 10]))
    ]
    graph = helper.make_graph(nodes, "docs", ends[:1], ends[1:], [numpy_helper.from_array(weights, "weights")])
    folder.mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    manifest = Manifest(
        model="keras_cnn",
        format="onnx",
        parent=None,
        inputs=(TensorSpec("pixels", "float32", (None, 28, 28, 1), "NHWC"),),
        outputs=(TensorSpec("probabilities", "float32", (None, 10), "NC"),),
        image=ImageSpec(28, 28, 1),
        labels=tuple("abcdefghij"),
        files=sha256_of_files(folder, [folder / "model.onnx"]),
    )
    write_manifest(folder, manifest)


def curl_examples(page: Path) -> str:
    """The blocks of a page that use curl, as one shell script: later ones need the files of earlier ones.

    Those with TLS are tried by a test of their own.
    """
    return "\n".join(block for block in blocks(page) if "curl" in block and "https:" not in block)


def test_the_calls_of_the_protocol_have_the_fields_that_the_table_names(small_service: Service) -> None:
    pixels = {"name": "pixels", "datatype": "FP32", "shape": [1, 28, 28, 1], "data": [0] * 784}
    body = json.dumps({"id": "a", "inputs": [pixels], "parameters": {"times": True}}).encode()
    rows = list(table(SERVING, "| call of the protocol | fields of its answer |"))
    assert len(rows) == 6
    for call, names, *_ in rows:
        method, path = in_backticks(call)[0].split()
        path = path.replace("{model}", "keras_cnn-onnx").replace("{version}", "1")
        answer = small_service.ask_json(method, path, body if method == "POST" else None)
        assert answer.keys() >= set(in_backticks(names)), path


@each_page(README, SERVING)
def test_every_example_with_curl_is_answered(page: Path, small_service: Service, tmp_path: Path) -> None:
    script = curl_examples(page).replace(ADDRESS, small_service.url)
    assert script.count(small_service.url) >= 3
    done = run_strictly(script, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"probabilities"' in done.stdout


def run_strictly(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script of curl examples: one that is refused ends it."""
    strict = 'set -euo pipefail; curl() { command curl --fail-with-body "$@"; echo >&2; echo "--- $*" >&2; }\n'
    environment = {**os.environ, **variables}
    command = ["bash", "-c", strict + script]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_way_onto_a_network_leads_to_keys_and_tls(make: Run, tmp_path: Path) -> None:
    """The commands of the section, with another folder for what they make."""
    from tests.test_serve_tls import make_certificate

    (commands,) = (block.splitlines() for block in blocks(SERVING) if "make certificate" in block)
    (script,) = (block for block in blocks(SERVING) if "https:" in block)
    write_model(tmp_path / "artifacts" / "keras_cnn" / "onnx")
    make_certificate(tmp_path)
    printed = {}
    for line in commands:
        if line.startswith("make key "):
            done = make(*shlex.split(line)[1:], f"SERVE_KEYS_FILE={tmp_path / 'keys'}")
            assert done.returncode == 0, done.stderr
            printed[line] = done.stdout.strip()
    *_, serve = commands
    places = {"keys", "tls/cert.pem", "tls/key.pem"}
    settings = dict(word.split("=") for word in shlex.split(serve)[2:])
    settings = {name: str(tmp_path / value) if value in places else value for name, value in settings.items()}
    with started(tmp_path / "artifacts", tmp_path / "output", **settings) as service:
        here = script.replace("127.0.0.1:8000", f"127.0.0.1:{service.port}")
        assert run_strictly(here, tmp_path, KEY=printed["make key NAME=admin"]).returncode == 0
        for key in (printed['make key NAME=app CALLS="keras_cnn-*"'], "wrong"):
            assert run_strictly(here, tmp_path, KEY=key).returncode != 0
        assert "warning" not in service.log


def test_a_brought_file_is_examined_as_the_trust_page_says(tmp_path: Path) -> None:
    write_model(tmp_path / "good")
    (tmp_path / "text.h5").write_text("no model")
    for name, status in (("good/model.onnx", 0), ("text.h5", 1)):
        command = [sys.executable, "-m", "bring.verdict", str(tmp_path / name)]
        assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == status


# Settings and variables


def test_the_table_of_settings_is_that_of_the_code() -> None:
    rows = {in_backticks(row[0])[0]: row[1] for row in table(SERVING, "| variable | default |")}
    assert sorted(rows) == sorted(variables().values())
    for field in fields(Settings):
        default = getattr(Settings(), field.name)
        if isinstance(default, str | int | Path):
            assert rows[variables()[field.name]] == f"`{int(default) if isinstance(default, bool) else default}`"


NOT_FOR_USERS = {"CURDIR", "MAKE", "MAKECMDGOALS", "MAKEFILE_LIST", "MAKEFLAGS", "PATH"}
"""What make sets itself, and what the Makefile only hands on."""


def make_variables(makefile: str) -> set[str]:
    """The variables that a Makefile reads and does not set: `?=` ones, others, and those that stand in a list."""
    lists = dict(re.findall(r"^([A-Z_]+) *:= *(.*)$", makefile, re.MULTILINE))
    code = re.sub(r"^\s*#.*$", "", makefile, flags=re.MULTILINE)
    names = set(re.findall(r"^([A-Z_]+) *\?=", code, re.MULTILINE))
    names |= {name for name in re.findall(r"\$\(([A-Z_]+)\)", code) if not re.search(rf"(?m)^{name} *:?=", code)}
    for loop in code.split("$(foreach name,")[1:]:
        words, _, body = loop.partition(",")
        if "$(call option,$(name))" in body.splitlines()[0]:
            words = re.sub(r"\$\(([A-Z_]+)\)", lambda match: lists[match[1]], words)
            names |= {word.replace("-", "_").upper() for word in words.split()}
    return names - NOT_FOR_USERS


def python_variables() -> set[str]:
    """The environment variables that the project's Python code reads, besides those that it gives its children."""
    folders = ("contract", "train", "export", "verify", "bring", "compare", "serve", "bench")
    names: set[str] = set()
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            if "opponents" not in path.parts:
                names |= set(re.findall(r'os\.environ\.get\("([A-Z_]+)"', path.read_text()))
    return names


def documented_variables() -> set[str]:
    """What the tables of variables name."""
    tables = [(SERVING, "| variable | default |"), (DEVELOPMENT, "| variable | targets |")]
    return {name for page, header in tables for row in table(page, header) for name in in_backticks(row[0])}


def test_the_variables_of_a_makefile_are_found() -> None:
    makefile = (
        "A ?= 1\nB := x-y z\nC = $(D)\n# $(E)\nt:\n\t$(foreach name,$(B),$(call option,$(name))) $(A) $(F) $(MAKE)\n"
    )
    assert make_variables(makefile) == {"A", "D", "F", "X_Y", "Z"}
    assert {"MEMORY_GIB", "MINUTES", "MAX_MB", "TRUST", "DATASET", "PYTEST"} <= make_variables(MAKEFILE)


def text_of_pages() -> str:
    return "\n".join(page.read_text() for page in PAGES)


def test_every_variable_that_is_read_is_documented() -> None:
    text = text_of_pages()
    read = make_variables(MAKEFILE) | python_variables()
    assert sorted(name for name in read if not re.search(rf"`{name}\b|\b{name}=", text)) == []
    assert sorted(python_variables() - documented_variables()) == []


def test_every_variable_that_is_documented_is_read() -> None:
    scripts = [
        ROOT / "Makefile",
        ROOT / "bootstrap",
        *(path for path in (ROOT / "docker").rglob("*") if path.is_file()),
    ]
    code = "\n".join(path.read_text(errors="ignore") for path in scripts)
    known = set(re.findall(r"\b[A-Z][A-Z_]+\b", code)) | make_variables(MAKEFILE) | python_variables()
    assert sorted(documented_variables() - known - set(variables().values())) == []


def test_the_presets_are_those_of_the_code() -> None:
    from bring.description import PRESETS

    rows = table(ROOT / "docs" / "bring.md", "| `PREPROCESS` |")
    assert [in_backticks(row[0])[0] for row in rows] == list(PRESETS)


def test_the_calls_are_those_of_the_service() -> None:
    """Every path of the service's own description is in the table of calls, and no other of these."""
    from serve.openapi import openapi

    described = {
        path
        for path in json.loads(json.dumps(openapi()))["paths"]
        if "/versions/" not in path and "/labels/" not in path
    }
    named: set[str] = set()
    for row in table(SERVING, "| call | answer |"):
        named |= {code.removeprefix("GET ").removeprefix("POST ") for code in in_backticks(row[0])}
    files = {"/", "/report/", "/openapi.json", "/samples/{file}"}
    artifacts = {"/artifacts/{model}/{format}/{file}", "/artifacts/{model}/failed/{format}.log"}
    assert named - files - artifacts == described - files
