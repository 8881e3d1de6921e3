import { expect, test } from 'vitest';

import { linkTo, parseAddress, type Shared } from './address';

const nothing: Shared = { picture: null, models: null, inBrowser: true, sorting: null, filter: '' };

test('a link holds what it was made of', () => {
  const shared: Shared = { picture: 0, models: ['keras_cnn', 'b'], inBrowser: false, sorting: { column: 'time', down: true }, filter: 'wasm & "x"' };
  expect(parseAddress(`#${linkTo(shared)}`)).toEqual({ view: 'compare', row: '', shared });
  expect(parseAddress(`#${linkTo(nothing)}`)).toEqual({ view: 'compare', row: '', shared: nothing });
});

test('an address that nobody wrote so is taken as far as it can be', () => {
  expect(parseAddress('')).toEqual({ view: '', row: '', shared: nothing });
  expect(parseAddress('#ship/%')).toMatchObject({ view: 'ship', row: '%' });
  expect(parseAddress('#ship/keras_cnn-onnx%40server')).toMatchObject({ view: 'ship', row: 'keras_cnn-onnx@server' });
  expect(parseAddress('#compare?picture=-1&sort=colour&where=moon').shared).toEqual(nothing);
  expect(parseAddress('#compare?picture=1e9&picture=2').shared.picture).toBe(null);
});
