import { afterEach, expect, test, vi } from 'vitest';

import { countBytes, runtimeBytes } from './downloads';

afterEach(() => void vi.unstubAllGlobals());

test('bytes are counted as they come, and the response stays what it was', async () => {
  const sent = new Response(new Uint8Array(3000), { status: 203, headers: { 'Content-Type': 'application/wasm' } });
  vi.stubGlobal('fetch', async () => sent);
  let bytes = 0;
  let expected = 0;
  countBytes(() => (more, size) => { bytes += more; expected += size; }, () => 3000);
  const response = await fetch('/runtimes/any.wasm');
  expect([response.status, response.headers.get('Content-Type')]).toEqual([203, 'application/wasm']);
  expect((await response.arrayBuffer()).byteLength).toBe(3000);
  expect([bytes, expected]).toEqual([3000, 3000]);
});

test('a response without a body passes', async () => {
  vi.stubGlobal('fetch', async () => new Response(null, { status: 204 }));
  countBytes(() => () => {});
  expect((await fetch('/nothing')).status).toBe(204);
});

test('a response that nobody counts is left as it is', async () => {
  const sent = new Response(new Uint8Array(3000));
  vi.stubGlobal('fetch', async () => sent);
  countBytes(() => null);
  expect(await fetch('/answer')).toBe(sent);
});

test('a runtime is as large as its files on the wire, each once, without the models', async () => {
  vi.stubGlobal('fetch', async () => Response.json({ '/runtimes/onnx/a.wasm': [700, 9000], '/assets/b.js': [20, 30], '/assets/unused.js': [1, 1] }));
  const names = ['/runtimes/onnx/a.wasm', '/runtimes/onnx/a.wasm', '/assets/b.js', '/artifacts/m/onnx/model.onnx'];
  vi.stubGlobal('performance', { getEntriesByType: () => names.map((name) => ({ name: `http://127.0.0.1${name}` })) });
  expect(await runtimeBytes()).toBe(720);
});
