"""How an artifact behaves when it is called: may requests share a call, and does the same request get the same answer?

Parity says whether answers are right. This says whether they depend on anything besides the request. The parity gate
writes it beside the manifest, and it holds for exactly the bytes that were run.
"""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from contract.manifest import MANIFEST, sha256_of, write_json
from contract.records import RecordError, content_of, decode, parse

BEHAVIOUR = "behaviour.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Behaviour:
    """What an artifact did when it was called in several ways."""

    artifact_sha256: str
    """Of its manifest, which names the sha256 of every file."""
    mixing: str = ""
    """Why several requests must not share a call; empty where each row's answer depends on that row alone."""
    unsteady: str = ""
    """How answers to the same request differ; empty where they do not."""

    @property
    def unsteady_words(self) -> str:
        """The rest of a sentence that begins with the artifact's name."""
        return (
            f"does not give the same answer to the same question: {self.unsteady}. Its answers depend on chance or on "
            "earlier calls. Export it for inference (PyTorch: after model.eval()), or reset its state at each call."
        )


def write_behaviour(folder: Path, behaviour: Behaviour) -> None:
    """Write `behaviour.json` beside the manifest in `folder`, atomically."""
    write_json(folder / BEHAVIOUR, asdict(behaviour))


def read_behaviour(folder: Path) -> Behaviour | None:
    """What is known of the artifact in `folder`; None where exactly these bytes were never run."""
    try:
        behaviour = decode(Behaviour, parse(content_of(folder / BEHAVIOUR)))
        return behaviour if behaviour.artifact_sha256 == sha256_of(folder / MANIFEST) else None
    except FileNotFoundError:
        return None
    except (OSError, RecordError) as error:
        log.warning("%s cannot be read: %s. Run `make verify`.", folder / BEHAVIOUR, error)
        return None
