import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const FOLDER = fileURLToPath(new URL('.', import.meta.url));

/** A file's path in src -> the paths of the files of src that it imports, in any way. */
type Graph = Map<string, string[]>;

/** `import ... from`, `export ... from`, types too; `import '...'`; `import('...')`; a worker's `new URL('...')`. */
const IMPORTS = /\bfrom\s*'(\.[^']+)'|\bimport\s*\(?\s*'(\.[^']+)'|\bnew URL\('(\.[^']+)',\s*import\.meta\.url\)/g;

function importsIn(code: string): string[] {
  return Array.from(code.matchAll(IMPORTS), ([, from, called, url]) => (from ?? called ?? url)!);
}

function readGraph(): Graph {
  const files = readdirSync(FOLDER, { recursive: true, encoding: 'utf8' })
    .filter((file) => /\.tsx?$/.test(file) && !file.endsWith('.test.ts'));
  const resolve = (from: string, to: string) => {
    const path = normalize(join(dirname(from), to));
    return files.find((file) => [path, `${path}.ts`, `${path}.tsx`, join(path, 'index.ts')].includes(file));
  };
  return new Map(files.map((file) => [file, importsIn(readFileSync(join(FOLDER, file), 'utf8'))
    .flatMap((to) => resolve(file, to) ?? [])]));
}

/** The files of one circle, the first again at the end; empty where there is none. */
function circleIn(graph: Graph): string[] {
  const finished = new Set<string>();
  const walk = (file: string, path: string[]): string[] => {
    if (path.includes(file)) return [...path.slice(path.indexOf(file)), file];
    if (finished.has(file)) return [];
    for (const next of graph.get(file) ?? []) {
      const circle = walk(next, [...path, file]);
      if (circle.length) return circle;
    }
    finished.add(file);
    return [];
  };
  for (const file of graph.keys()) {
    const circle = walk(file, []);
    if (circle.length) return circle;
  }
  return [];
}

test('every way to import a file is seen', () => {
  const code = `
    import { a, type B } from './a';
    import type { C } from '../c';
    import {
      d,
    } from './d';
    import './style.css';
    import preact from 'preact';
    export * from './e';
    const late = async () => (await import('./f')).f;
    new Worker(new URL('./g.ts', import.meta.url));`;
  expect(importsIn(code)).toEqual(['./a', '../c', './d', './style.css', './e', './f', './g.ts']);
});

test('a circle is found, whatever leads to it', () => {
  const graph = new Map([['a', ['b', 'c']], ['b', []], ['c', ['d']], ['d', ['e', 'b']], ['e', ['c']]]);
  expect(circleIn(graph)).toEqual(['c', 'd', 'e', 'c']);
  expect(circleIn(new Map([['a', ['b']], ['b', []]]))).toEqual([]);
});

test('no files import each other in a circle', () => {
  const graph = readGraph();
  expect(graph.get('runtimes/host.ts'), 'the files are read').toContain('runtimes/worker.ts');
  expect(circleIn(graph).join(' -> ')).toBe('');
});
