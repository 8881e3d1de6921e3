"""Print what files are, and what reading them would run; nothing of them is loaded.

python -m bring.verdict model.h5      exit status 1 when the file is refused
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bring.verdict import examine, insist
from contract.errors import BroughtError


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the verdict of each path; exit status 1 when one is refused."""
    parser = argparse.ArgumentParser(prog="python -m bring.verdict", description="Judge models, loading none.")
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--trust", action="store_true", help="let code pass that the files would run (TRUST=1)")
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
