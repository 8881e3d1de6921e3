"""The address that a phone in the same network can open, as a QR code for its camera.

python -m serve.phone http://192.0.2.1:8000/ prints one, for the stack of containers: a container does not know it.
"""

import argparse
import ipaddress
import socket
import ssl
import sys
from urllib.parse import urlsplit

from serve.settings import Settings

ELSEWHERE = {"0.0.0.0": ("192.0.2.1", 9), "::": ("2001:db8::1", 9)}
"""Wildcards, and addresses of nobody: which of this machine's addresses goes there is asked, and nothing is sent."""

QUIET = 2
"""The light margin of the code, in modules: half of what the standard asks for, which cameras read as well."""
BLOCKS = {(True, True): " ", (True, False): "▄", (False, True): "▀", (False, False): "█"}
"""Two modules above each other, dark or light, as a character whose ink is light: most terminals are dark."""
WHITE_ON_BLACK, PLAIN = "\033[97;40m", "\033[0m"


def is_loopback(host: str) -> bool:
    """Whether only this machine can call the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def for_phones(settings: Settings) -> str:
    """What the banner says to phones: nothing where they cannot call, or browsers would not give them a camera."""
    if is_loopback(settings.host) or not settings.tls_cert:
        return ""
    address = network_address(settings.host)
    if address is None:
        return "  No phone can open the page: this machine has no address in a network.\n"
    url = f"https://{f'[{address}]' if ':' in address else address}:{settings.port}/"
    if is_certified(settings, address):
        return invitation(url)
    warning = f"  {settings.tls_cert} is not for {address}, of which its browser warns: `make certificate` makes one.\n"
    return invitation(url) + warning


def invitation(url: str) -> str:
    """The code of an address, and what has to be so for a phone to reach it."""
    port = urlsplit(url).port
    return "\n".join(
        (
            f"  From a phone: {url}",
            "",
            qr_code(url, sys.stdout.isatty(), sys.stdout.encoding or "ascii"),
            "  If it does not open: the phone has to be in the same network, and this machine's firewall has to let",
            f"  TCP port {port} in, for example with `ufw allow {port}/tcp` or `firewall-cmd --add-port={port}/tcp`.",
            "",
        )
    )


def network_address(host: str) -> str | None:
    """The address by which others call this machine where it listens on all of them; None where it has none."""
    if host not in ELSEWHERE:
        return host
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(ELSEWHERE[host])
        except OSError:
            return None
        address: str = probe.getsockname()[0]
    return None if is_loopback(address) else address


def is_certified(settings: Settings, address: str) -> bool:
    """Whether the certificate is for this address, as a browser sees it: both sides shake hands in memory."""
    assert settings.tls_cert is not None
    server_side, client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server_side.load_cert_chain(settings.tls_cert, settings.tls_key)
    client_side.load_verify_locations(settings.tls_cert)
    client_side.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # whose authority it is of does not matter here
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_side.wrap_bio(back, there, server_hostname=address)
    server = server_side.wrap_bio(there, back, server_side=True)
    for _ in range(3):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                return False
    return True


def qr_code(text: str, has_colours: bool, encoding: str) -> str:
    """The code, two rows of modules in a line; empty where the output has no characters for it."""
    import segno  # few of those who start the service want it

    try:
        "".join(BLOCKS.values()).encode(encoding)
    except UnicodeEncodeError:
        return ""
    rows = [[bool(module) for module in row] for row in segno.make_qr(text, error="m").matrix_iter(border=QUIET)]
    if len(rows) % 2:
        rows.append([False] * len(rows[0]))
    lines = (
        "".join(map(BLOCKS.__getitem__, zip(*pair, strict=True))) for pair in zip(rows[::2], rows[1::2], strict=True)
    )
    before, after = (WHITE_ON_BLACK, PLAIN) if has_colours else ("", "")
    return "".join(f"  {before}{line}{after}\n" for line in lines)


def main() -> None:
    """The command line: an address."""
    parser = argparse.ArgumentParser(prog="python -m serve.phone", description="Print an address as a QR code.")
    parser.add_argument("url", help="the address that a phone opens")
    print(invitation(parser.parse_args().url))


if __name__ == "__main__":
    main()
