/** Tensors of any datatype: made, parsed from what users enter, sent, and compared. */

/** One input or output of a model, as the Open Inference Protocol describes it; -1 is any size. */
export interface TensorSpec {
  name: string;
  datatype: string;
  shape: number[];
  /** What the dimensions mean, such as NHWC: N is the batch, which a tensor may have elsewhere, or not at all. */
  layout: string;
  /** The least size of each dimension, where the model needs one. */
  least?: number[] | undefined;
}

type Numbers =
  | Uint8Array | Uint16Array | Uint32Array | BigUint64Array | Int8Array | Int16Array | Int32Array | BigInt64Array
  | Float32Array | Float64Array;
export type Values = Numbers | string[];

export interface Tensor {
  name: string;
  datatype: string;
  shape: number[];
  data: Values;
}

/** The datatypes that have a typed array in every browser; the others are sent as JSON. */
const ARRAYS = {
  BOOL: Uint8Array, UINT8: Uint8Array, UINT16: Uint16Array, UINT32: Uint32Array, UINT64: BigUint64Array,
  INT8: Int8Array, INT16: Int16Array, INT32: Int32Array, INT64: BigInt64Array, FP32: Float32Array, FP64: Float64Array,
} as const;
const isRaw = (datatype: string): datatype is keyof typeof ARRAYS => datatype in ARRAYS;
const isWhole = (datatype: string) => /^U?INT/.test(datatype);

/** Which dimension is the batch; -1 where none is. It is the first where nothing is known. */
export const batchAxis = ({ layout }: TensorSpec): number => (layout ? layout.indexOf('N') : 0);

export function count(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** JSON values as a tensor's data. */
function valuesOf(datatype: string, data: ArrayLike<unknown>): Values {
  if (datatype === 'BYTES') return Array.from(data, String);
  if (datatype === 'INT64') return BigInt64Array.from(data as number[], BigInt);
  if (datatype === 'UINT64') return BigUint64Array.from(data as number[], BigInt);
  return (isRaw(datatype) ? (ARRAYS[datatype] as typeof Float32Array) : Float32Array).from(data as number[]);
}

// --- What users enter

/** The most rows that the server takes in one request. */
export const MAX_ROWS = 4096;
const MAX_VALUES = 4_000_000;

export const FILLS = ['random', 'zeros', 'json', 'lines'] as const;
export type Fill = (typeof FILLS)[number];

/** What the form holds for one input. */
export interface Entry {
  fill: Fill;
  seed: number;
  text: string;
  /** One size per dimension, used where the dimension is free. That of the batch is never used. */
  sizes: number[];
}

export function emptyEntry({ datatype, shape, least }: TensorSpec): Entry {
  const isText = datatype === 'BYTES';
  return { fill: isText ? 'lines' : 'random', seed: 1, text: isText ? 'Hello' : '', sizes: shape.map((size, axis) => Math.max(size, least?.[axis] ?? 1)) };
}

/** Lines are for text only. */
export function fillsOf({ datatype }: TensorSpec): Fill[] {
  return FILLS.filter((fill) => fill !== 'lines' || datatype === 'BYTES');
}

/**
 * One tensor per input. A free batch is as large as the values that were entered, or `rows`.
 *
 * Raises Error if values do not fit their input.
 */
export function tensorsOf(specs: readonly TensorSpec[], entries: readonly Entry[], rows: number): Tensor[] {
  const entered = specs.map((spec, i) => {
    const entry = entries[i]!;
    if (entry.fill === 'json') return fromJson(spec, entry);
    return entry.fill === 'lines' ? fitted(spec, entry, entry.text.split('\n')) : null;
  });
  const given = specs.findIndex((spec, i) => entered[i] && spec.shape[batchAxis(spec)] === -1);
  const batch = given < 0 ? rows : entered[given]!.shape[batchAxis(specs[given]!)]!;
  return specs.map((spec, i) => {
    const { fill, seed, sizes } = entries[i]!;
    const own = sizes.map((size, axis) => (axis === batchAxis(spec) ? batch : size));
    return entered[i] ?? filled(spec, resolved(spec, own), fill === 'zeros' ? null : seed + i);
  });
}

/** The default inputs of a model: one row of random numbers, or of zeros. */
export function defaultTensors(specs: readonly TensorSpec[], fill: 'random' | 'zeros' = 'random'): Tensor[] {
  return tensorsOf(specs, specs.map((spec) => ({ ...emptyEntry(spec), fill })), 1);
}

/** A flat list of numbers as the only input of a model. Raises Error if it does not fit. */
export function onlyTensor(specs: readonly TensorSpec[], values: ArrayLike<number>): Tensor[] {
  if (specs.length !== 1) throw new Error(`The model has ${specs.length} inputs, expected 1.`);
  return [fitted(specs[0]!, emptyEntry(specs[0]!), values)];
}

/** A tensor's shape in the axes of a spec that takes as many numbers in each row; as it is where that does not fit. */
export function fittedTo({ shape: wanted }: TensorSpec, { shape }: Tensor): number[] {
  const fitted = wanted.length === shape.length ? shape : wanted.map((size, axis) => (axis === 0 ? shape[0]! : Math.max(1, size)));
  return count(fitted) === count(shape) ? fitted : shape;
}

function resolved({ shape }: TensorSpec, sizes: readonly number[]): number[] {
  return shape.map((size, axis) => (size < 0 ? sizes[axis]! : size));
}

const WORDS = ['stone', 'river', 'seven', 'a lamp', 'north', 'paper', 'green', 'often'];

/** Zeros, or random values that are the same each time: numbers from 0 to 1, integers from 0 to 9, or words. */
function filled({ name, datatype }: TensorSpec, shape: number[], seed: number | null): Tensor {
  if (count(shape) > MAX_VALUES) throw new Error(`${name}: ${show(shape)} is more than ${MAX_VALUES} values. Make it smaller.`);
  const random = generator(seed ?? 0);
  const value = () => {
    if (datatype === 'BYTES') return seed === null ? '' : WORDS[Math.floor(random() * WORDS.length)];
    if (seed === null) return 0;
    return datatype === 'BOOL' ? Math.floor(random() * 2) : isWhole(datatype) ? Math.floor(random() * 10) : random();
  };
  return { name, datatype, shape, data: valuesOf(datatype, Array.from({ length: count(shape) }, value)) };
}

/** The xorshift generator of 32 bits, begun with a mixed seed. */
function generator(seed: number): () => number {
  let state = Math.imul(seed + 1, 0x9e3779b1) | 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

function fromJson(spec: TensorSpec, entry: Entry): Tensor {
  let read: unknown;
  try {
    read = JSON.parse(entry.text);
  } catch (error) {
    throw new Error(`${spec.name}: this is not JSON (${(error as Error).message}). Enter a list, such as [[1, 2], [3, 4]].`);
  }
  if (!Array.isArray(read)) throw new Error(`${spec.name}: ${String(entry.text).slice(0, 40)} is not a list. Enter a list, such as [1, 2, 3].`);
  const shape = shapeOf(read);
  if (!shape) throw new Error(`${spec.name}: the inner lists differ in length. Make them equally long.`);
  const flat = read.flat(Infinity) as unknown[];
  const wrong = flat.find((value) => !hasDatatype(spec.datatype, value));
  if (wrong !== undefined) throw new Error(`${spec.name}: ${JSON.stringify(wrong).slice(0, 40)} is not of datatype ${spec.datatype}.`);
  if (shape.length === 1) return fitted(spec, entry, flat);
  const fits = shape.length === spec.shape.length && spec.shape.every((size, axis) => size < 0 || size === shape[axis]);
  if (!fits) throw new Error(`${spec.name}: the list is nested as ${show(shape)}, expected ${show(spec.shape)}.`);
  return { name: spec.name, datatype: spec.datatype, shape, data: valuesOf(spec.datatype, flat) };
}

/** Null if the lists in a list differ in their shapes. */
function shapeOf(list: unknown): number[] | null {
  if (!Array.isArray(list)) return [];
  const inner = list.map(shapeOf);
  const [first = []] = inner;
  return first && inner.every((shape) => String(shape) === String(first)) ? [list.length, ...first] : null;
}

function hasDatatype(datatype: string, value: unknown): boolean {
  if (datatype === 'BYTES') return typeof value === 'string';
  if (datatype === 'BOOL') return typeof value === 'boolean' || value === 0 || value === 1;
  if (!isWhole(datatype)) return typeof value === 'number';
  return Number.isSafeInteger(value) && Number(valuesOf(datatype, [value])[0]) === value; // unless it wraps around
}

/** A flat list in the shape of the sizes. A free batch, or else the first free size, is as large as the list requires. */
function fitted(spec: TensorSpec, { sizes }: Entry, values: ArrayLike<unknown>): Tensor {
  const { name, datatype } = spec;
  const open = spec.shape[batchAxis(spec)] === -1 ? batchAxis(spec) : spec.shape.indexOf(-1);
  const row = count(resolved(spec, sizes).filter((_, axis) => axis !== open));
  const shape = resolved(spec, sizes.map((size, axis) => (axis === open ? Math.max(1, Math.floor(values.length / row)) : size)));
  if (count(shape) !== values.length) throw new Error(`${name}: got ${values.length} values, expected ${count(shape)} for ${show(shape)}.`);
  return { name, datatype, shape, data: valuesOf(datatype, values) };
}

// --- What is shown

export function show(shape: readonly number[]): string {
  return `[${shape.join(', ')}]`;
}

/** The first values, short enough to be read. */
export function firstValues({ datatype, data }: Tensor, most: number): string {
  const shown = Array.from(data.slice(0, most) as ArrayLike<number | bigint | string>, (value) => {
    if (typeof value === 'string') return JSON.stringify(value);
    if (datatype === 'BOOL') return String(Boolean(value));
    return typeof value === 'bigint' || Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(5)));
  });
  return shown.join(', ') + (data.length > most ? ', …' : '');
}

/** The largest absolute difference; infinite if shapes or texts differ, or if only one value is NaN. */
export function distance(a: Tensor | undefined, b: Tensor | undefined): number {
  if (!a || !b || show(a.shape) !== show(b.shape)) return Infinity;
  let largest = 0;
  for (let i = 0; i < a.data.length; i++) {
    const [ours, theirs] = [a.data[i]!, b.data[i]!];
    if (ours === theirs || (Number.isNaN(ours) && Number.isNaN(theirs))) continue;
    const apart = typeof ours === 'string' ? Infinity : Math.abs(Number(ours) - Number(theirs));
    largest = Math.max(largest, Number.isNaN(apart) ? Infinity : apart);
  }
  return largest;
}

export function largestDistance(ours: readonly Tensor[], theirs: readonly Tensor[]): number {
  return Math.max(0, ...ours.map((tensor) => distance(tensor, theirs.find(({ name }) => name === tensor.name))));
}

// --- What is sent: the Open Inference Protocol with its binary extension

export interface Message {
  body: Uint8Array<ArrayBuffer>;
  /** How many bytes of JSON come first. */
  header: number;
}

interface Described {
  name: string;
  datatype: string;
  shape: number[];
  data?: unknown[];
  parameters?: { binary_data_size: number };
}

/** Numbers are sent as bytes: JSON has neither NaN nor exact 64-bit integers. */
export function encoded(inputs: readonly Tensor[], outputs: readonly TensorSpec[], parameters?: object): Message {
  const raw: Uint8Array[] = [];
  const described = inputs.map(({ name, datatype, shape, data }): Described => {
    if (Array.isArray(data) || !isRaw(datatype)) return { name, datatype, shape, data: Array.from(data as ArrayLike<unknown>) };
    raw.push(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    return { name, datatype, shape, parameters: { binary_data_size: data.byteLength } };
  });
  const wanted = outputs.map(({ name, datatype }) => ({ name, parameters: { binary_data: isRaw(datatype) } }));
  const header = new TextEncoder().encode(JSON.stringify({ inputs: described, outputs: wanted, parameters }));
  const parts = [header, ...raw];
  const body = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((at, part) => (body.set(part, at), at + part.length), 0);
  return { body, header: header.length };
}

/** The numbers that an answer has besides its tensors. */
export function parametersOf({ body, header }: Message): Record<string, number> {
  const { parameters } = JSON.parse(new TextDecoder().decode(body.subarray(0, header))) as { parameters?: Record<string, number> };
  return parameters ?? {};
}

export function decoded({ body, header }: Message): Tensor[] {
  const { outputs } = JSON.parse(new TextDecoder().decode(body.subarray(0, header))) as { outputs: Described[] };
  let at = header;
  return outputs.map(({ name, datatype, shape, data, parameters }) => {
    if (!parameters || !isRaw(datatype)) return { name, datatype, shape, data: valuesOf(datatype, (data ?? []).map((value) => value ?? NaN)) };
    const bytes = body.slice(at, (at += parameters.binary_data_size)); // a copy, so that the numbers are aligned
    return { name, datatype, shape, data: new ARRAYS[datatype](bytes.buffer) };
  });
}

/** A runtime's own name for the tensor's datatype. Raises Error if it does not support the datatype. */
export function typeIn<Type>(types: Record<string, Type>, { name, datatype }: Tensor | TensorSpec, runtime: string): Type {
  const type = types[datatype];
  if (type !== undefined) return type;
  throw new Error(`${runtime} does not support ${datatype}, the datatype of ${name}. It supports ${Object.keys(types).join(', ')}. Use a row of the server: it takes all.`);
}
