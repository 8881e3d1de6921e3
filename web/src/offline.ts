/** The page's side of the service worker (public/sw.js): once loaded, the page works without the server. */

import { listServed, readReport } from './server';

const PATIENCE_MS = 1500;

/** Resolves when the service worker controls the page, or after PATIENCE_MS: then nothing is kept. */
export const watched: Promise<unknown> = Promise.race([watch(), new Promise((done) => setTimeout(done, PATIENCE_MS))]);

async function watch(): Promise<void> {
  if (!globalThis.navigator?.serviceWorker) return; // plain HTTP from another machine
  const build = new URL(import.meta.url).pathname.split('/').at(-1)!;
  const controlled = new Promise((done) => navigator.serviceWorker.addEventListener('controllerchange', done, { once: true }));
  await navigator.serviceWorker.register(`/sw.js?${build}`).then(
    () => navigator.serviceWorker.controller ?? controlled,
    () => {}, // refused by the browser's settings
  );
}

/** Fetch what was loaded before the service worker controlled the page, and the report. Most is in the browser's cache. */
export async function keepEarlierFiles(): Promise<void> {
  if (!navigator.serviceWorker?.controller) return;
  const loaded = performance.getEntriesByType('resource').map(({ name }) => new URL(name));
  const files = loaded.filter(({ origin, pathname }) => origin === location.origin && /^\/(assets|samples)\/|\.svg$/.test(pathname));
  await Promise.allSettled([fetch('/'), listServed(), readReport(), ...files.map((file) => fetch(file))]);
}
