"""The formats that a source leads to here, and that are run here, too: Core ML is converted alone."""

from contract.formats import needs
from export import exported_from


def run_from(source: str) -> tuple[str, ...]:
    """Of what can be made of a model that starts in this format, what runs here; in the table's order."""
    return tuple(format for format in exported_from(source) if not needs(format))
