"""Print what files are, and what they would do besides computing. Nothing is loaded.

python -m bring.verdict model.h5      exit status 1 when the file is refused
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bring.verdict import examine, insist
from contract.errors import BroughtError


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the verdict on each path; exit status 1 when one is refused."""
    parser = argparse.ArgumentParser(
        prog="python -m bring.verdict", description="Judge model files without loading them."
    )
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--trust", action="store_true", help="accept files that run code when they are read (TRUST=1)")
    options = parser.parse_args(arguments)
    refused = False
    for path in options.paths:
        try:
            verdict = examine(path)
            insist(verdict, options.trust)
            print(verdict.line())
        except BroughtError as error:
            print(f"error: {error}", file=sys.stderr)
            refused = True
    if refused:
        sys.exit(1)


if __name__ == "__main__":
    main()
