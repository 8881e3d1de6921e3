"""The system calls that a process in a cell may not make: a filter that the kernel runs before each call (seccomp).

It is a list of what is forbidden, since frameworks make nearly all other calls. What it forbids is of no use to a
computation: reaching other processes, mounts, keys, modules, clocks, sockets, and the kernel's youngest interfaces.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Iterator

from contract.cell import kernel

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Machine -> its number in audit.h, and the column of NUMBERS."""

NUMBERS = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "move_pages": (279, 239), "migrate_pages": (256, 238),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "move_mount": (429, 429),
    "open_tree": (428, 428), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "unshare": (272, 97), "setns": (308, 268), "clone": (56, 220), "clone3": (435, 435),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "fanotify_init": (300, 262),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443), "syslog": (103, 116), "vhangup": (153, 58),
    "ioperm": (173, None), "iopl": (172, None), "modify_ldt": (154, None), "personality": (135, 92),
    "sethostname": (170, 161), "setdomainname": (171, 162), "ioctl": (16, 29), "prlimit64": (302, 261),
    "socket": (41, 198), "socketpair": (53, 199),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "semget": (64, 190),
    "msgget": (68, 186), "mq_open": (240, 180), "shmat": (30, 196), "shmctl": (31, 195), "semop": (65, 193),
    "semtimedop": (220, 192), "semctl": (66, 191), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "setxattrat": (463, 463), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "fremovexattr": (199, 16), "removexattrat": (466, 466), "truncate": (76, 45), "open": (2, None),
    "openat": (257, 56), "openat2": (437, 437),
    "fcntl": (72, 25), "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setattr": (314, 274),
}  # fmt: skip
"""System call -> its number on x86_64 and on aarch64; None where an architecture does not have it."""

FORBIDDEN = (
    "ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd process_madvise move_pages migrate_pages mount umount2 "
    "pivot_root chroot move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr unshare setns add_key "
    "request_key keyctl bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register fanotify_init "
    "name_to_handle_at open_by_handle_at kexec_load kexec_file_load init_module finit_module delete_module reboot "
    "swapon swapoff settimeofday clock_settime clock_adjtime adjtimex acct quotactl quotactl_fd syslog vhangup ioperm "
    "iopl modify_ldt personality sethostname setdomainname socket memfd_create memfd_secret shmget semget msgget "
    "mq_open shmat shmctl semop semtimedop semctl msgsnd msgrcv msgctl"
).split()
"""Memory that no process has mapped (memfd, System V) is forbidden because the limit of memory would not see it."""

SIGNALS = ["kill", "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal", "pidfd_open"]

PRIORITIES = ["setpriority", "ioprio_set"]
SCHEDULING = ["sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr"]
OWNER_CALLS, OWNER_REQUESTS = (8, 10, 15), (0x8901, 0x8902)
"""fcntl(2)'s F_SETOWN, F_SETSIG and F_SETOWN_EX, and ioctl(2)'s FIOSETOWN and SIOCSPGRP: whom a file that can be read
signals, and how. Landlock keeps such signals in only since its version 6."""

METADATA = (
    "chmod fchmod fchmodat fchmodat2 chown lchown fchown fchownat utime utimes futimesat utimensat setxattr lsetxattr "
    "fsetxattr setxattrat removexattr lremovexattr fremovexattr removexattrat"
).split()

TERMINAL_CALLS = (0x5412, 0x541C, 0x5423)
"""ioctl(2)'s TIOCSTI, TIOCLINUX and TIOCSETD: typing into a terminal, and changing what drives it."""

_LOAD, _AND, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_X32 = 0x40000000


class Rule:
    """A call that is refused: always, or if `argument & mask` equals `value`; or, with `unless`, if it does not.

    The caller gets `error`; 0 lets it believe that the call was made.
    """

    def __init__(
        self,
        name: str,
        error: int = errno.EPERM,
        argument: int | None = None,
        mask: int = 0xFFFFFFFF,
        value: int = 0,
        unless: bool = False,
    ) -> None:
        self.name, self.error = name, error
        self.argument, self.mask, self.value, self.unless = argument, mask, value, unless


def rules(others_visible: bool, files_by_rules: bool) -> Iterator[Rule]:
    """What is refused where other processes are in sight, and where Landlock alone protects the files."""
    yield from (Rule(name) for name in FORBIDDEN)
    yield Rule("clone3", errno.ENOSYS)  # its flags are out of the filter's sight: libraries then call clone
    yield Rule("clone", argument=0, mask=kernel.NEW_ANYTHING, unless=True)
    yield Rule("socketpair", argument=0, value=1, unless=True)
    yield Rule("prlimit64", argument=0, unless=True)
    yield from (Rule("ioctl", argument=1, value=request) for request in TERMINAL_CALLS)
    if others_visible:
        yield from (Rule(name) for name in SIGNALS)
        yield Rule("tgkill", argument=0, value=os.getpid(), unless=True)  # abort() sends itself a signal
        yield from (Rule("fcntl", argument=1, value=command) for command in OWNER_CALLS)
        yield from (Rule("ioctl", argument=1, value=request) for request in OWNER_REQUESTS)
        yield from (Rule(name) for name in PRIORITIES)
        yield from (Rule(name, 0, argument=0, unless=True) for name in SCHEDULING)  # libraries set it for their threads
    if files_by_rules:  # Landlock lets through what changes no content
        yield from (Rule(name, 0) for name in METADATA)
        yield Rule("truncate")
        yield Rule("openat2", errno.ENOSYS)
        for name, argument in (("open", 1), ("openat", 2)):
            yield Rule(name, argument=argument, mask=os.O_ACCMODE | os.O_TRUNC, value=os.O_RDONLY | os.O_TRUNC)


def is_known_here() -> bool:
    """Whether there are numbers for this machine's architecture."""
    return os.uname().machine in ARCHITECTURES


def forbid(refused: Iterable[Rule]) -> None:
    """Put the filter on this process and all that it starts, for good. no_new_privs is set before. Raises OSError."""
    program = _assembled(refused)
    instructions = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))

    whole = Program(len(program) // 8, ctypes.cast(instructions, ctypes.c_void_p))
    kernel.prctl(22, 2, ctypes.byref(whole))


def _assembled(refused: Iterable[Rule]) -> bytes:
    architecture, column = ARCHITECTURES[os.uname().machine]
    program = [
        _instruction(_LOAD, _ARCHITECTURE_AT),
        _instruction(_IF_EQUAL, architecture, 1, 0),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER_AT),
        _instruction(_IF_AT_LEAST, _X32, 0, 1),
        _instruction(_RETURN, _REFUSE | errno.ENOSYS),
    ]
    for rule in refused:
        if (number := NUMBERS[rule.name][column]) is not None:
            program += _of_rule(number, rule)
    return b"".join([*program, _instruction(_RETURN, _ALLOW)])


def _of_rule(number: int, rule: Rule) -> list[bytes]:
    refusal = _instruction(_RETURN, _REFUSE | rule.error)
    if rule.argument is None:
        return [_instruction(_IF_EQUAL, number, 0, 1), refusal]
    skips = (1, 0) if rule.unless else (0, 1)
    return [
        _instruction(_IF_EQUAL, number, 0, 5),
        _instruction(_LOAD, _ARGUMENTS_AT + 8 * rule.argument),
        _instruction(_AND, rule.mask),
        _instruction(_IF_EQUAL, rule.value, *skips),
        refusal,
        _instruction(_LOAD, _NUMBER_AT),
    ]


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
