"""Whose requests are answered: by the name that was called, and by the page that calls.

Any site can let a name of its own point to this machine, and its pages then read what they call by that name. So a
name has to be known: an address is none, and a name that no stranger can own is known, too.
"""

import functools
import ipaddress
import re

from serve.settings import Settings

PRIVATE = (".localhost", ".local", ".internal")
"""The ends of names that nobody can register."""

SAFE_METHODS = (b"GET", b"HEAD", b"OPTIONS")

HOST = re.compile(r"(\[[0-9a-f:.]+\]|[0-9a-z._-]+)(:[0-9]{0,5})?", re.IGNORECASE)


class Origins:
    """The settings SERVE_HOSTS and SERVE_CORS, and what is known without them."""

    def __init__(self, settings: Settings) -> None:
        self._hosts = {settings.host.lower(), *(host.lower() for host in settings.hosts)}
        self._callers = settings.cors
        self.knows_host = functools.lru_cache(256)(self._knows_host)

    def _knows_host(self, host: bytes) -> bool:
        """Whether a Host header names this service."""
        text = host.decode("latin-1").lower()
        if not (match := HOST.fullmatch(text)):
            return False
        name = match[1].strip("[]").rstrip(".")
        try:
            ipaddress.ip_address(name)
        except ValueError:
            # A name without a dot is one of the local network, such as a container's.
            return "." not in name or name.endswith(PRIVATE) or name in self._hosts or "*" in self._hosts
        return True

    def allows_caller(self, method: bytes, host: bytes, origin: bytes, site: bytes) -> bool:
        """Whether a browser's request may change something: it comes from our own page, or from one that may."""
        if method in SAFE_METHODS or self.is_named(origin):
            return True
        if site:
            return site in (b"same-origin", b"none")
        return not origin or origin.partition(b"://")[2].lower() == host.lower()

    def is_named(self, origin: bytes) -> bool:
        """Whether SERVE_CORS has the origin of a page."""
        return bool(self._callers) and origin.decode("latin-1") in self._callers


def is_host(host: bytes) -> bool:
    """Whether this may stand in a Host header."""
    return HOST.fullmatch(host.decode("latin-1")) is not None
