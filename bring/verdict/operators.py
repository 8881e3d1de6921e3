"""The operators of each framework, sorted by hand: those that compute may be in a stranger's file, and no others.

A list of what is harmful is never whole; so what is not known to compute is refused by its name. `<kind>.txt`, beside
the module that judges that kind, has the names, one a line, under what they are for: `[computes]`, `[files]` and so
on. tests/test_bring_verdict_operators.py compares the lists with the frameworks that are installed.
"""

import functools
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from bring.verdict.findings import Finding, few

COMPUTES = "computes"


@functools.cache
def purposes(kind: str) -> dict[str, str]:
    """Operator -> the heading that it stands under in the list of a kind, `<kind>.txt`."""
    listed: dict[str, str] = {}
    heading = ""
    for line in Path(__file__).with_name(f"{kind}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            heading = line.strip("[]")
        elif line and not line.startswith("#"):
            listed[line] = heading
    return listed


def findings(names: Iterable[str], kind: str, owner: str, unusable: Collection[str] = ()) -> Iterator[Finding]:
    """Findings on the operators that do more than compute, and on those that are not in the list of the kind.

    `owner` is the framework that an unknown operator is not of: "ONNX's". What stands under the headings in `unusable`
    cannot be used, trusted or not.
    """
    listed = purposes(kind)
    acting = {name: purpose for name in names if (purpose := listed.get(name, "")) != COMPUTES}
    for is_trustable in (True, False):
        these = [name for name, purpose in acting.items() if purpose and is_trustable == (purpose not in unusable)]
        if these:
            what_for = ", ".join(sorted({acting[name] for name in these}))
            yield Finding(
                f"its operators {few(these)} do more than compute: they are for {what_for}. Export the model "
                "without them.",
                is_trustable,
            )
    if unknown := [name for name, purpose in acting.items() if not purpose]:
        yield Finding(
            f"its operators {few(unknown)} are not {owner} own: the library that adds them is needed. Export the model "
            "without them.",
            False,
        )
