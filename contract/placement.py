"""Which part of a runtime computes an artifact's operators: its fast kernels, a delegate, or an accelerator."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Placement:
    """How many of an artifact's operators one part of its runtime computes."""

    part: str
    """"XNNPACK", "NNAPI", "fast kernels"."""
    operators: int
    total: int
    """Of all that compute, the others are left to the runtime's own kernels."""
    pieces: int
    """In how many connected pieces of the graph, between which values are handed over and back; 0 where nothing is."""
    is_loaded: bool
    """Whether the loaded graph shows it; else the runtime's own check says it of hardware that is not here."""
    if_sizes_are_fixed: bool = False
    """Whether it takes none of a file with free sizes, such as the batch, and so many once these are fixed."""

    def __str__(self) -> str:
        """`10 of 13 operators run on XNNPACK, in 3 pieces`."""
        return self.template.format(**vars(self))

    @property
    def template(self) -> str:
        """The phrase, with the names of its numbers in their places."""
        run = "run" if self.is_loaded else "could run"
        part = self.part.replace("{", "{{").replace("}", "}}")  # it may come from somebody else's parity.json
        pieces = f", in {{pieces}} piece{'s' if self.pieces > 1 else ''}" if self.pieces else ""
        condition = ", once its sizes are fixed" if self.if_sizes_are_fixed and self.operators else ""
        return f"{{operators}} of {{total}} operators {run} on {part}{pieces}{condition}"
