/** The page's side of the service worker (public/sw.js), which lets the page work without the server once it is loaded. */

import { listServed, readReport } from './server';

const PATIENCE_MS = 1500;

/** Resolves when the worker sees what is fetched, or when it is plain that none will: then nothing is kept. */
export const watched: Promise<unknown> = Promise.race([watch(), new Promise((done) => setTimeout(done, PATIENCE_MS))]);

async function watch(): Promise<void> {
  if (!navigator.serviceWorker) return; // plain HTTP from another machine
  const build = new URL(import.meta.url).pathname.split('/').at(-1)!;
  const controlled = new Promise((done) => navigator.serviceWorker.addEventListener('controllerchange', done, { once: true }));
  await navigator.serviceWorker.register(`/sw.js?${build}`).then(
    () => navigator.serviceWorker.controller ?? controlled,
    () => {}, // refused by the browser's settings
  );
}

/** Fetch what came before the worker was there, and the report. Most of it is in the browser's cache. */
export async function keepWhatCameBefore(): Promise<void> {
  if (!navigator.serviceWorker?.controller) return;
  const came = performance.getEntriesByType('resource').map(({ name }) => new URL(name));
  const files = came.filter(({ origin, pathname }) => origin === location.origin && /^\/(assets|samples)\/|\.svg$/.test(pathname));
  await Promise.allSettled([fetch('/'), listServed(), readReport(), ...files.map((file) => fetch(file))]);
}
