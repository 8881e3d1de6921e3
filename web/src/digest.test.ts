import { createHash } from 'node:crypto';

import { expect, test } from 'vitest';

import { sha256, sha256Here } from './digest';

test('the digest is the same with and without the browser, for every length around a block', async () => {
  for (const length of [0, 1, 3, 55, 56, 63, 64, 65, 119, 120, 128, 1000]) {
    const bytes = Uint8Array.from({ length }, (_, i) => (i * 31 + length) % 256);
    const expected = createHash('sha256').update(bytes).digest('hex');
    expect(sha256Here(bytes)).toBe(expected);
    expect(await sha256(bytes)).toBe(expected);
  }
});
