"""TLS: the certificate is checked at the start, and a new one counts for the next connection."""

import ssl

from serve.settings import SettingError, Settings
from serve.watched import Watched


def load_certificate(settings: Settings, context: ssl.SSLContext) -> None:
    """Let the context use the settings' certificate. Raises SettingError where it is not one, or not of the key."""
    assert settings.tls_cert is not None
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password="")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise SettingError(
            f"SERVE_TLS_CERT={settings.tls_cert} SERVE_TLS_KEY={settings.tls_key} cannot be used: {reason}. Expected a "
            "certificate and its key without a password, as PEM; `make certificate` makes both."
        ) from error


def check_certificate(settings: Settings) -> None:
    """Raise SettingError unless the settings' certificate can be used, if they have one."""
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise SettingError("SERVE_TLS_CERT and SERVE_TLS_KEY are set together, or not at all.")
    if settings.tls_cert is not None:
        load_certificate(settings, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


def watch_certificate(settings: Settings, context: ssl.SSLContext) -> Watched:
    """What lets a server's context use the certificate again whenever its files change."""
    assert settings.tls_cert is not None and settings.tls_key is not None

    def use() -> None:
        # One that is not a pair would leave the context with half of it.
        load_certificate(settings, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        load_certificate(settings, context)

    return Watched([settings.tls_cert, settings.tls_key], use)
