"""The search over routes: from what was tried and what parity said, what to do next. Nothing is run here.

A format is reached along one edge of the graph of formats, and an edge has one or more routes. Its routes are tried in
their order until the artifact of one passes parity. A route is left for the next one when its converter fails, when the
artifact's runtime cannot run it, or when parity fails; the best of such artifacts is kept aside, in case none passes.

bring/walk.py carries the steps out and reports to the search what came of each.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from contract.formats import needs
from contract.parity_result import ParityResult
from export import edges_from, find_routes


@dataclass(eq=False)
class Attempt:
    """One route that was tried, and what came of it."""

    route: str
    conversion_error: str | None = None
    """The converter's message, where it wrote no artifact."""
    runtime_error: str | None = None
    """The runtime's message, where it could not run the artifact."""
    parity: ParityResult | None = None
    """None where there is no artifact, where it cannot be run, and until it is verified."""
    was_compared: bool = False
    """Whether a comparison was tried, whatever came of it."""
    needs: str = ""
    """The system that alone runs the artifact, where that is not this one."""

    @property
    def passed(self) -> bool:
        return self.parity is not None and self.parity.passed

    @property
    def is_unknown(self) -> bool:
        """Whether another system alone runs it, and its file has nothing against it: no more is known here."""
        return bool(self.needs) and self.was_compared and self.parity is None and self.runtime_error is None

    @property
    def difference(self) -> float:
        """The largest difference from the source's answers; infinite where there are no answers."""
        return self.parity.max_abs_diff if self.parity else float("inf")


@dataclass(eq=False)
class Edge:
    """A format to reach from its parent, and the attempts so far."""

    parent: str
    format: str
    routes: Sequence[str]
    next_route: int = 0
    """The number of the route that is tried next; back to 0 when the parent is made anew."""
    attempts: list[Attempt] = field(default_factory=list)
    """All that count, in their order; those with earlier parents only where they failed."""
    artifact: Attempt | None = None
    """The attempt whose artifact is in the format's folder: the last one, or None."""
    aside: Attempt | None = None
    """The best of the attempts whose artifacts did not pass."""

    @property
    def has_another(self) -> bool:
        """Whether there is a route that was not tried."""
        return self.next_route < len(self.routes)

    def converted(self) -> None:
        """Record that the next route wrote an artifact."""
        self.artifact = self._try()

    def failed(self, error: str) -> None:
        """Record that the next route's converter failed."""
        self._try().conversion_error = error

    def _try(self) -> Attempt:
        attempt = Attempt(self.routes[self.next_route], needs=needs(self.format))
        self.next_route += 1
        self.attempts.append(attempt)
        return attempt


@dataclass(frozen=True)
class Export:
    """Convert the parent along the route of this number."""

    edge: Edge
    route: int


@dataclass(frozen=True)
class Verify:
    """Compare every artifact that has no result yet with the source."""


@dataclass(frozen=True)
class PutAside:
    """Make room for the next route's artifact; what was exported from this one is removed."""

    edge: Edge
    is_best: bool
    """Whether the artifact is better than the one that lies aside, and takes its place; otherwise it is removed."""
    below: tuple[str, ...]
    """The formats that were exported from it, directly or not."""


Step = Export | Verify | PutAside


class Search:
    """The state of the search for all formats that can be reached from one."""

    def __init__(self, edges: Sequence[Edge]) -> None:
        """`edges` has parents before their children."""
        self.edges = {edge.format: edge for edge in edges}
        self._is_verified = False

    def next_step(self) -> Step | None:
        """What to do next; None when every format passes or has no other route. Nothing changes by asking.

        All that failed parity makes room before anything is converted, so that what comes next is compared at once.
        What could not be run makes room one by one: a comparison that is ended takes others with it.
        """
        for edge in self.edges.values():
            if edge.artifact and edge.artifact.parity and edge.has_another and not edge.artifact.passed:
                return self._aside(edge)
        for edge in self.edges.values():
            if edge.artifact is None and edge.has_another and self._is_there(edge.parent):
                return Export(edge, edge.next_route)
        if not self._is_verified or self._has_new():
            return Verify()
        for edge in self.edges.values():
            if edge.artifact and edge.has_another and not (edge.artifact.passed or edge.artifact.is_unknown):
                return self._aside(edge)
        return None

    def _aside(self, edge: Edge) -> PutAside:
        assert edge.artifact is not None, edge.format
        is_best = edge.aside is None or edge.artifact.difference < edge.aside.difference
        return PutAside(edge, is_best, tuple(self._below(edge.format)))

    def unverified(self) -> list[str]:
        """The formats whose artifacts have no parity result: new ones, and those that could not be run.

        The latter may have been ended together with another one.
        """
        artifacts = ((format, edge.artifact) for format, edge in self.edges.items() if edge.artifact)
        return [format for format, artifact in artifacts if artifact.parity is None and not artifact.is_unknown]

    def verified(self, results: Mapping[str, ParityResult | str | None]) -> None:
        """Record what parity says of each artifact, by its format: a result, or why its runtime could not run it.

        It is None for one that another system alone runs.
        """
        for format, result in results.items():
            artifact = self.edges[format].artifact
            assert artifact is not None, format
            artifact.parity = result if isinstance(result, ParityResult) else None
            artifact.runtime_error = result if isinstance(result, str) else None
            artifact.was_compared = True
        self._is_verified = True

    def put_aside(self, step: PutAside) -> None:
        """Record that the step was carried out. The formats below begin again with their first routes."""
        if step.is_best:
            step.edge.aside = step.edge.artifact
        step.edge.artifact = None
        for format in step.below:
            child = self.edges[format]
            if child.artifact:
                child.attempts.remove(child.artifact)
            child.artifact, child.next_route = None, 0
        self._is_verified = False

    def ending(self, edge: Edge) -> Attempt | None:
        """The attempt to keep when the search is over, if its runtime can run it; None where nothing was converted.

        It is the last one, or the one aside where that is as good and no format is exported from this one.
        """
        last, aside = edge.artifact, edge.aside
        if aside is None or any(self._below(edge.format)) or (last is not None and last.passed):
            return last
        return aside if last is None or aside.difference <= last.difference else last

    def _has_new(self) -> bool:
        return any(edge.artifact and not edge.artifact.was_compared for edge in self.edges.values())

    def _is_there(self, format: str) -> bool:
        """Whether there is an artifact to export from: the source always is."""
        return format not in self.edges or self.edges[format].artifact is not None

    def _below(self, format: str) -> Iterator[str]:
        for edge in self.edges.values():
            if edge.parent == format:
                yield edge.format
                yield from self._below(edge.format)


def reachable(format: str) -> Iterator[Edge]:
    """Every format that can be made here from this one, each along the fewest edges; parents before their children."""
    for parent, target in edges_from(format):
        yield Edge(parent, target, [route.name for route in find_routes(parent, target)])
