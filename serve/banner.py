"""The text that is printed when the service is ready."""

from serve.catalog import Catalog
from serve.settings import Settings


def banner(catalog: Catalog, settings: Settings) -> str:
    """The page's address, the models, and a line to paste."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    address = f"http://{f'[{host}]' if ':' in host.strip('[]') and not host.startswith('[') else host}:{settings.port}"
    rows = [f"  {model.name:24} {_state(model.ready, model.status.word, model.error)}" for model in catalog.values()]
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
    return "\n".join(lines)


def _state(ready: bool, word: str, error: str) -> str:
    return word if ready else f"NOT SERVED: {error}"


def _sample(settings: Settings) -> str:
    samples = sorted((settings.artifacts / "samples").glob("*.png"))
    return samples[0].name if samples else "0000.png"
