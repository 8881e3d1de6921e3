"""A process's view of files by rules of the kernel's Landlock: for systems that give it no mount namespace."""

import ctypes
import os
import struct
from collections.abc import Iterable

from contract.cell import kernel

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_EXECUTE, _WRITE, _READ, _LIST, _TRUNCATE, _DEVICES = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE | _DEVICES
"""The rights that a rule about a file, not a folder, may name."""


def version() -> int:
    """The kernel's version of Landlock; 0 where there is none."""
    try:
        return kernel.syscall("landlock_create_ruleset", _CREATE, 0, 0, 1)
    except OSError:
        return 0


def restrict(readable: Iterable[str], writable: Iterable[str]) -> None:
    """This process, and all that it starts, see these paths alone, for good. What does not exist is left out.

    no_new_privs is set before. Raises OSError.
    """
    known = version()
    rights = (1 << 13) - 1
    for least, right in ((2, 1 << 13), (3, _TRUNCATE), (5, _DEVICES)):
        rights |= right if known >= least else 0
    network, reach = (3 if known >= 4 else 0), (3 if known >= 6 else 0)
    attributes = struct.pack("=QQQ", rights, network, reach)[: 24 if known >= 6 else 16 if known >= 4 else 8]
    rules = kernel.syscall("landlock_create_ruleset", _CREATE, attributes, len(attributes), 0)
    for path in readable:
        _allow(rules, path, rights & (_EXECUTE | _READ | _LIST))
    for path in writable:
        _allow(rules, path, rights & ~_DEVICES)
    kernel.syscall("landlock_restrict_self", _RESTRICT, rules, 0)
    os.close(rules)


def _allow(rules: int, path: str, rights: int) -> None:
    if not os.path.exists(path):
        return
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        allowed = rights if os.path.isdir(path) else rights & _OF_FILES
        rule = ctypes.create_string_buffer(struct.pack("=Qi", allowed, opened))
        kernel.syscall(f"landlock_add_rule {path}", _ADD, rules, 1, rule, 0)
    finally:
        os.close(opened)
