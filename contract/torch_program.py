"""What a program of torch.export must not tell: where its code lay on the machine that made it."""

from typing import Any


def without_paths(program: Any) -> Any:
    """The same program, a torch.export.ExportedProgram, in which no operator keeps the stack trace of its line of code.

    Stack traces hold the maker's folders, so a file's bytes and its size would depend on where the code lies.
    """
    for module in program.graph_module.modules():
        for node in module.graph.nodes if hasattr(module, "graph") else ():
            node.meta.pop("stack_trace", None)
    return program
