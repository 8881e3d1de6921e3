/** The server's HTTP interface, as far as the page needs it. Same origin always. */

import { messageOf } from './errors';
import type { ImageSpec } from './image';

export type Status = 'source' | 'verified' | 'unverified' | 'failed';

/** One artifact as the server tells of it. One that cannot be run has a `problem`, and little else. */
export interface Artifact {
  name: string;
  model: string;
  format: string;
  status: Status;
  statusReason: string;
  image: ImageSpec | null;
  labels: string[];
  files: Record<string, { sha256: string; bytes: number }>;
  input: string;
  output: string;
  /** What the server runs it with: "LiteRT 2.3.0". */
  runtime: string;
  problem: string | null;
}

export interface ServerAnswer {
  label: string;
  probabilities: Record<string, number>;
  ms: { preprocess: number; queue: number; compute: number };
}

export interface Samples {
  title: string;
  labels: string[];
  samples: { file: string; index: number; label: number }[];
}

interface Tensor {
  name: string;
}

interface Metadata {
  name: string;
  inputs: Tensor[];
  outputs: Tensor[];
  parameters: {
    model: string;
    format: string;
    runtime?: string;
    status: Status;
    status_reason?: string;
    image: ImageSpec | null;
    labels: string[];
    files: Artifact['files'];
  };
}

/** Every artifact that the server knows, those that it cannot run too. */
export async function listArtifacts(): Promise<Artifact[]> {
  const index = await json<{ name: string }[]>('/v2/repository/index', post('{}', 'application/json'));
  return Promise.all(index.map(({ name }) => describe(name).catch((error: unknown) => unusable(name, error))));
}

async function describe(name: string): Promise<Artifact> {
  const { inputs, outputs, parameters } = await json<Metadata>(`/v2/models/${name}`);
  const { model, format, runtime, status, status_reason, image, labels, files } = parameters;
  return {
    name, model, format, status, image, labels, files,
    statusReason: status_reason ?? '',
    runtime: runtime ?? '',
    input: inputs[0]?.name ?? '',
    output: outputs[0]?.name ?? '',
    problem: image ? null : `${name} does not take pictures: its manifest has no image part. Call it with tensors.`,
  };
}

function unusable(name: string, error: unknown): Artifact {
  const dash = name.indexOf('-'); // a model's name holds none
  return {
    name, model: name.slice(0, dash), format: name.slice(dash + 1),
    status: 'failed', statusReason: '', image: null, labels: [], files: {}, runtime: '', input: '', output: '',
    problem: messageOf(error),
  };
}

/** The same bytes that the page reads, so that both sides start from one picture. */
export function predictPicture(name: string, picture: Uint8Array, signal: AbortSignal): Promise<ServerAnswer> {
  return json<ServerAnswer>(`/predict/${name}`, { ...post(picture as BodyInit), signal });
}

export function listSamples(): Promise<Samples> {
  return json<Samples>('/samples/index.json');
}

/** Whether `make compare` has written its report. */
export async function hasReport(): Promise<boolean> {
  return (await fetch('/report/', { method: 'HEAD' }).catch(() => null))?.ok ?? false;
}

export async function bytesAt(path: string): Promise<Uint8Array> {
  return new Uint8Array(await (await request(path)).arrayBuffer());
}

/** A part of the page's own code, which is fetched when it is first used. */
export function code<T>(part: Promise<T>): Promise<T> {
  return part.catch((error: unknown) => {
    throw new Error(`Its code did not come (${messageOf(error)}). Check the server, then load the page again.`);
  });
}

export function post(body: BodyInit, type = 'application/octet-stream'): RequestInit {
  return { method: 'POST', body, headers: { 'Content-Type': type } };
}

export async function json<T>(path: string, options?: RequestInit): Promise<T> {
  return (await (await request(path, options)).json()) as T;
}

async function request(path: string, options?: RequestInit): Promise<Response> {
  const response = await fetch(path, options).catch((error: unknown) => {
    if (error instanceof DOMException) throw error; // aborted, or too late
    throw new Error(`The server did not answer ${path} (${messageOf(error)}). Check that it runs, then try again.`);
  });
  if (response.ok) return response;
  const body = (await response.json().catch(() => ({}))) as { error?: string };
  throw new Error(body.error ?? `${path} answered with status ${response.status}. The server's log says more.`);
}
