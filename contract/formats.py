"""The one table of formats: the name of each, what runs it, the packages that this needs, and the image that serves it.

To add a format, begin here. Tests then ask for the rest: its runtime (serve/runtimes), its tracer (verify/diagnose),
its place in the containers (docker/), and its runtimes in the page (web/src/runtimes).
"""

import importlib.util
from dataclasses import dataclass


@dataclass(frozen=True)
class BrowserRuntime:
    """What executes a format in the page: one library, on one or several backends."""

    title: str
    package: str
    """Its package in npm."""
    ids: tuple[str, ...]
    """Library and backend, as the page names its rows: `tfjs-wasm`."""


@dataclass(frozen=True)
class Format:
    """One way to write a model down. A precision is a suffix: `onnx-int8` belongs to the family `onnx`."""

    name: str
    """Of the family."""
    runtime: str
    """The name of what executes it on a server, for people, without a version."""
    image: str | None
    """The container image that serves it, or None where none does; that of an optional one is built on request."""
    packages: tuple[str, ...] = ()
    """The Python packages of its runtime."""
    node_packages: tuple[str, ...] = ()
    """The packages of its runtime under Node."""
    browser: BrowserRuntime | None = None
    """What executes it in the page, or None where nothing does."""
    outlook: str = ""
    """What somebody who chooses it should know of its future, with the month of that; empty where its makers go on."""
    is_optional: bool = False
    """Whether its runtime is installed only where somebody asks for it."""
    module: str = ""
    """The module of an optional one, where it has another name than the format."""
    proven_on: str = ""
    """On what its answers are proven here, where that is for proof alone: its time says nothing of where it is used."""
    needs: str = ""
    """The system that alone runs it, where that is none of this project's: it is converted here, and not run."""


TABLE = (
    Format("keras", "Keras", "serve-keras", packages=("keras", "tensorflow-cpu")),
    Format("torch", "PyTorch", "serve-torch", packages=("torch",)),
    Format(
        "onnx",
        "ONNX Runtime",
        "serve-onnx",
        packages=("onnxruntime",),
        browser=BrowserRuntime("ONNX Runtime Web", "onnxruntime-web", ("onnx-wasm", "onnx-webgpu")),
    ),
    Format("savedmodel", "TensorFlow", "serve-keras", packages=("tensorflow-cpu",)),
    Format(
        "tflite",
        "LiteRT",
        "serve-tflite",
        packages=("ai-edge-litert",),
        browser=BrowserRuntime("LiteRT.js", "@litertjs/core", ("litert-wasm",)),
    ),
    Format(
        "tfjs",
        "TF.js",
        "serve-tfjs",
        node_packages=("@tensorflow/tfjs-core", "@tensorflow/tfjs-converter", "@tensorflow/tfjs-backend-wasm"),
        browser=BrowserRuntime("TensorFlow.js", "@tensorflow/tfjs-core", ("tfjs-wasm", "tfjs-webgl", "tfjs-webgpu")),
        # `npm view @tensorflow/tfjs-core time` lists one candidate for a release since.
        outlook="The last stable release of TF.js, 4.22.0, is of 2024 (as of 2026-11).",
    ),
    # The stack has no optional runtime: each image would be one more to build, for a format that few may ask for.
    Format("openvino", "OpenVINO", "serve-openvino", packages=("openvino",), is_optional=True),
    Format("executorch", "ExecuTorch", None, packages=("executorch", "torch"), is_optional=True),
    Format(
        "coreai",
        "Core AI",
        None,
        packages=("coreai-core",),
        # PyPI has coreai-core as a beta alone; Apple's documentation names version 27 of its systems.
        outlook="Core AI is in beta (coreai-core 1.0.0b3), and needs iOS 27 (as of 2026-12).",
        is_optional=True,
        proven_on="Apple's own runtime for Linux",
    ),
    Format("coreml", "Core ML", None, packages=("coremltools",), is_optional=True, module="coremltools", needs="macOS"),
)

FORMATS: dict[str, Format] = {format.name: format for format in TABLE}
"""By name, in the order in which a model's artifacts are shown: sources first, then by their distance from them."""

FORMATS_OF_IMAGE: dict[str, tuple[str, ...]] = {
    image: tuple(format.name for format in TABLE if format.image == image)
    for image in dict.fromkeys(format.image for format in TABLE if format.image and not format.is_optional)
}
"""Image of the stack -> the formats that it serves."""


def family_of(format: str) -> str:
    """The format without its precision: `onnx-int8` -> `onnx`."""
    return format.split("-")[0]


def is_reduced(format: str) -> bool:
    """Whether the format names a precision: such an artifact is judged by what it keeps of its source's accuracy."""
    return family_of(format) != format


def is_installed(format: str) -> bool:
    """Whether the runtime of a format, of any precision, is installed here; nothing is imported."""
    family = FORMATS[family_of(format)]
    return not family.is_optional or importlib.util.find_spec(family.module or family.name) is not None


def proven_on(format: str) -> str:
    """On what alone a format's answers are proven here; empty where its runtime here is one that people use."""
    family = family_of(format)
    return FORMATS[family].proven_on if family in FORMATS else ""


def needs(format: str) -> str:
    """The system that alone runs a format, where it is converted here and not run; empty where it is run here."""
    family = family_of(format)
    return FORMATS[family].needs if family in FORMATS else ""


def why_not_run(format: str) -> str:
    """Why a format, of any precision, is not run here; empty where it is."""
    system = needs(format)
    return f"it is converted, and not run here: {FORMATS[family_of(format)].runtime} needs {system}" if system else ""


def why_no_time(format: str) -> str:
    """Why the runtime of a format, of any precision, is not timed here; empty where it is."""
    if why := why_not_run(format):
        return f"{why[0].upper()}{why[1:]}."
    place = proven_on(format)
    return f"It runs here on {place}, for proof alone: its time says nothing of its users' devices." if place else ""


def not_installed(format: str) -> str:
    """What to tell where the runtime of a format is not installed."""
    family = FORMATS[family_of(format)]
    return f"{family.runtime} is not installed. Install it: make runtimes RUNTIMES={family.name}"
