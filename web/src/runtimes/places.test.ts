import { afterEach, expect, test, vi } from 'vitest';

import { Places } from './places';

afterEach(() => vi.restoreAllMocks());

const WARNING = '2026-12-02 [W:onnxruntime:, session_state.cc:1397 VerifyEachNodeIsAssignedToAnEp] Some nodes were not assigned '
  + 'to the preferred execution providers which may or may not have an negative impact on performance.';
const PLACES = [
  '[V:onnxruntime:, session_state.cc:1383 VerifyEachNodeIsAssignedToAnEp]  Node(s) placed on [CPUExecutionProvider]. Number of nodes: 8',
  '[V:onnxruntime:, session_state.cc:1385 VerifyEachNodeIsAssignedToAnEp]   QuantizeLinear (view_QuantizeLinear)',
  '[V:onnxruntime:, session_state.cc:1383 VerifyEachNodeIsAssignedToAnEp]  Node(s) placed on [WebGpuExecutionProvider]. Number of nodes: 25',
  '[V:onnxruntime:, session_state.cc:1385 VerifyEachNodeIsAssignedToAnEp]   Conv (node_conv2d)',
  '[V:onnxruntime:, session_state.cc:1385 VerifyEachNodeIsAssignedToAnEp]   MemcpyFromHost (Memcpy)',
  '[V:onnxruntime:, session_state.cc:1385 VerifyEachNodeIsAssignedToAnEp]   MemcpyToHost (Memcpy_token_67)',
];

test('without a warning the accelerator has all operators', async () => {
  const places = new Places();
  expect(await places.during(async () => 7)).toBe(7);
  expect([places.areSeveral, String(places)]).toEqual([false, 'all operators']);
});

test('operators are counted by place, and copies between places are none of them', async () => {
  const places = new Places();
  await places.during(async () => console.error(WARNING));
  expect(places.areSeveral).toBe(true);
  await places.during(async () => PLACES.forEach((line) => console.error(line)));
  expect(String(places)).toBe('operators: 23 of 31, copies: 2');
});

test('what a session that fails logs is heard, and what comes later is shown', async () => {
  const shown = vi.spyOn(console, 'error').mockImplementation(() => {});
  vi.resetModules();
  const { Places } = await import('./places'); // as in a worker that has just started
  const places = new Places();
  const failing = places.during(async () => {
    console.error(WARNING);
    throw new Error('it did not start');
  });
  await expect(failing).rejects.toThrow('it did not start');
  expect(places.areSeveral).toBe(true);
  expect(shown).not.toHaveBeenCalled();
  console.error('later');
  expect(shown).toHaveBeenCalledWith('later');
});
