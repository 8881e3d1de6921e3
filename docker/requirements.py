"""Cut the locks into one file for each image: a change of one package rebuilds only the images that have it.

python docker/requirements.py pyproject.toml docker/packages TARGET LOCK...
"""

import re
import sys
import tomllib
from pathlib import Path


def split(project: Path, packages: Path, target: Path, *locks: Path) -> None:
    """Write TARGET/<image>/requirements.txt, with hashes, and TARGET/<image>/torch.txt, which may be empty.

    PyTorch's CPU build comes from another index, so the locks leave it out: pyproject.toml pins it.
    """
    blocks = [block for lock in locks for block in re.split(r"\n(?=\S)", lock.read_text().strip())]
    locked = {block.partition("==")[0]: block for block in blocks}
    extras = tomllib.loads(project.read_text())["project"]["optional-dependencies"]
    (torch,) = extras["torch"]
    for section in re.split(r"^\[", packages.read_text(), flags=re.MULTILINE)[1:]:
        image, *names = section.replace("]", "").split()
        folder = target / image
        folder.mkdir(parents=True)
        lines = [locked[name] for name in names if name != "torch"]
        (folder / "requirements.txt").write_text("\n".join(lines) + "\n")
        (folder / "torch.txt").write_text(f"{torch}\n" if "torch" in names else "")


if __name__ == "__main__":
    split(*map(Path, sys.argv[1:]))
