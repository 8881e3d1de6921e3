"""Copy the part of the artifacts that one image holds: all manifests, since parity names the source's, but few files.

python docker/pack.py ARTIFACTS TARGET FORMAT... [samples]
"""

import shutil
import sys
from pathlib import Path

MANIFESTS = ("manifest.json", "parity.json", "behaviour.json", "ledger.json")


def pack(artifacts: Path, target: Path, wanted: list[str]) -> None:
    """Copy the manifests of all artifacts, and the files of the wanted formats in any precision."""
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(path for path in artifacts.rglob("*") if path.is_file()):
        model, *rest = file.relative_to(artifacts).parts
        is_wanted = (rest[0].split("-")[0] if len(rest) > 1 else model) in wanted
        if is_wanted or (len(rest) == 2 and rest[1] in MANIFESTS):
            place = target / file.relative_to(artifacts)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)


if __name__ == "__main__":
    source, destination, *formats = sys.argv[1:]
    pack(Path(source), Path(destination), formats)
