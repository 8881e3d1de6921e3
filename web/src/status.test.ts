import { expect, test } from 'vitest';

import { limitOf, statusHelp, statusWord, type Status } from './status';

test.each<[Status, string | null]>([
  ['verified at 99.9 %', '99.9 %'],
  ['verified at 97 %', '97 %'],
  ['verified', null],
  ['verified on ordinary inputs', null],
  ['unverified', null],
])('the limit of %s is %s', (status, limit) => {
  expect(limitOf(status)).toBe(limit);
});

test('each status has a word and a help', () => {
  for (const status of ['source', 'verified', 'verified on ordinary inputs', 'unverified', 'failed', 'verified at 99 %'] as const) {
    expect(statusWord(status)).not.toBe('');
    expect(statusHelp(status)).not.toBe('');
  }
  expect(statusWord('verified at 99.9 %')).toContain('99.9 %');
  expect(statusHelp('verified at 99 %')).toContain('99 %');
});
