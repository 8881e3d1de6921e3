/** Code for phones: Kotlin for Android, Swift for iOS. It prints every output for zeros, and nothing here runs it. */

import { fileEndingIn, folderEndingIn } from './runtimes/files';
import type { Artifact } from './server';
import type { Snippet } from './snippet';
import { count, defaultTensors, typeIn, type Tensor, type TensorSpec } from './tensors';

/** A library that runs a format on a phone. */
interface Phone {
  title: string;
  language: 'kotlin' | 'swift';
  /** Where the library comes from. */
  library: string;
  imports: string[];
  /** A datatype -> what the library calls it. */
  types: Record<string, string>;
  /** `typeOf` gives the library's name of a tensor's datatype, and raises Error where it has none. */
  run(artifact: Artifact, inputs: Tensor[], typeOf: (tensor: Tensor | TensorSpec) => string): string;
}

const NOTE = '// It follows the documentation of the library. The tests of this project have no phone, so they do not run it.';

const quoted = ({ name }: { name: string }) => JSON.stringify(name).replaceAll('$', '\\$');
const sizes = ({ shape }: Tensor) => shape.join(', ');

/** The file of a bundle as Swift names it: without its ending. */
const inBundle = (file: string) => {
  const dot = file.lastIndexOf('.');
  return `Bundle.main.path(forResource: ${JSON.stringify(file.slice(0, dot))}, ofType: ${JSON.stringify(file.slice(dot + 1))})!`;
};

// --- Kotlin

const ARRAYS = { FP32: 'Float', INT32: 'Int' };

const ANDROID: Record<string, Phone> = {
  tflite: {
    title: 'Kotlin, LiteRT', language: 'kotlin', library: 'Gradle: com.google.ai.edge.litert:litert. The file lies in src/main/assets.',
    imports: ['android.content.Context', 'com.google.ai.edge.litert.CompiledModel'],
    types: { ...ARRAYS, INT8: 'Int8', BOOL: 'Boolean' },
    run: (artifact, inputs, typeOf) => `fun predict(context: Context) {
    CompiledModel.create(context.assets, "${fileEndingIn(artifact, '.tflite')}").use { model ->
        val inputs = mapOf(
${inputs.map((input) => `            ${quoted(input)} to model.createInputBuffer(${quoted(input)}, "batch1"),`).join('\n')}
        )
${inputs.map((input) => `        inputs.getValue(${quoted(input)}).write${typeOf(input)}(${kotlinArray(typeOf(input))}(${count(input.shape)}))`).join('\n')}
        val outputs = listOf(${artifact.outputs.map(quoted).join(', ')}).associateWith { model.createOutputBuffer(it, "batch1") }
        model.run(inputs, outputs, "batch1")
${artifact.outputs.map((output) => `        println(outputs.getValue(${quoted(output)}).read${typeOf(output)}().toList())`).join('\n')}
    }
}`,
  },
  onnx: {
    title: 'Kotlin, ONNX Runtime', language: 'kotlin',
    library: 'Gradle: com.microsoft.onnxruntime:onnxruntime-android. The file lies in src/main/assets.',
    imports: ['ai.onnxruntime.OnnxTensor', 'ai.onnxruntime.OrtEnvironment', 'android.content.Context', 'java.nio.*'],
    types: { ...ARRAYS, FP64: 'Double', INT64: 'Long', INT16: 'Short' },
    run: (artifact, inputs, typeOf) => `fun predict(context: Context) {
    val environment = OrtEnvironment.getEnvironment()
    environment.createSession(context.assets.open("${fileEndingIn(artifact, '.onnx')}").readBytes()).use { session ->
        val inputs = mapOf(
${inputs.map((input) => `            ${quoted(input)} to OnnxTensor.createTensor(environment, ${typeOf(input)}Buffer.allocate(${count(input.shape)}), longArrayOf(${sizes(input)})),`).join('\n')}
        )
        session.run(inputs).use { outputs ->
${artifact.outputs.map((output) => `            println((outputs.get(${quoted(output)}).get() as OnnxTensor).${typeOf(output).toLowerCase()}Buffer.array().toList())`).join('\n')}
        }
    }
}`,
  },
  executorch: {
    title: 'Kotlin, ExecuTorch', language: 'kotlin', library: 'Gradle: org.pytorch:executorch-android',
    imports: ['org.pytorch.executorch.EValue', 'org.pytorch.executorch.Module', 'org.pytorch.executorch.Tensor'],
    types: { ...ARRAYS, FP64: 'Double', INT64: 'Long' },
    run: (artifact, inputs, typeOf) => `/** \`path\` is that of ${fileEndingIn(artifact, '.pte')} in the app's own files: a program is not loaded out of the assets. */
fun predict(path: String) {
    val module = Module.load(path)
    val outputs = module.forward(
${inputs.map((input) => `        EValue.from(Tensor.fromBlob(${typeOf(input)}Array(${count(input.shape)}), longArrayOf(${sizes(input)}))),`).join('\n')}
    )
${artifact.outputs.map((output, i) => `    println(outputs[${i}].toTensor().dataAs${typeOf(output)}Array.toList()) // ${output.name}`).join('\n')}
}`,
  },
};

const kotlinArray = (type: string) => `${type === 'Int8' ? 'Byte' : type}Array`;

// --- Swift

const NUMBERS = { FP32: 'Float', INT32: 'Int32', INT64: 'Int64' };
const bound = (type: string) => `withUnsafeBytes { Array($0.bindMemory(to: ${type}.self)) }`;

const IOS: Record<string, Phone> = {
  tflite: {
    title: 'Swift, LiteRT', language: 'swift', library: 'CocoaPods: TensorFlowLiteSwift. The file is in the bundle.',
    imports: ['Foundation', 'TensorFlowLite'],
    types: { ...NUMBERS, UINT8: 'UInt8', INT8: 'Int8', FP64: 'Double' },
    run: (artifact, inputs, typeOf) => `let interpreter = try Interpreter(modelPath: ${inBundle(fileEndingIn(artifact, '.tflite'))})
let model = try interpreter.signatureRunner(with: "batch1")
try model.allocateTensors()
${inputs.map((input) => `try model.copy(Data(count: ${count(input.shape)} * MemoryLayout<${typeOf(input)}>.stride), toInputNamed: ${JSON.stringify(input.name)})`).join('\n')}
try model.invoke()
${artifact.outputs.map((output) => `print(try model.output(named: ${JSON.stringify(output.name)}).data.${bound(typeOf(output))})`).join('\n')}`,
  },
  onnx: {
    title: 'Swift, ONNX Runtime', language: 'swift',
    library: 'Swift package: onnxruntime-swift-package-manager. The file is in the bundle.',
    imports: ['Foundation', 'OnnxRuntimeBindings'],
    types: { ...NUMBERS, UINT8: 'UInt8', INT8: 'Int8', UINT32: 'UInt32', UINT64: 'UInt64' },
    run: (artifact, inputs, typeOf) => `let path = ${inBundle(fileEndingIn(artifact, '.onnx'))}
let session = try ORTSession(env: ORTEnv(loggingLevel: .warning), modelPath: path, sessionOptions: nil)
let inputs = [
${inputs.map((input) => `    ${JSON.stringify(input.name)}: try ORTValue(
        tensorData: NSMutableData(length: ${count(input.shape)} * MemoryLayout<${typeOf(input)}>.stride)!,
        elementType: .${typeOf(input).toLowerCase()}, shape: [${sizes(input)}]),`).join('\n')}
]
let outputs = try session.run(withInputs: inputs, outputNames: [${artifact.outputs.map(({ name }) => JSON.stringify(name)).join(', ')}], runOptions: nil)
${artifact.outputs.map((output) => `print((try outputs[${JSON.stringify(output.name)}]!.tensorData() as Data).${bound(typeOf(output))})`).join('\n')}`,
  },
  executorch: {
    title: 'Swift, ExecuTorch', language: 'swift',
    library: 'Swift package: executorch, with the products executorch, backend_xnnpack and kernels_optimized. The file is in the bundle.',
    imports: ['ExecuTorch', 'Foundation'],
    types: { ...NUMBERS, FP64: 'Double' },
    run: (artifact, inputs, typeOf) => {
      const [output, ...others] = artifact.outputs;
      if (others.length) throw new Error(`it has ${artifact.outputs.length} outputs. ExecuTorch's Swift gives the values of one.`);
      return `let module = Module(filePath: ${inBundle(fileEndingIn(artifact, '.pte'))})
let output = try Tensor<${typeOf(output!)}>(module.forward([
${inputs.map((input) => `    Tensor<${typeOf(input)}>.zeros(shape: [${sizes(input)}]),`).join('\n')}
]))
print(output.scalars())`;
    },
  },
  coreai: {
    title: 'Swift, Core AI', language: 'swift', library: "Core AI is part of iOS 27, and in beta. The folder .aimodel is in the app's bundle.",
    imports: ['CoreAI', 'Foundation'],
    types: { ...NUMBERS, INT64: 'Int32', FP64: 'Float', UINT8: 'UInt8', INT8: 'Int8' }, // what its converter makes of 64 bits
    run: (artifact, inputs, typeOf) => `func values<T: BitwiseCopyable>(_ array: NDArray, _ type: T.Type) -> [T] {
    let count = array.shape.reduce(1, *)
    return array.view(as: type).withUnsafePointer { pointer, _, _ in Array(UnsafeBufferPointer(start: pointer, count: count)) }
}

let path = ${inBundle(folderEndingIn(artifact, '.aimodel'))}
let model = try await AIModel(contentsOf: URL(fileURLWithPath: path))
let function = try model.loadFunction(named: "main")!
var outputs = try await function.run(inputs: [
${inputs.map((input) => `    ${JSON.stringify(input.name)}: NDArray(scalars: [${typeOf(input)}](repeating: 0, count: ${count(input.shape)}), shape: [${sizes(input)}]),`).join('\n')}
])
${artifact.outputs.map((output) => `print(values(outputs.remove(${JSON.stringify(output.name)})!.ndArray!, ${typeOf(output)}.self))`).join('\n')}`,
  },
  coreml: {
    title: 'Swift, Core ML', language: 'swift',
    library: "Core ML is part of iOS. Add the folder .mlpackage to the app's target: Xcode compiles it to .mlmodelc.",
    imports: ['CoreML', 'Foundation'],
    types: { FP32: 'Float', INT32: 'Int32', INT64: 'Int32', FP64: 'Float' }, // what its converter makes of 64 bits
    run: (artifact, inputs, typeOf) => `let url = Bundle.main.url(forResource: ${JSON.stringify(folderEndingIn(artifact, '.mlpackage').replace('.mlpackage', ''))}, withExtension: "mlmodelc")!
let model = try MLModel(contentsOf: url)
let outputs = try model.prediction(from: MLDictionaryFeatureProvider(dictionary: [
${inputs.map((input) => `    ${JSON.stringify(input.name)}: MLMultiArray(MLShapedArray<${typeOf(input)}>(repeating: 0, shape: [${sizes(input)}])),`).join('\n')}
]))
${artifact.outputs.map((output) => `print(outputs.featureValue(for: ${JSON.stringify(output.name)})!.shapedArrayValue(of: ${typeOf(output)}.self)!.scalars)`).join('\n')}`,
  },
};

/** What makes the snippets of a family, each with its title. Making one raises Error for a datatype that its library lacks. */
export function phoneSnippets(artifact: Artifact, family: string): [title: string, make: () => Snippet][] {
  return [ANDROID[family], IOS[family]].filter((phone) => phone !== undefined).map((phone) => [phone.title, () => written(artifact, phone)]);
}

function written(artifact: Artifact, { title, language, library, imports, types, run }: Phone): Snippet {
  const inputs = defaultTensors(artifact.inputs, 'zeros');
  const code = `// ${library}
${NOTE}
${imports.map((name) => `import ${name}`).join('\n')}

${valuesOf(artifact)}${run(artifact, inputs, (tensor) => typeIn(types, tensor, title))}`;
  return { title, language, code };
}

/** What the zeros stand for where a model takes pictures. */
function valuesOf({ image, inputs }: Artifact): string {
  if (!image) return '';
  return `// ${inputs[0]!.name} starts as zeros. Put a picture's ${image.height} x ${image.width} x ${image.channels} values from 0 to 255 there, row by row,
// made as the Python for this file makes them.
`;
}
