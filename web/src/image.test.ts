import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';

import { decode, imageToTensor, type ImageSpec } from './image';

interface Golden {
  cases: { name: string; file: string; spec: ImageSpec; tensor: string }[];
  errors: { file: string; error: string }[];
}

/** The pictures and tensors that contract/image.py is held to as well. */
const FOLDER = new URL('../../tests/golden/', import.meta.url);
const golden = JSON.parse(readFileSync(new URL('cases.json', FOLDER), 'utf8')) as Golden;

const read = (file: string) => new Uint8Array(readFileSync(new URL(file, FOLDER)));
/** The pixels of the other kinds are decoded by the browser, which is not here: tests/browser looks at those. */
const isPng = (file: string) => file.endsWith('.png');

test('the golden files hold cases and errors', () => {
  expect(golden.cases.length).toBeGreaterThan(0);
  expect(golden.errors.length).toBeGreaterThan(0);
});

test.each(golden.cases.filter(({ file }) => isPng(file)))('$name', async ({ file, spec, tensor }) => {
  expect(await imageToTensor(read(file), spec)).toEqual(Float32Array.from(read(tensor)));
});

test.each(['heic', 'avif'])('a photo of a phone in %s is named', async (format) => {
  await expect(decode(read(`phone.${format}`))).rejects.toThrow(`${format.toUpperCase()} pictures are not read. Save it as JPEG or PNG`);
});

test.each(golden.errors)('$file is refused as $error', async ({ file, error }) => {
  await expect(decode(read(file))).rejects.toMatchObject({ name: error });
});
