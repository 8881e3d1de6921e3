import type { ComponentType } from 'preact';
import { useEffect, useLayoutEffect, useReducer, useState } from 'preact/hooks';

import { parseAddress } from '../address';
import type { Comparison } from '../comparison';
import { messageOf } from '../errors';
import { hasWebGl, hasWebGpu } from '../runtimes';
import { whyNoCode } from '../runtimes/host';
import { keepEarlierFiles, watched } from '../offline';
import { isAlive, isIdle, listServed } from '../server';
import { currentLanguage, LANGUAGES, onLanguage, setLanguage, text, type Language } from '../text';
import { CompareView } from './CompareView';
import type { ViewProps } from './view';

/** The first view is part of the page; the code of the others is downloaded when they are opened. */
const VIEWS = {
  compare: async () => CompareView,
  race: async () => (await import('./RaceView')).RaceView,
  device: async () => (await import('./DeviceView')).DeviceView,
  inside: async () => (await import('./InsideView')).InsideView,
  report: async () => (await import('./ReportView')).ReportView,
  ship: async () => (await import('./ShipView')).ShipView,
} satisfies Record<string, () => Promise<ComponentType<ViewProps>>>;
type View = keyof typeof VIEWS;

const RETRY_MS = 3000;
const HIDDEN_MS = 200;
/** Rows report far more often than anybody can read. */
const ROWS_MS = 100;
/** How often the page looks whether the server is still there. */
const WATCH_MS = 10_000;

export function Page({ comparison }: { comparison: Comparison }) {
  const [, redraw] = useReducer((count: number) => count + 1, 0);
  const [problem, setProblem] = useState('');
  const [view, row] = useAddress();

  useEffect(() => {
    const draw = onceAFrame(() => redraw(undefined));
    const drawRows = paced(draw);
    return comparison.subscribe((row) => (row ? drawRows() : draw()));
  }, [comparison]);
  useEffect(() => onLanguage(() => redraw(undefined)), []);
  useEffect(() => void begin(comparison, setProblem), [comparison]);
  const language = currentLanguage();
  // Only when it changes: a language that is set makes the browser style each element anew.
  useLayoutEffect(() => {
    document.documentElement.lang = language;
    document.title = `${text().views[view]} · Rosetta Serve`;
  }, [language, view]);

  return (
    <>
      <Masthead view={view} />
      <main>
        {problem && <p class="notice problem" role="alert">{problem}</p>}
        {/* It is hidden, not removed, so that its picture and answers are still there afterwards. */}
        <div hidden={view !== 'compare'}><CompareView comparison={comparison} row={row} /></div>
        {view !== 'compare' && <LazyView key={view} view={view} comparison={comparison} row={row} />}
      </main>
      <Footnotes view={view} />
    </>
  );
}

function Masthead({ view }: { view: View }) {
  return (
    <header class="masthead">
      <div>
        <h1>Rosetta Serve</h1>
        <p>{text().tagline}</p>
      </div>
      <label class="language">
        <span>{text().language}</span>
        <select value={currentLanguage()} onChange={({ currentTarget }) => setLanguage(currentTarget.value as Language)}>
          {Object.entries(LANGUAGES).map(([id, name]) => <option key={id} value={id} lang={id}>{name}</option>)}
        </select>
      </label>
      <nav class="views" aria-label="Rosetta Serve">
        {Object.keys(VIEWS).map((name) => (
          <a key={name} href={`#${name}`} aria-current={view === name ? 'page' : undefined}>{text().views[name as View]}</a>
        ))}
      </nav>
    </header>
  );
}

function LazyView({ view, ...props }: ViewProps & { view: View }) {
  const [Part, setPart] = useState<ComponentType<ViewProps> | null>(null);
  const [problem, setProblem] = useState('');
  useEffect(() => void VIEWS[view]().then((part) => setPart(() => part), async () => setProblem(await whyNoCode())), []);
  if (problem) return <p class="notice" role="alert">{problem}</p>;
  return Part && <Part {...props} />;
}

function useAddress(): [View, string] {
  const [hash, setHash] = useState(location.hash);
  // It listens before the page is seen: an address that changes sooner would be lost.
  useLayoutEffect(() => {
    const listen = () => {
      if (location.hash.startsWith('#compare?')) location.reload(); // a link from elsewhere, with a picture and rows of its own
      setHash(location.hash);
    };
    addEventListener('hashchange', listen);
    return () => removeEventListener('hashchange', listen);
  }, []);
  const { view, row } = parseAddress(hash);
  return [view in VIEWS ? (view as View) : 'compare', row];
}

/** Add the rows, then keep what the page needs without the server. */
async function begin(comparison: Comparison, onProblem: (problem: string) => void): Promise<void> {
  for (let problem; (problem = await problemOf(comparison)); await sleep(RETRY_MS)) onProblem(problem);
  onProblem('');
  if (!isIdle) void watchServer(comparison, onProblem);
  await watched;
  await comparison.finished(); // what follows would be in its times
  await Promise.allSettled([keepEarlierFiles(), ...Object.values(VIEWS).map((load) => load())]);
  document.documentElement.dataset.kept = 'true';
}

/** Say that the server is gone, and take it back when it has returned. */
async function watchServer(comparison: Comparison, onProblem: (problem: string) => void): Promise<void> {
  for (let isGone = false; ; await sleep(isGone ? RETRY_MS : WATCH_MS)) {
    if (document.hidden) continue;
    const isThere = await isAlive();
    onProblem(isThere ? '' : text().offline);
    if (isThere && isGone) void comparison.serverReturned();
    isGone = !isThere;
  }
}

/** Run the task at once, and then once in a while as long as it is asked for. */
function paced(task: () => void): () => void {
  let isPlanned = false;
  let last = -Infinity;
  const run = () => {
    [isPlanned, last] = [false, performance.now()];
    task();
  };
  return () => {
    if (isPlanned) return;
    const wait = last + ROWS_MS - performance.now();
    if (wait <= 0) return run();
    isPlanned = true;
    setTimeout(run, wait);
  };
}

/** What changes together is drawn once; a hidden tab draws nothing, and is asked now and then. */
function onceAFrame(task: () => void): () => void {
  let isPlanned = false;
  const run = () => {
    if (!isPlanned) return;
    isPlanned = false;
    task();
  };
  return () => {
    if (isPlanned) return;
    isPlanned = true;
    requestAnimationFrame(run);
    setTimeout(run, HIDDEN_MS);
  };
}

function sleep(ms: number): Promise<void> {
  return new Promise((done) => setTimeout(done, ms));
}

/** Why the page has no rows, or no server; empty where it has both. */
async function problemOf(comparison: Comparison): Promise<string> {
  try {
    if (!comparison.rows.length) await comparison.addRows(await listServed(), parseAddress(location.hash).shared);
    document.documentElement.dataset.ready = 'true';
    return (await isAlive()) ? '' : text().offline;
  } catch (error) {
    return messageOf(error);
  }
}

type Missing = 'noWebGl' | 'noWebGpu' | 'noThreads';

async function findMissing(): Promise<Missing[]> {
  const present: Record<Missing, boolean> =
    { noWebGl: await hasWebGl(), noWebGpu: await hasWebGpu(), noThreads: crossOriginIsolated };
  return (Object.keys(present) as Missing[]).filter((name) => !present[name]);
}

function Footnotes({ view }: { view: View }) {
  const [missing, setMissing] = useState<Missing[]>([]);
  useEffect(() => void findMissing().then(setMissing), []);
  return (
    <footer>
      {view === 'compare' && <><p>{text().footDifference}</p><p>{text().footTime}</p></>}
      {crossOriginIsolated && <p>{text().footThreads(navigator.hardwareConcurrency)}</p>}
      {missing.length > 0 && <p data-testid="missing">{text().missing(missing.map((name) => text()[name]).join(', '))}</p>}
    </footer>
  );
}
