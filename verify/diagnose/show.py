"""A diagnosis as text, as JSON, and the worst pictures as one sheet."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from contract.manifest import Manifest, write_json
from verify.diagnose.diagnosis import Diagnosis, Node, Picture
from verify.diagnose.match import Pair
from verify.questions import Questions

SCHEMA = 3


def text(diagnosis: Diagnosis) -> str:
    """The diagnosis for the terminal."""
    layers = (
        f"layers on {diagnosis.traced} {'edge questions' if diagnosis.reasons and diagnosis.is_ordinary else 'of them'}"
    )
    basis = f"answers on {diagnosis.images} {'pictures' if diagnosis.source.image else 'rows'}"
    lines = [
        f"{diagnosis.artifact.name} beside its source {diagnosis.source.name}: {basis}"
        + (f", {layers}{', one at a time' if diagnosis.batch == 1 else ''}" if diagnosis.traced else ""),
        "",
    ]
    if diagnosis.pairs:
        lines += [*_table(diagnosis), ""]
    if diagnosis.losses:
        most = ", ".join(map(str, diagnosis.losses))
        lines += [f"The layers that lose most, beside {diagnosis.artifact.parent}: {most}.", ""]
    if not diagnosis.reasons:
        return "\n".join([*lines, "Nothing is wrong: the answers are the source's."])
    what = "Parity passes on ordinary inputs alone" if diagnosis.is_ordinary else "Parity fails"
    lines.append(f"{what}: {'; '.join(diagnosis.reasons)}.")
    if diagnosis.place:
        lines.append(f"They part at {_place(diagnosis.place)}.")
    conclusion = diagnosis.checks[-1]
    lines += [f"Cause: {conclusion.cause}: {conclusion.evidence}.", f"What to do: {conclusion.advice}", ""]
    lines += ["Not the cause:", *(f"  {check.cause}: {check.evidence}" for check in diagnosis.checks[:-1])]
    if diagnosis.pictures:
        kind = "Pictures" if diagnosis.source.image else "Rows"
        worst = (_line(picture, diagnosis.source) for picture in diagnosis.pictures)
        lines += ["", f"{kind} with the largest differences:", *worst]
    return "\n".join(lines)


def _table(diagnosis: Diagnosis) -> Iterator[str]:
    """One line for each matched layer."""
    head = ("source", "artifact", "shape", "largest difference", "of the largest value")
    rows = [_cells(pair) for pair in diagnosis.pairs]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    marks = [">" if pair is diagnosis.place else " " for pair in diagnosis.pairs]
    for mark, cells in zip([" ", *marks], [head, *rows], strict=True):
        yield f"{mark} " + "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _cells(pair: Pair) -> tuple[str, ...]:
    arrangement = f" ({pair.arrangement.name})" if pair.arrangement.name else ""
    return (
        pair.source.label,
        _artifact_label(pair),
        f"{_shape(pair)}{arrangement}",
        f"{pair.difference:.1e}",
        f"{pair.relative:.1e}",
    )


def _artifact_label(pair: Pair) -> str:
    label, op = pair.artifact.label, pair.artifact.op
    return label if op.lower() in label.lower() or op in ("input", "Placeholder") else f"{label} {op}"


def _shape(pair: Pair) -> str:
    return "x".join(map(str, pair.artifact.array.shape[1:]))


def _place(pair: Pair) -> str:
    return (
        f"{pair.source.label} in the source, {_artifact_label(pair)} in the artifact: "
        f"{pair.difference:.2g} apart, {pair.relative:.2g} of the largest value"
    )


def _line(picture: Picture, manifest: Manifest) -> str:
    return f"  {picture.index:5}  {_answers(picture, manifest)}  off by {picture.difference:.2g}"


def _answers(picture: Picture, manifest: Manifest) -> str:
    truth = _label(manifest, picture.label)
    here, there = (f"{_label(manifest, answer[0])} {answer[1]:.3f}" for answer in (picture.source, picture.artifact))
    return f"{truth}: source {here}, artifact {there}"


def _label(manifest: Manifest, index: int | None) -> str:
    if index is None:
        return "unknown"
    return manifest.labels[index] if index < len(manifest.labels) else f"class {index}"


def as_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """The diagnosis for programs: everything in the text, with more digits."""
    conclusion = diagnosis.checks[-1] if diagnosis.checks else None
    return {
        "schema": SCHEMA,
        "artifact": diagnosis.artifact.name,
        "source": diagnosis.source.name,
        "files": {manifest.name: dict(manifest.files) for manifest in (diagnosis.artifact, diagnosis.source)},
        "healthy": not diagnosis.reasons,
        "reasons": list(diagnosis.reasons),
        "only_edges": diagnosis.is_ordinary and bool(diagnosis.reasons),
        "images": diagnosis.images,
        "batch": diagnosis.batch,
        "traced": diagnosis.traced,
        "tolerance": diagnosis.tolerance,
        "place": _pair(diagnosis.place) if diagnosis.place else None,
        "cause": conclusion.cause if conclusion else None,
        "evidence": conclusion.evidence if conclusion else None,
        "advice": conclusion.advice if conclusion else None,
        "checks": [
            {"cause": check.cause, "holds": check.holds, "left": _number(check.left), "evidence": check.evidence}
            for check in diagnosis.checks
        ],
        "losses": [asdict(loss) for loss in diagnosis.losses],
        "layers": [_pair(pair) for pair in diagnosis.pairs],
        "graphs": dict(zip(("source", "artifact"), map(_nodes, diagnosis.graphs), strict=True)),
        "pictures": [
            {
                "index": picture.index,
                "label": picture.label,
                "source": {"class": picture.source[0], "value": picture.source[1]},
                "artifact": {"class": picture.artifact[0], "value": picture.artifact[1]},
                "difference": _number(picture.difference),
            }
            for picture in diagnosis.pictures
        ],
        "seconds": diagnosis.seconds,
    }


def _nodes(nodes: tuple[Node, ...]) -> list[dict[str, Any]]:
    return [asdict(node) | {"inputs": list(node.inputs)} for node in nodes]


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "source": {"name": pair.source.name, "label": pair.source.label, "op": pair.source.op},
        "artifact": {"name": pair.artifact.name, "label": pair.artifact.label, "op": pair.artifact.op},
        "shape": _shape(pair),
        "arrangement": pair.arrangement.name,
        "difference": _number(pair.difference),
        "relative": _number(pair.relative),
    }


def _number(value: float | None) -> float | None:
    """JSON has no infinity."""
    return value if value is not None and np.isfinite(value) else None


def write_report(diagnosis: Diagnosis, questions: Questions, folder: Path, images: bool) -> list[Path]:
    """Write `diagnose-<model>-<format>.json` into `folder`, and the sheet of pictures beside it if `images`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"diagnose-{diagnosis.artifact.name}.json"
    write_json(path, as_json(diagnosis))
    if not (images and diagnosis.pictures and questions.pictures is not None):
        return [path]
    sheet(diagnosis, questions).save(path.with_suffix(".png"))
    return [path, path.with_suffix(".png")]


CELL, PICTURE, COLUMNS = (230, 230), 140, 4
"""Sizes on the sheet, in pixels: a cell (width, height), a picture's longer side; and cells in a row."""


def sheet(diagnosis: Diagnosis, questions: Questions) -> Image.Image:
    """The worst pictures, enlarged, each above both answers to it."""
    pictures = questions.pictures
    assert pictures is not None, "a sheet is for models that take pictures"
    rows = -(-len(diagnosis.pictures) // COLUMNS)
    page = Image.new("RGB", (CELL[0] * COLUMNS, CELL[1] * rows), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=13)
    for number, picture in enumerate(diagnosis.pictures):
        left, top = CELL[0] * (number % COLUMNS) + 10, CELL[1] * (number // COLUMNS) + 10
        shown = Image.fromarray(pictures[picture.index].squeeze())
        scale = PICTURE / max(shown.size)
        shown = shown.resize((round(shown.width * scale), round(shown.height * scale)), Image.Resampling.NEAREST)
        page.paste(shown, (left, top))
        caption = (
            _answers(picture, diagnosis.source).replace(": source", "\nsource").replace(", artifact", "\nartifact")
        )
        draw.text((left, top + PICTURE + 6), f"{picture.index}: {caption}", "black", font)
    return page
