import { cpSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import type { Plugin } from 'vite';
import { defineConfig } from 'vitest/config';

/** The files that each runtime fetches by name while it runs: no bundler may rename them. */
const RUNTIME_FILES: [target: string, folder: string, files: string[]][] = [
  ['tfjs', '@tensorflow/tfjs-backend-wasm/dist', [
    'tfjs-backend-wasm.wasm', 'tfjs-backend-wasm-simd.wasm', 'tfjs-backend-wasm-threaded-simd.wasm',
  ]],
  ['onnx', 'onnxruntime-web/dist', [
    'ort-wasm-simd-threaded.mjs', 'ort-wasm-simd-threaded.wasm',
    'ort-wasm-simd-threaded.asyncify.mjs', 'ort-wasm-simd-threaded.asyncify.wasm',
  ]],
  ['litert', '@litertjs/core/wasm', [
    'litert_wasm_internal.js', 'litert_wasm_internal.wasm',
    'litert_wasm_compat_internal.js', 'litert_wasm_compat_internal.wasm',
    'litert_wasm_threaded_internal.js', 'litert_wasm_threaded_internal.wasm',
  ]],
];

function copyRuntimeFiles(): Plugin {
  return {
    name: 'copy-runtime-files',
    apply: 'build',
    writeBundle({ dir }) {
      for (const [target, folder, files] of RUNTIME_FILES) {
        for (const file of files) cpSync(join('node_modules', folder, file), join(dir!, 'runtimes', target, file));
      }
    },
  };
}

/** The bytes of each file of the runtimes, on the wire and unpacked: a service worker hides them from the page. */
function listSizes(): Plugin {
  return {
    name: 'list-sizes',
    apply: 'build',
    closeBundle() {
      const files = readdirSync('dist', { recursive: true, encoding: 'utf8' }).filter((file) => /^(assets|runtimes)\b.*\.(m?js|wasm)$/.test(file));
      const sizes = files.map((file) => {
        const content = readFileSync(join('dist', file));
        return [`/${file}`, [gzipSync(content, { level: 6 }).length, content.length]];
      });
      writeFileSync(join('dist', 'runtimes', 'sizes.json'), JSON.stringify(Object.fromEntries(sizes)));
    },
  };
}

/**
 * TF.js starts its threads from the text of its WebAssembly loader. Outside of its module that text must not use the
 * module's variables, or the threads fail and the page waits forever.
 */
function freeLoaderOfItsModule(): Plugin {
  return {
    name: 'free-loader-of-its-module',
    transform(code, id) {
      if (!/tfjs-backend-wasm-threaded-simd\.js/.test(id)) return null;
      const freed = code
        .replace('typeof _scriptDir !== "undefined" && _scriptDir', 'false')
        .replace('Module["mainScriptUrlOrBlob"]||_scriptDir', 'Module["mainScriptUrlOrBlob"]');
      if (freed === code) this.error('The loader of TF.js has changed: check whether this plugin is still needed.');
      return { code: freed, map: null };
    },
  };
}

/**
 * The code that runtimes share lies in a chunk of its own. Otherwise it lies in the worker's entry and runtimes import
 * that, which WebKit then evaluates a second time: two listeners would answer each call.
 */
const SHARED_BY_RUNTIMES = {
  name: 'shared-by-runtimes',
  test: (id: string) => id.startsWith(join(import.meta.dirname, 'src')),
  minShareCount: 2,
};

export default defineConfig({
  plugins: [copyRuntimeFiles(), listSizes()],
  worker: {
    format: 'es',
    plugins: () => [freeLoaderOfItsModule()],
    rolldownOptions: { output: { codeSplitting: { groups: [SHARED_BY_RUNTIMES] } } },
  },
  // ONNX Runtime's default build contains its loader; this build gets it from /runtimes, beside its .wasm.
  resolve: { conditions: ['onnxruntime-web-use-extern-wasm', 'module', 'browser', 'production', 'import', 'default'] },
  build: { target: 'es2022', chunkSizeWarningLimit: 1500 },
});
