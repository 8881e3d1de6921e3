"""The cell's files: a root of its own in a mount namespace, read-only except for one folder."""

import os
from collections.abc import Mapping, Sequence

from contract.cell import kernel

SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin", "/nix/store", "/sys/devices/system")
"""Programs and libraries; /sys says how many processors there are."""
SETTINGS = (
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/passwd", "/etc/group",
    "/etc/nsswitch.conf", "/etc/localtime", "/etc/mime.types", "/etc/ssl/openssl.cnf",
)  # fmt: skip
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
PROCESSES = (
    "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/filesystems", "/proc/version", "/proc/sys/vm",
)  # fmt: skip
"""What Landlock's rules leave of /proc. In a namespace it holds the cell's own processes."""

TEMPORARY = ("/tmp", "/var/tmp")
"""They lead to the folder that may be written to, unless what is shown lies below them."""

OLD = "/.old"
SHARED_BYTES = 64 << 20
"""The most that /dev/shm holds, which is memory."""
ALL_SAFE = kernel.READ_ONLY | kernel.IGNORE_SET_USER_ID | kernel.IGNORE_DEVICES


def build(root: str, readable: Sequence[str], links: Mapping[str, str], folder: str, scratch: int) -> None:
    """Make `root`, an empty folder, the root of this mount namespace: with these paths, and `folder` to write to.

    `links` are symbolic links, path -> target. With `scratch`, the folder is one in memory, of so many bytes. This
    process is the first one of a process namespace. Raises OSError.
    """
    kernel.mount("none", "/", flags=kernel.RECURSIVE | kernel.PRIVATE)
    kernel.mount("cell", root, "tmpfs", kernel.NO_SUID | kernel.NO_DEVICES, "mode=755,size=16m")
    os.mkdir(f"{root}{OLD}")
    kernel.pivot_root(root, f"{root}{OLD}")
    os.chdir("/")
    for path in readable:
        _bind(path, ALL_SAFE)
    for path, target in links.items():
        _link(path, target)
    _devices()
    os.mkdir("/proc")
    kernel.mount("proc", "/proc", "proc", kernel.NO_SUID | kernel.NO_DEVICES | kernel.NO_EXEC)
    kernel.restrict_mount("/proc", ALL_SAFE)
    if scratch:
        os.makedirs(folder, exist_ok=True)
        options = f"mode=1777,size={scratch}"
        kernel.mount("scratch", folder, "tmpfs", kernel.NO_SUID | kernel.NO_DEVICES, options)
    else:
        _bind(folder, ALL_SAFE & ~kernel.READ_ONLY)
    for name in TEMPORARY:
        _link(name, folder)
    kernel.detach(OLD)
    os.rmdir(OLD)
    kernel.restrict_mount("/", ALL_SAFE, recursive=False)


def _bind(path: str, attributes: int) -> None:
    """The old root's file or folder, at the same place; nothing where it is not there."""
    source = OLD + path
    if not os.path.exists(source):
        return
    os.makedirs(path if os.path.isdir(source) else os.path.dirname(path), exist_ok=True)
    if not os.path.exists(path):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    kernel.mount(source, path, flags=kernel.BIND | kernel.RECURSIVE)
    kernel.restrict_mount(path, attributes)


def _link(path: str, target: str) -> None:
    if not os.path.lexists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(target, path)


def _devices() -> None:
    for path in DEVICES:
        _bind(path, kernel.IGNORE_SET_USER_ID)
    for name, target in {"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"}.items():
        _link(f"/dev/{name}", f"/proc/self/fd{target}")
    os.mkdir("/dev/shm")
    options = f"mode=1777,size={SHARED_BYTES}"
    kernel.mount("shm", "/dev/shm", "tmpfs", kernel.NO_SUID | kernel.NO_DEVICES, options)
