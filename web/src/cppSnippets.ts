/** Code in C++, for devices and servers without Python. It prints every output for zeros. */

import { fileEndingIn } from './runtimes/files';
import type { Artifact } from './server';
import type { Snippet } from './snippet';
import { count, defaultTensors, typeIn, type Tensor, type TensorSpec } from './tensors';

type TypeOf = (tensor: Tensor | TensorSpec) => string;

/** A library that runs a format. */
interface Library {
  title: string;
  /** Where it comes from, and how to compile, as comments. */
  before: string[];
  headers: string[];
  /** What encloses the code: `int main()`, or a function that `main` calls. */
  open: string;
  /** Lines that load the artifact, and call it with zeros. `inputs` are tensors of one row. */
  run(artifact: Artifact, inputs: Tensor[], typeOf: TypeOf): string[];
  /** Lines that print one output. */
  print(output: TensorSpec, place: number, type: string): string[];
  close: string;
}

const TYPES = {
  FP32: 'float', FP64: 'double', INT8: 'std::int8_t', UINT8: 'std::uint8_t', INT16: 'std::int16_t', UINT16: 'std::uint16_t',
  INT32: 'std::int32_t', UINT32: 'std::uint32_t', INT64: 'std::int64_t', UINT64: 'std::uint64_t',
};

const NOT_RUN = 'It follows the documentation of the library. The tests of this project do not have it, so they do not run this.';

const quoted = ({ name }: { name: string }) => JSON.stringify(name);
const sizes = ({ shape }: Tensor) => `{${shape.join(', ')}}`;

/** Prints a tensor. The plus makes a number of what is a character to C++. */
const PRINT = `template <class Type>
void print(const char* name, const Type* values, std::size_t count) {
    std::cout << name << ':';
    for (std::size_t i = 0; i < count; ++i) std::cout << ' ' << +values[i];
    std::cout << '\\n';
}`;

const LIBRARIES: Record<string, Library> = {
  onnx: {
    title: 'C++, ONNX Runtime',
    before: ['The archives of ONNX Runtime on GitHub have the headers and the library. g++ -std=c++17 predict.cpp -lonnxruntime', NOT_RUN],
    headers: ['<onnxruntime_cxx_api.h>'],
    open: 'int main() {',
    run: (artifact, inputs, typeOf) => [
      'Ort::Env environment;',
      `Ort::Session session(environment, ORT_TSTR("${fileEndingIn(artifact, '.onnx')}"), Ort::SessionOptions());`,
      'auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);',
      'std::vector<Ort::Value> inputs;',
      ...inputs.flatMap((input, i) => [
        `std::vector<${typeOf(input)}> values${i}(${count(input.shape)});`,
        `std::vector<std::int64_t> shape${i}${sizes(input)};`,
        `inputs.push_back(Ort::Value::CreateTensor<${typeOf(input)}>(`,
        `    memory, values${i}.data(), values${i}.size(), shape${i}.data(), shape${i}.size()));`,
      ]),
      `const char* names[] = {${inputs.map(quoted).join(', ')}};`,
      `const char* wanted[] = {${artifact.outputs.map(quoted).join(', ')}};`,
      `auto outputs = session.Run(Ort::RunOptions(), names, inputs.data(), inputs.size(), wanted, ${artifact.outputs.length});`,
    ],
    print: (output, place, type) => [
      `print(${quoted(output)}, outputs[${place}].GetTensorData<${type}>(), outputs[${place}].GetTensorTypeAndShapeInfo().GetElementCount());`,
    ],
    close: '}',
  },
  tflite: {
    title: 'C++, LiteRT',
    before: ["LiteRT's releases on GitHub have the headers and the library.", NOT_RUN],
    headers: ['"absl/container/flat_hash_map.h"', '"absl/types/span.h"', '"litert/cc/litert_compiled_model.h"', '"litert/cc/litert_environment.h"', '"litert/cc/litert_macros.h"'],
    open: 'litert::Expected<void> predict() {',
    run: (artifact, inputs, typeOf) => [
      'LITERT_ASSIGN_OR_RETURN(auto environment, litert::Environment::Create({}));',
      'LITERT_ASSIGN_OR_RETURN(',
      `    auto model, litert::CompiledModel::Create(environment, "${fileEndingIn(artifact, '.tflite')}", litert::HwAccelerators::kCpu));`,
      'absl::flat_hash_map<absl::string_view, litert::TensorBuffer> inputs, outputs;',
      ...inputs.flatMap((input, i) => [
        `std::vector<${typeOf(input)}> values${i}(${count(input.shape)});`,
        `LITERT_ASSIGN_OR_RETURN(inputs[${quoted(input)}], model.CreateInputBuffer("batch1", ${quoted(input)}));`,
        `LITERT_RETURN_IF_ERROR(inputs[${quoted(input)}].Write<${typeOf(input)}>(absl::MakeConstSpan(values${i})));`,
      ]),
      ...artifact.outputs.map((output) => `LITERT_ASSIGN_OR_RETURN(outputs[${quoted(output)}], model.CreateOutputBuffer("batch1", ${quoted(output)}));`),
      'LITERT_RETURN_IF_ERROR(model.Run("batch1", inputs, outputs));',
    ],
    print: (output, place, type) => [
      `LITERT_ASSIGN_OR_RETURN(auto bytes${place}, outputs[${quoted(output)}].PackedSize());`,
      `std::vector<${type}> answer${place}(bytes${place} / sizeof(${type}));`,
      `LITERT_RETURN_IF_ERROR(outputs[${quoted(output)}].Read<${type}>(absl::MakeSpan(answer${place})));`,
      `print(${quoted(output)}, answer${place}.data(), answer${place}.size());`,
    ],
    close: `    return {};
}

int main() { return predict() ? 0 : 1; }`,
  },
  openvino: {
    title: 'C++, OpenVINO',
    before: [
      "OpenVINO's Python package has the headers and the library:",
      "OPENVINO=$(python -c 'import openvino; print(openvino.__path__[0])')",
      'g++ -std=c++17 -I "$OPENVINO/include" predict.cpp "$OPENVINO"/libs/libopenvino.so.* -Wl,-rpath,"$OPENVINO/libs" -o predict',
    ],
    headers: ['<openvino/openvino.hpp>'],
    open: 'int main() {',
    run: (artifact, inputs, typeOf) => [
      '// On some processors OpenVINO computes in bfloat16 unless it is given a precision.',
      'ov::Core core;',
      `auto model = core.compile_model("${fileEndingIn(artifact, '.xml')}", "CPU", ov::hint::inference_precision(ov::element::f32));`,
      'auto request = model.create_infer_request();',
      ...inputs.flatMap((input, i) => [
        `std::vector<${typeOf(input)}> values${i}(${count(input.shape)});`,
        `request.set_tensor(${quoted(input)}, ov::Tensor(ov::element::from<${typeOf(input)}>(), ${sizes(input)}, values${i}.data()));`,
      ]),
      'request.infer();',
    ],
    print: (output, _, type) => [
      `print(${quoted(output)}, request.get_tensor(${quoted(output)}).data<${type}>(), request.get_tensor(${quoted(output)}).get_size());`,
    ],
    close: '}',
  },
};

/** What makes the snippet of a family, with its title. Making it raises Error for a datatype that C++ has no vector of. */
export function cppSnippets(artifact: Artifact, family: string): [title: string, make: () => Snippet][] {
  const library = LIBRARIES[family];
  return library ? [[library.title, () => written(artifact, library)]] : [];
}

function written(artifact: Artifact, { title, before, headers, open, run, print, close }: Library): Snippet {
  const typeOf: TypeOf = (tensor) => typeIn(TYPES, tensor, title);
  const inputs = defaultTensors(artifact.inputs, 'zeros');
  const lines = [...run(artifact, inputs, typeOf), ...artifact.outputs.flatMap((output, place) => print(output, place, typeOf(output)))];
  const code = `${[...before, ...zeros(artifact)].map((line) => `// ${line}`).join('\n')}
#include <cstdint>
#include <iostream>
#include <vector>

${headers.map((header) => `#include ${header}`).join('\n')}

${PRINT}

${open}
${lines.map((line) => `    ${line}`).join('\n')}
${close}`;
  return { title, language: 'cpp', code };
}

/** What the zeros stand for where a model takes pictures. */
function zeros({ image, inputs }: Artifact): string[] {
  if (!image) return [];
  return [
    `${inputs[0]!.name} is zeros. Put a picture's ${image.height} x ${image.width} x ${image.channels} values from 0 to 255 into values0, row by row,`,
    'made as the Python for this file makes them.',
  ];
}
