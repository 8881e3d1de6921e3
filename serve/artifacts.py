"""The artifacts in a folder, before anything is loaded.

    artifacts/<model>/<format>/             version 1
    artifacts/<model>/<number>/<format>/    a further version, with its own source, records and parity

The first process looks only whether there are any: NumPy, which the catalog needs, would double its start.
"""

import re
from collections.abc import Collection
from pathlib import Path

from contract.formats import family_of
from contract.manifest import MANIFEST

NUMBER = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
"""A version's folder."""


def find_artifacts(artifacts: Path, formats: Collection[str] = ()) -> list[Path]:
    """Every folder with a manifest, of these formats if any are given; not the hidden ones, which are half-written."""
    folders = [path.parent for path in artifacts.glob(f"*/*/{MANIFEST}")]
    numbered = [path.parent for path in artifacts.glob(f"*/*/*/{MANIFEST}")]
    folders += [folder for folder in numbered if NUMBER.fullmatch(folder.parent.name)]
    return [
        folder
        for folder in folders
        if not any(part.startswith(".") for part in folder.relative_to(artifacts).parts)
        and (not formats or family_of(folder.name) in formats)
    ]


def find_versions(
    artifacts: Path, formats: Collection[str] = (), count: int | None = None
) -> dict[str, dict[str, Path]]:
    """By the served name: version -> folder, the newest last, and of each name so many of the newest."""
    versions_by_name: dict[str, dict[int, Path]] = {}
    for folder in find_artifacts(artifacts, formats):
        model, *number, format = folder.relative_to(artifacts).parts
        versions = versions_by_name.setdefault(f"{model}-{format}", {})
        version = int(number[0]) if number else 1
        if not number or version not in versions:  # what lies in the model's own folder is version 1
            versions[version] = folder
    return {
        name: {str(version): versions[version] for version in sorted(versions)[-count if count else None :]}
        for name, versions in versions_by_name.items()
    }
