/**
 * Keeps what the page fetches, so that it works without the server. While the server answers, its answers are used.
 *
 * It is registered as `/sw.js?<build>`: each build of the page has its own cache, and older caches are deleted.
 */

const CACHE = `rosetta${location.search}`;
const INDEX = '/v2/repository/index'; // a POST that only reads
const NEVER_KEPT = /^\/(v2\/health|metrics)/;
/** Timed requests bypass this worker if the browser supports it. */
const TIMED = ['/predict/*', '/v2/models/*/infer'];

addEventListener('install', (event) => {
  event.addRoutes?.(TIMED.map((urlPattern) => ({ condition: { urlPattern }, source: 'network' })))?.catch(() => {});
  skipWaiting();
});

addEventListener('activate', (event) => event.waitUntil(takeOver()));

async function takeOver() {
  const names = await caches.keys();
  await Promise.all(names.filter((name) => name !== CACHE).map((name) => caches.delete(name)));
  await clients.claim();
}

addEventListener('fetch', (event) => {
  const { method, url } = event.request;
  const { origin, pathname } = new URL(url);
  const isKept = pathname === INDEX || (method === 'GET' && !NEVER_KEPT.test(pathname));
  if (origin === location.origin && isKept) event.respondWith(answer(event, pathname));
});

async function answer(event, pathname) {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(event.request);
    // If the storage is full, it is not kept.
    if (response.ok) event.waitUntil(cache.put(pathname, response.clone()).catch(() => {}));
    return response;
  } catch (error) {
    const kept = await cache.match(pathname, { ignoreVary: true });
    if (kept) return kept;
    throw error;
  }
}
