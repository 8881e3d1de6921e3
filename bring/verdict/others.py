"""Files that are no models of a supported kind: what they are, and what to bring instead."""

from typing import Any

CHECKPOINT = (
    "variables without the graph that answers. Restore them where the model is built, write it with "
    "`model.export(folder)`, or in TensorFlow 1 with `tf.compat.v1.saved_model.simple_save(session, folder, inputs, "
    "outputs)`, and bring that folder"
)
"""What a checkpoint of TensorFlow is."""
AS_ONNX = "Where it was trained, write it as ONNX"
XGBOOST_BINARY = b"{L\x00\x00\x00\x00\x00\x00\x00\x07learner"
"""How the binary JSON of XGBoost begins."""

SIGNATURES = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"RIFF": "a RIFF file (WebP, WAV)",
    b"%PDF": "a PDF document",
    b"GGUF": "a GGUF language model, for llama.cpp",
    b"lmgg": "a GGML model, for whisper.cpp and the like: bring the model that it was converted from",
    b"CBM1": f'a CatBoost model. {AS_ONNX} by `model.save_model("model.onnx", format="onnx")`, and bring that',
    b"tree\nversion=": f"a LightGBM model. {AS_ONNX} by onnxmltools.convert_lightgbm, and bring that",
    XGBOOST_BINARY: f"an XGBoost model. {AS_ONNX} by onnxmltools.convert_xgboost, and bring that",
    b"\xba\x16O/": "a fastText model: a table of words, which its own library alone reads",
    b"7767517": "a graph of ncnn, which is not read: bring the model that it was converted from",
    b"ftrt": "an engine of TensorRT, which is not read: bring the model that it was built from",
    b"\x1f\x8b": "compressed with gzip: unpack it first",
    b"BZh": "compressed with bzip2: unpack it first",
    b"\xfd7zXZ": "compressed with xz: unpack it first",
    b"(\xb5/\xfd": "compressed with Zstandard: unpack it first",
    b"7z\xbc\xaf": "a 7-Zip archive: unpack it first",
    b"\x7fELF": "a compiled program",
    b"PK\x05\x06": "an empty zip archive",
    b"\x93NUMPY": "a NumPy array, which does not say what computes with it",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: run `git lfs pull`",
}


def seems(head: bytes) -> str | None:
    """What a file that is not a model is, by its first bytes; None where they do not say."""
    for signature, kind in SIGNATURES.items():
        if head.startswith(signature):
            return kind
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it first"
    if head[4:8] == b"ORTM":
        return "a model for one runtime alone (ORT): bring the model that it was converted from"
    try:
        text = head[: len(head) - 4].decode() if len(head) == 1024 else head.decode()  # a character may be cut
    except ValueError:
        return None
    return "text" if text.isprintable() or all(c.isprintable() or c in "\t\r\n\f" for c in text) else None


def seems_json(content: Any) -> str | None:
    """What a JSON file that is not a TF.js model is; None where it does not say."""
    if isinstance(content, dict) and "learner" in content:
        return SIGNATURES[XGBOOST_BINARY]
    if isinstance(content, dict) and "base_code" in content:
        return "a program of PaddlePaddle. Write it as ONNX by paddle2onnx, and bring that"
    if isinstance(content, list) and all(
        isinstance(part, dict) and {"weights", "paths"} <= part.keys() for part in content
    ):
        return (
            "the list of a TF.js model's weights, without its layers: those are in the JavaScript that loads it, as in "
            "face-api.js. Bring a model.json that has them"
        )
    return None
