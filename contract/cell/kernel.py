"""The kernel's calls that Python's standard library does not have. Each raises OSError with the name of the call."""

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing is imported by nobody else on the way into a cell
    from typing import Any

NEW_MOUNTS, NEW_CGROUP, NEW_HOSTNAME, NEW_IPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
NEW_USERS, NEW_PROCESSES, NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000
NEW_ANYTHING = NEW_MOUNTS | NEW_CGROUP | NEW_HOSTNAME | NEW_IPC | NEW_USERS | NEW_PROCESSES | NEW_NETWORK
"""unshare(2)'s flags."""

BIND, RECURSIVE, PRIVATE, NO_SUID, NO_DEVICES, NO_EXEC = 0x1000, 0x4000, 0x40000, 0x2, 0x4, 0x8
"""mount(2)'s flags."""
DETACH = 2

READ_ONLY, IGNORE_SET_USER_ID, IGNORE_DEVICES = 0x1, 0x2, 0x4
"""mount_setattr(2)'s attributes."""

_PARENT_DEATH, _DUMPABLE, _BOUNDING_SET_DROP, _SUBREAPER, _NO_NEW_PRIVILEGES, _AMBIENT = 1, 4, 24, 36, 38, 47
_MOUNT_SETATTR = 442
_HERE = -100
_CAPABILITIES_VERSION = 0x20080522

LIBC = ctypes.CDLL(None, use_errno=True)


def _checked(name: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def syscall(name: str, number: int, *arguments: "Any") -> int:
    """A call by its number, which is the same on every architecture for those that are newer than 2019."""
    whole = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _checked(name, LIBC.syscall(ctypes.c_long(number), *whole))


def prctl(option: int, *arguments: "Any") -> int:
    whole = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in arguments]
    whole += [ctypes.c_ulong(0)] * (4 - len(whole))
    return _checked(f"prctl({option})", LIBC.prctl(option, *whole))


def unshare(flags: int) -> None:
    _checked("unshare", LIBC.unshare(flags))


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    result = LIBC.mount(
        source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), options.encode() or None
    )
    _checked(f"mount {target}", result)


def restrict_mount(path: str, attributes: int, recursive: bool = True) -> None:
    """Set attributes of the mount at `path`, and of all below it."""
    settings = (ctypes.c_uint64 * 4)(attributes)
    flags = 0x8000 if recursive else 0
    syscall(f"mount_setattr {path}", _MOUNT_SETATTR, _HERE, path.encode(), flags, settings, ctypes.sizeof(settings))


def pivot_root(new: str, old: str) -> None:
    _checked("pivot_root", LIBC.pivot_root(new.encode(), old.encode()))


def detach(path: str) -> None:
    _checked(f"umount {path}", LIBC.umount2(path.encode(), DETACH))


def die_with_parent(signal: int) -> None:
    """A change of the user forgets this."""
    prctl(_PARENT_DEATH, signal)


def hide_from_others() -> None:
    """No process of the same user may trace this one, or look into its /proc folder."""
    prctl(_DUMPABLE, 0)


def show_to_others() -> None:
    """Undo `hide_from_others`, as the start of a program does."""
    prctl(_DUMPABLE, 1)


def adopt_orphans() -> None:
    """Descendants whose parent ends become children of this process."""
    prctl(_SUBREAPER, 1)


def drop_bounding_set() -> None:
    """No program that is executed later gets a capability. It takes CAP_SETPCAP."""
    for capability in range(64):
        try:
            prctl(_BOUNDING_SET_DROP, capability)
        except OSError:  # past the last one
            return


def drop_capabilities() -> None:
    """Every capability of this process, for good; and no set-user-id program gives one back."""
    prctl(_AMBIENT, 4)
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION, 0)
    _checked("capset", LIBC.capset(header, (ctypes.c_uint32 * 6)()))
    forbid_new_privileges()


def forbid_new_privileges() -> None:
    prctl(_NO_NEW_PRIVILEGES, 1)
