"""Known causes of failed conversions: what a converter's or runtime's message means, and what to try."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """Why an edge failed."""

    reason: str
    """Which operator or feature, in one sentence."""
    cause: str = ""
    advice: str = ""


IN_FLOAT32 = (
    "Its operators are written for float32; for other kinds of fractions, some are missing.",
    "Save the model in float32 (PyTorch: net.float(); Keras: build it under the dtype policy float32).",
)
"""The cause and the advice where the dtype is the matter."""

DTYPES = {"f16": "float16", "bf16": "bfloat16", "f64": "float64"}
"""As a converter writes them."""

KNOWN: tuple[tuple[str, str, str, str], ...] = (
    (
        r"its parent, (\w+), could not be made",
        "It is made from {0}, which could not be made.",
        "",
        "",
    ),
    (
        r"No module named 'onnx2tf\.ops\.(\w+)'",
        "onnx2tf does not know the ONNX operator {0}.",
        "The operator has no counterpart in TensorFlow that onnx2tf builds.",
        "Replace it in the network, or export with another opset; for TF Lite alone, convert the PyTorch model by "
        "litert-torch.",
    ),
    (
        r"Failed to cast to unknown dtype null",
        "TF.js has no tensors of one of this model's dtypes: it has float32, int32, bool and strings.",
        "",
        "Save the model with int32 or float32 in place of it, or ship ONNX for the browser.",
    ),
    (
        r"(?:KeyError|Failed with error): torch\.(uint\d+)",
        "This converter does not know tensors of {0}.",
        "",
        "Save the model with int32 in place of it, or ship ONNX.",
    ),
    (
        r"method->execute\(\) failed with error 0x12\b",
        "A kernel of ExecuTorch refuses what this program gives it (InvalidArgument).",
        "",
        "Save the model with float32 or int32 where it has another dtype, or ship ONNX.",
    ),
    (
        r"There is no translation of the ONNX operator ([\w., ]+)\.",
        "No converter here knows the ONNX operator {0}.",
        "",
        "Replace it in the network, or ship ONNX.",
    ),
    (
        r"keeps a state between its calls",
        "The model keeps a state between its calls, inside its file.",
        "A graph of ONNX answers from its inputs alone.",
        "Take the model from before it was made streaming, with its state among the inputs and outputs.",
    ),
    (
        r"onnx2tf failed at (\S+) of \S+: (.*(?:[Dd]imension|[Ss]hape|axis|axes|rank|broadcast).*)",
        "onnx2tf could not convert the operator {0}: {1}.",
        "It converts ONNX's NCHW tensors to NHWC, and loses track of an axis here.",
        "Start from a Keras model, or ship ONNX.",
    ),
    (
        r"onnx2tf failed at (\S+) of \S+: (.*)",
        "onnx2tf could not convert the operator {0}: {1}.",
        "",
        "Ship ONNX.",
    ),
    (
        r"TF Select ops: ([\w, ]+?)\s*Details:\s*tf\.\w+\((?:tensor<[^>]*>, )*tensor<(?:[\d?]+x)*(f16|bf16|f64)>",
        "LiteRT has no operator for {0} in {1}.",
        *IN_FLOAT32,
    ),
    (
        r"'tf\.TensorListReserve' op requires element_dtype to be",
        "LiteRT has no lists of texts, and this graph loops over some.",
        "It keeps numbers alone from one turn of a loop to the next.",
        "Split texts before the model, or ship the SavedModel.",
    ),
    (
        r"Node number \d+ \(IF\) failed to prepare",
        "LiteRT cannot prepare a branch of this graph's If for the sizes of the call.",
        "It prepares both branches before it knows which one is taken, and one of them does not take these sizes.",
        "Export the branch that you use as a model of its own, or ship ONNX.",
    ),
    (
        r"Argument '\w+' passed to '(\w+)' must be (?:a )?numeric tensor, but got string tensor",
        "TF.js's operator {0} takes no texts, and this graph gives it some.",
        "Its backends compute with numbers.",
        "Answer with the numbers of the classes, and name them by LABELS.",
    ),
    (
        r"No conversion rule found for operations: ([\w.:, ]+?)\.?\s*(?:$|\n)",
        "OpenVINO has no operator {0}.",
        "It reads only some of the operators of its parent's format.",
        "Replace the operator in the network, or ship another format.",
    ),
    (
        r"Failed operations detailed log: -- (\S+) with a message",
        "OpenVINO cannot convert the operator {0} with these inputs and settings.",
        "It checks sizes, dtypes and settings of each operator, also of branches that are never taken.",
        "Ship another format.",
    ),
    (
        r"Error dumping weight \S+, dtype (\w+) not supported",
        "TF.js has no numbers of {0}, as the weights are.",
        *IN_FLOAT32,
    ),
    (
        r"Could not find an implementation for (\w+)\(\d+\) node",
        "ONNX Runtime knows the operator {0}, and not in the dtype that the graph has.",
        *IN_FLOAT32,
    ),
    (
        r"(?:Some ops are not supported by the native TFLite runtime|needs? (?:a )?(?:custom|Flex).*?)[\s\S]*?"
        r"(?:Flex ops|ops?): ([\w., ]+?)(?=\s*(?:Details|[^\w., ]|$))",
        "LiteRT has no built-in operator for {0}.",
        "TensorFlow's own operators (Flex) could stand in, but LiteRT's small runtimes and browsers do not have them.",
        "Replace the operator in the network, or ship ONNX.",
    ),
    (
        r"'(tf\.\w+)' op is neither a custom op nor a flex op",
        "LiteRT has no built-in operator for {0}.",
        "TensorFlow's own operators (Flex) could stand in, but LiteRT's small runtimes and browsers do not have them.",
        "Replace the operator in the network, or ship ONNX.",
    ),
    (
        r"Unsupported Ops?(?: in the model)?\s*(?:before optimization)?[:\s]+([\w, ]+)",
        "TF.js has no operator {0}.",
        "Its runtimes implement only some of TensorFlow's operators.",
        "Replace the operator in the network, or ship ONNX for the browser.",
    ),
    (
        r"Kernel '(\w+)' not registered for backend '(\w+)'",
        "TF.js's backend {1} has no operator {0}.",
        "Each of its backends implements only some of TensorFlow's operators.",
        "Replace the operator in the network, or ship ONNX for the browser.",
    ),
    (
        r"(?:No ONNX function found for|No decompositions registered for|Unsupported FX nodes?:?) [<']?([\w.:]+)",
        "PyTorch's ONNX exporter does not know {0}.",
        "The operator has no translation in this version's registry.",
        "Write it with other operators, or update PyTorch.",
    ),
    (
        r"Cannot view a tensor with shape (?:torch\.Size\()?(\[[^\]]*\])",
        "PyTorch's ONNX exporter cannot reshape a tensor of shape {0} as the network does.",
        "It writes attention with other operators, whose result has another memory layout than the network expects.",
        "Build the network with plain attention (transformers: attn_implementation='eager').",
    ),
    (
        r"Error in conv2d: depth of input \((\d+)\) must match input depth for filter (\d+)",
        "TF.js has no grouped convolution, and this graph has one of {0} channels in groups of {1}.",
        "A user's SavedModel is converted as it is; from Keras, PyTorch and ONNX the graph is written without it.",
        "Start from the Keras, PyTorch or ONNX model, or ship ONNX for the browser.",
    ),
    (
        r"Cannot compute the outputs \S+ from the provided inputs|only supports rank-1 bias",
        "TF.js cannot run the loop in this graph.",
        "A recurrent layer becomes a loop of operators, which TF.js's executor does not finish.",
        "Build the recurrent layer with unroll=True, or ship ONNX for the browser.",
    ),
    (
        r"Tensorflow op \[\S*?: (\w+)\] is not supported",
        "tf2onnx does not know TensorFlow's operator {0}.",
        "It has no counterpart in ONNX.",
        "Replace the operator in the network.",
    ),
    (
        r"(?:GuardOnDataDependentSymNode|ConstraintViolationError|Constraints violated)",
        "The network's shapes depend on its values or on a fixed batch.",
        "torch.export keeps a size free only where no decision in the network depends on it.",
        "Export the source with a fixed batch of 1.",
    ),
    (
        r"(?:larger than 2 ?GB|exceeds? maximum protobuf size|2147483647)",
        "The model is larger than 2 GB.",
        "One ONNX file, and one TF.js graph, cannot hold more.",
        "Use half precision, or a smaller network.",
    ),
    (
        r"more than ([\d.]+) GiB of memory and was ended",
        "The converter took more than {0} GiB of memory.",
        "The limit keeps a file from using up the machine's memory.",
        "Allow more with MEMORY_GIB=, if the machine has it.",
    ),
)


def explain(edge: str, message: str, log: str) -> Cause:
    """The known cause of a converter's or runtime's message; the message itself where none is known."""
    for text in (message, log):
        for pattern, reason, cause, advice in KNOWN:
            if match := re.search(pattern, text):
                words = [" ".join(group.split()).strip(" .,") for group in match.groups()]
                words = [DTYPES.get(word, word) for word in words]
                return Cause(reason.format(*words), cause, advice)
    return Cause(f"{edge}: {message.rstrip('.')}.")
