"""torch -> coreai. Load the result with `AIModel(contentsOf:)` in Swift, from iOS 27 and macOS 27.

In Python, off Apple's systems, `AIModelAsset.load(path).executable()` of coreai.authoring compiles it for Apple's own
runtime; `AIModel.load(path)` cannot read the file there.
"""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from coreai_torch import TorchConverter, get_decomp_table

from contract.manifest import Manifest
from export.torch_recurrent import refuse_many_steps

CONVERTERS = ("coreai-torch", "coreai-core", "torch")


def export(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write the folder `model.aimodel`, with the weights in its program. Free sizes stay free. Raises ExportError."""
    program = torch.export.load(parent / "model.pt2")
    refuse_many_steps(program, "Core AI")
    program = program.run_decompositions(get_decomp_table())
    _forget_layouts(program.graph)
    # By default each operator takes along where in the source code it comes from: paths of this machine.
    converter = TorchConverter(mode=TorchConverter.Mode.RELEASE)
    names = {"input_names": manifest.inputs, "output_names": manifest.outputs}
    converter.add_exported_program(program, **{key: [spec.name for spec in specs] for key, specs in names.items()})
    folder = target / "model.aimodel"
    with contextlib.redirect_stdout(sys.stderr):  # where the other converters write what they do
        converter.to_coreai().save_asset(folder)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _forget_layouts(graph: torch.fx.Graph) -> None:
    """Leave out what only says how a tensor lies in memory, as PyTorch does behind a global pooling of NHWC."""
    for node in [node for node in graph.nodes if node.target is torch.ops.aten.as_strided.default]:
        (source, *_), (new, old) = node.args, (node.meta["val"], node.args[0].meta["val"])
        axes = zip(new.shape, old.shape, new.stride(), old.stride(), strict=False)
        is_same = new.dim() == old.dim() and all(
            size == was and (size == 1 or step == old_step) for size, was, step, old_step in axes
        )
        if is_same and len(node.args) == 3 and all(user.op != "output" for user in node.users):
            node.replace_all_uses_with(source)
            graph.erase_node(node)
