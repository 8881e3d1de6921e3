import { expect, test } from 'vitest';

import { toCsv, toMarkdown, type Table } from './tables';

const table: Table = {
  head: ['Row', 'Time'],
  rows: [
    [{ shown: 'a|b\nc', value: 'a|b\nc' }, { shown: '1.50 ms', value: 1.5 }],
    [{ shown: '=1+1', value: '=1+1' }, { shown: 'say "no", now', value: 'say "no", now' }],
  ],
};

test('a Markdown table keeps its columns whatever is in a cell', () => {
  expect(toMarkdown(table)).toBe('| Row | Time |\n| --- | --- |\n| a\\|b c | 1.50 ms |\n| =1+1 | say "no", now |\n');
});

test('CSV has the numbers, quotes what needs it, and holds no formula', () => {
  expect(toCsv(table)).toBe('Row,Time\r\n"a|b\nc",1.5\r\n\'=1+1,"say ""no"", now"\r\n');
});
