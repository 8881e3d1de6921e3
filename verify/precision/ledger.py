"""The ledger of an artifact of reduced precision, and the faults that its file shows."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from contract.ledger import Ledger
from contract.manifest import MANIFEST, Manifest, sha256_of
from contract.precisions import PRECISIONS
from verify.precision.files import Contents, reader_of
from verify.precision.proof import foreign_weights
from verify.processor import processor


def examine(path: Path, manifest: Manifest) -> tuple[Ledger, list[str]] | None:
    """The ledger of the artifact in `path`, and what is wrong with its file; None for a format that nothing reads.

    Raises what the readers raise.
    """
    read = reader_of(manifest.format)
    if read is None:
        return None
    contents = read(path)
    ledger = _ledger(path, manifest, contents)
    return ledger, [*_faults(path, manifest, contents, ledger)]


def _ledger(path: Path, manifest: Manifest, contents: Contents) -> Ledger:
    weights = Counter[str]()
    for constant in contents.constants:
        weights[constant.dtype] += constant.size
    known = PRECISIONS.get(manifest.format)
    return Ledger(
        artifact_sha256=sha256_of(path / MANIFEST),
        dtype=known.dtype if known else "",
        inputs=contents.inputs,
        outputs=contents.outputs,
        weights=dict(weights),
        activations=dict(contents.activations),
        computing=dict(contents.computing),
        casts=contents.casts,
        inserted=contents.inserted,
        processor=processor(),
        fast_on=known.fast_on if known else (),
    )


def _faults(path: Path, manifest: Manifest, contents: Contents, ledger: Ledger) -> Iterator[str]:
    known = PRECISIONS.get(manifest.format)
    if known and not known.is_stored:
        if ledger.is_stored_only:
            computing = ", ".join(ledger.computing)
            yield f"its name says {ledger.dtype}, and it multiplies in {computing or 'nothing'}"
    elif not ledger.holds_dtype:
        held = ", ".join(dtype for dtype, _ in Counter(ledger.weights).most_common())
        yield f"its name says {ledger.dtype}, and its weights are {held or 'none'}"
    yield from contents.faults
    parent = path.with_name(manifest.parent or "")
    if manifest.parent and (parent / MANIFEST).exists() and (read := reader_of(manifest.parent)):
        yield from foreign_weights(read(parent), contents)
