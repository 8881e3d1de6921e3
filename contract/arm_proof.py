"""The proof beside an artifact's manifest that it gives the same answers on a 64-bit ARM processor, or how it does not.

The processor is emulated, so a proof knows nothing of time. It holds for exactly the bytes that were run.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from contract.manifest import MANIFEST, Manifest, sha256_of, write_json
from contract.records import RecordError, content_of, decode, encode, parse

ARM = "arm.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ArmProof:
    """An artifact's answers on the emulated processor, beside those that were expected."""

    artifact: str
    source: str
    artifact_sha256: str
    source_sha256: str
    """Of the two manifests."""
    passed: bool
    reasons: tuple[str, ...]
    """Why it did not pass; empty when it did."""
    rows: int
    """How many questions it was asked there."""
    expected: str
    """Whose answers it had to give: the name of the source; of reduced precision its own, for its own answers on this
    machine, which the gate has judged."""
    tolerance: float
    max_abs_diff: float
    """From the expected answers."""
    changed: int
    """How many rows get another class than expected, near-ties included."""
    here_max_abs_diff: float
    here_changed: int
    """The same, from the artifact's own answers on this machine."""
    edges: int
    """How many edge questions it was asked there."""
    differs: tuple[str, ...]
    """Where its answers at edges are not its source's on ARM, and are on this machine: a phrase for each."""
    runtime: str
    """What ran it: "LiteRT 2.3.0"."""
    processor: str
    """The processor that was emulated: "cortex-a76"."""

    def __str__(self) -> str:
        """`Answers proven on 64-bit ARM (emulated cortex-a76, 1,000 questions); no time was measured`."""
        if not self.passed:
            return f"Answers differ on 64-bit ARM (emulated {self.processor}): {'; '.join(self.reasons)}"
        edges = f"; {'; '.join(self.differs)}" if self.differs else ""
        return (
            f"Answers proven on 64-bit ARM (emulated {self.processor}, {self.rows:,} questions){edges}; no time was "
            "measured"
        )


def write_proof(folder: Path, proof: ArmProof) -> None:
    """Write `arm.json` beside the manifest in `folder`, atomically."""
    write_json(folder / ARM, encode(proof))


def read_proof(folder: Path, manifest: Manifest) -> ArmProof | None:
    """The proof of the artifact in `folder`; None where exactly these bytes, of it and its source, were never run."""
    try:
        proof = decode(ArmProof, parse(content_of(folder / ARM)))
        source = folder.parent / proof.source.removeprefix(f"{manifest.model}-") / MANIFEST
        known = proof.artifact_sha256, proof.source_sha256
        return proof if known == (sha256_of(folder / MANIFEST), sha256_of(source)) else None
    except FileNotFoundError:
        return None
    except (OSError, RecordError) as error:
        log.warning("%s cannot be read: %s. Run `make verify-arm`.", folder / ARM, error)
        return None
