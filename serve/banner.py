"""The text that is printed when the service is ready."""

from serve.catalog import Catalog, ServedModel
from serve.phone import for_phones
from serve.settings import Settings


def banner(catalog: Catalog, settings: Settings) -> str:
    """The page's address, the models, and a line to paste."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    scheme = "https" if settings.tls_cert else "http"
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    address = f"{scheme}://{host}:{settings.port}"
    rows = [f"  {model.name:24} {_state(model)}" for model in catalog.values()]
    lines = [
        "",
        f"Rosetta Serve answers with {sum(model.ready for model in catalog.values())} of {len(catalog)} artifacts:",
        *rows,
        "",
        f"  The page:    {address}/",
        "  From a shell:",
        f"    curl -s {address}/samples/{_sample(settings)} | curl -s --data-binary @- {address}/compare",
        "",
    ]
    return "\n".join(lines) + for_phones(settings)


def _state(model: ServedModel) -> str:
    """Its status, and how many test pictures it gets right on the machine that compared it: others may differ."""
    if not model.ready:
        return f"NOT SERVED: {model.error}"
    known = model.status.parity.accuracy if model.status.parity else model.described.made_with.get("test_accuracy")
    right = f"{model.status.word:28} {known:.2%} of the test pictures right" if isinstance(known, float) else ""
    return right or model.status.word


def _sample(settings: Settings) -> str:
    samples = sorted((settings.artifacts / "samples").glob("*.png"))
    return samples[0].name if samples else "0000.png"
