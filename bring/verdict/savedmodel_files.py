"""The operators of a SavedModel that use files, and are in many: where they may lie, and which files they may use.

Every SavedModel can save and restore its variables, and many read a vocabulary. So these operators are not a finding by
themselves. It is one where they run when the model is used, where a restore reads anything but the model's own
variables, and where a vocabulary is not one of the model's own assets.
"""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from bring.verdict import operators
from bring.verdict.findings import Finding, few
from contract.wire import Bytes, decoded, fields, messages, numbers, parts, text

LISTED = "savedmodel"
SAVING = "variables in files"
VOCABULARY = "vocabularies in files"
RESTORING = {"RestoreV2", "Restore", "RestoreSlice"}
PASSING = {"Identity", "PlaceholderWithDefault"}
"""Operators whose output is their first input."""
CALLS = {"PartitionedCall", "StatefulPartitionedCall"}
"""Operators whose inputs are the arguments of the function that they call."""
HANDLE = "VarHandleOp"
SAVER, COLLECTION, SIGNATURE, ASSETS, OBJECTS = 3, 4, 5, 6, 7
"""Fields of a MetaGraphDef."""
KINDS_OF_OBJECT, ASSET = {4, 5, 6, 7, 8, 9, 10, 12}, 5
"""Fields of a SavedObject, of which the last one counts."""

MOST_STEPS = 100_000
"""Nodes on the way of the names of files, of all of them together; honest models have a few for each file."""
MOST_SAVING, MOST_FUNCTIONS = 100, 1000
"""Functions that save or restore variables, and functions on that way: each is looked for in all nodes."""
MAIN = ""
"""The name of the main graph, which is not a function."""


@dataclass
class Node:
    name: str = ""
    operator: str = ""
    inputs: list[str] = field(default_factory=list)
    content: Bytes = b""
    """The whole message, where an attribute may name a function; empty for a constant, which may be large."""

    @property
    def purpose(self) -> str:
        return operators.purposes(LISTED).get(self.operator, "")

    def input(self, position: int) -> str:
        return self.inputs[position] if position < len(self.inputs) else ""

    @property
    def shared_name(self) -> str:
        """The name of the resource that it makes, which others of the same name share."""
        attributes = (entry for entry in messages(self.content, 5) if text(entry, 1) == "shared_name")
        names = [text(value, 2) for entry in attributes for value in messages(entry, 2)]
        return next(reversed(names), "") or self.name

    def names(self, function: str) -> bool:
        """Whether it names a function, by its operator or anywhere in its attributes."""
        name, content = function.encode(), bytes(self.content)
        is_in_it = name in content and re.search(re.escape(name) + rb"(?!\w)", content) is not None
        return is_in_it or self.operator == function


@dataclass
class Function:
    name: str = MAIN
    arguments: list[str] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    is_replacement: bool = False
    """Whether TensorFlow may call it in place of another function, which no node says."""


class Files:
    """What reaches the operators that use files, and where the names of these files come from."""

    def __init__(self, graph: Bytes, functions: Iterable[Function]) -> None:
        self._functions = {function.name: function for function in functions}
        self._nodes = {name: {node.name: node for node in each.nodes} for name, each in self._functions.items()}
        library = [each for name, each in self._functions.items() if name != MAIN]
        self._saving = {each.name for each in library if any(node.purpose == SAVING for node in each.nodes)}
        if len(self._saving) > MOST_SAVING:
            raise ValueError(f"{len(self._saving)} functions save or restore its variables")
        self._callers: dict[str, list[tuple[str, Node]]] = {}
        self._steps = 0
        self._bound = dict(_bound_to_assets(graph))
        self._entries = list(_entries(graph))
        self._assets = {_bare(text(info, 1)) for asset in assets(graph) for info in messages(asset, 1)}
        savers = list(messages(graph, SAVER))
        self._filenames = {_bare(text(saver, 1)) for saver in savers}
        self._restores = [text(saver, 3) for saver in savers]

    @functools.cached_property
    def _users(self) -> dict[str, list[Node]]:
        """The nodes of the main graph that use a node, by its name."""
        users: dict[str, list[Node]] = {}
        for node in self._functions[MAIN].nodes:
            for name in dict.fromkeys(map(_bare, node.inputs)):
                users.setdefault(name, []).append(node)
        return users

    @functools.cached_property
    def _are_variables_apart(self) -> bool:
        """Whether no two variables can be one, by their name."""
        every = ((name, node) for name, each in self._functions.items() for node in each.nodes)
        handles = [(name, node) for name, node in every if node.operator == HANDLE]
        shared = Counter(node.shared_name for _, node in handles)
        return all(name == MAIN for name, _ in handles) and max(shared.values(), default=0) < 2

    def findings(self) -> Iterator[Finding]:
        if used := sorted({*self._saving_in_use(), *self._restoring_others()}):
            yield Finding(
                f"its operators {few(used)} save or restore variables when the model runs, or read other files than "
                "its own. Export the model without them."
            )
        if reading := sorted(set(self._reading_others())):
            yield Finding(
                f"its operators {few(reading)} read a vocabulary from a file that is not one of the model's assets. "
                "Export the model with that file as a tf.saved_model.Asset."
            )

    def _saving_in_use(self) -> Iterator[str]:
        """What saves or restores, or calls what does, in all that runs when the model is loaded or used."""
        for name, function in self._functions.items():
            if name and name not in self._saving:
                yield from (node.operator for node in function.nodes if self._called(node))
        for name in self._saving:
            if name in self._bound or self._functions[name].is_replacement:
                yield from (node.operator for node in self._functions[name].nodes if node.purpose == SAVING)
        for node in self._reached(self._entries):
            if node.purpose == SAVING or self._called(node):
                yield node.operator

    def _restoring_others(self) -> Iterator[str]:
        """What the restore of the variables runs besides reading the variables."""
        for node in self._reached(self._restores):
            saving = [(name, each) for name in self._called(node) for each in self._functions[name].nodes]
            for name, each in [(MAIN, node), *saving]:
                own = each.operator in RESTORING and self._origins(name, each.input(0)) <= {"variables"}
                if each.purpose == SAVING and not own:
                    yield each.operator

    def _reading_others(self) -> Iterator[str]:
        """What reads a vocabulary from a file that is not an asset of the model."""
        for name, function in self._functions.items():
            for node in function.nodes:
                if node.purpose == VOCABULARY and not self._origins(name, node.input(1)) <= {"asset"}:
                    yield node.operator

    def _called(self, node: Node) -> list[str]:
        """The saving functions that a node names."""
        return [name for name in self._saving if node.names(name)]

    def _calling(self, function: str) -> list[tuple[str, Node]]:
        """The nodes that name a function, and the functions that they lie in."""
        if function not in self._callers:
            if len(self._callers) >= MOST_FUNCTIONS:
                raise ValueError(f"the names of its files come over more than {MOST_FUNCTIONS} functions")
            every = ((caller, node) for caller, each in self._functions.items() for node in each.nodes)
            self._callers[function] = [(caller, node) for caller, node in every if node.names(function)]
        return self._callers[function]

    def _reached(self, names: Iterable[str]) -> Iterator[Node]:
        """The nodes of the main graph that run when those of these names do."""
        todo, seen = list(names), set[str]()
        while todo:
            name = _bare(todo.pop())
            if name not in seen and name in self._nodes[MAIN]:
                seen.add(name)
                yield (node := self._nodes[MAIN][name])
                todo += node.inputs

    def _origins(self, function: str, name: str) -> set[str]:
        """Where the name of a file comes from: an "asset", the "variables", or "elsewhere".

        Raises ValueError where all such names together come a longer way than in any model.
        """
        origins: set[str] = set()
        todo, seen = [(function, name)], set[tuple[str, str]]()
        while todo:
            if (place := todo.pop()) in seen:
                continue
            seen.add(place)
            self._steps += 1
            if self._steps > MOST_STEPS:
                raise ValueError(f"the names of its files come over more than {MOST_STEPS} nodes")
            function, name = place[0], _bare(place[1])
            node, owner = self._nodes[function].get(name), self._functions[function]
            if function == MAIN and name in self._assets | self._filenames:
                origins.add("asset" if name in self._assets else "variables")
            elif node is not None and node.operator in PASSING:
                todo.append((function, node.input(0)))
            elif function == MAIN and node is not None and node.operator == "ReadVariableOp":
                todo += self._assigned(node.input(0), origins)
            elif node is None and name in owner.arguments and not owner.is_replacement:
                todo += self._given(function, owner.arguments.index(name), origins)
            else:
                origins.add("elsewhere")
        return origins

    def _assigned(self, variable: str, origins: set[str]) -> Iterator[tuple[str, str]]:
        """What is assigned to a variable of the main graph: TensorFlow keeps the path of an asset in one.

        What cannot be followed is added to the origins: another use, or another variable by the same shared name.
        """
        variable = _bare(variable)
        if not self._are_variables_apart:
            origins.add("elsewhere")
        for node in self._users.get(variable, ()):
            if node.operator == "AssignVariableOp" and _bare(node.input(1)) != variable:
                yield MAIN, node.input(1)
            elif node.operator not in ("ReadVariableOp", "VarIsInitializedOp", "NoOp"):
                origins.add("elsewhere")

    def _given(self, function: str, position: int, origins: set[str]) -> Iterator[tuple[str, str]]:
        """What a function gets as its argument at a position, from the nodes that call it and from the model's objects.

        What cannot be followed is added to the origins.
        """
        for caller, node in self._calling(function):
            inputs = [name for name in node.inputs if not name.startswith("^")]
            if node.operator in {*CALLS, function} and position < len(inputs):
                yield caller, inputs[position]
            else:
                origins.add("elsewhere")
        if (bound := self._bound.get(function)) is not None:
            place = position - len(self._functions[function].arguments)  # what is bound comes last
            origins.add("asset" if -len(bound) <= place and bound[place] else "elsewhere")


def assets(graph: Bytes) -> list[Bytes]:
    """The assets of a model, as AssetFileDef: TensorFlow 1 has them in a collection, which counts where it is alone."""
    listed = list(messages(graph, ASSETS))
    return listed or [
        asset
        for entry in messages(graph, COLLECTION)
        if text(entry, 1) == "saved_model_assets"
        for collection in messages(entry, 2)
        for anything in messages(collection, 5)
        for value in messages(anything, 1)
        for asset in messages(value, 2)
    ]


def _bare(name: str) -> str:
    """`^node:output:0` -> `node`."""
    return name.removeprefix("^").partition(":")[0]


def _entries(graph: Bytes) -> Iterator[str]:
    """The tensors that a signature names, and the operations that run when the model is loaded."""
    for entry in messages(graph, SIGNATURE):
        for signature in messages(entry, 2):
            for pair in (*messages(signature, 1), *messages(signature, 2)):
                yield from (name for info in messages(pair, 2) for name in _tensors(info))
    for entry in messages(graph, COLLECTION):
        for collection in messages(entry, 2):
            yield from (decoded(name) for nodes in messages(collection, 1) for name in messages(nodes, 1))


def _tensors(info: Bytes) -> Iterator[str]:
    """The names of tensors in a TensorInfo: one, the parts of a sparse one, or those of a composite one."""
    for number, value in parts(info):
        if number == 1:
            yield decoded(value)
        elif number == 4:
            yield from (decoded(part) for _, part in parts(value))
        elif number == 5:
            yield from (name for part in messages(value, 2) for name in _tensors(part))


def _bound_to_assets(graph: Bytes) -> Iterator[tuple[str, list[bool]]]:
    """Each function of the model's objects, and whether each object that is bound to its last arguments is an asset."""
    for objects in messages(graph, OBJECTS):
        kinds = [
            [number for number, _ in fields(node) if number in KINDS_OF_OBJECT][-1:] for node in messages(objects, 1)
        ]
        for entry in messages(objects, 2):
            bound = [number for function in messages(entry, 2) for number in numbers(function, 2)]
            yield text(entry, 1), [number < len(kinds) and kinds[number] == [ASSET] for number in bound]
