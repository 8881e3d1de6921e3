import type { ComponentType } from 'preact';
import { useEffect, useReducer, useState } from 'preact/hooks';

import type { Comparison } from '../comparison';
import { messageOf } from '../errors';
import { hasWebGl, hasWebGpu } from '../runtimes';
import { keepEarlierFiles, watched } from '../offline';
import { code, isAlive, listServed } from '../server';
import { currentLanguage, LANGUAGES, onLanguage, setLanguage, text, type Language } from '../text';
import { CompareView } from './CompareView';
import type { ViewProps } from './view';

/** The first view is part of the page; the code of the others is downloaded when they are opened. */
const VIEWS = {
  compare: async () => CompareView,
  race: async () => (await code(import('./RaceView'))).RaceView,
  report: async () => (await code(import('./ReportView'))).ReportView,
  ship: async () => (await code(import('./ShipView'))).ShipView,
} satisfies Record<string, () => Promise<ComponentType<ViewProps>>>;
type View = keyof typeof VIEWS;

const RETRY_MS = 3000;

export function Page({ comparison }: { comparison: Comparison }) {
  const [, redraw] = useReducer((count: number) => count + 1, 0);
  const [problem, setProblem] = useState('');
  const [view, row] = useAddress();

  useEffect(() => comparison.subscribe(() => redraw(undefined)), [comparison]);
  useEffect(() => onLanguage(() => redraw(undefined)), []);
  useEffect(() => void begin(comparison, setProblem), [comparison]);
  document.documentElement.lang = currentLanguage();

  return (
    <>
      <Masthead view={view} />
      <main>
        {problem && <p class="notice" role="alert">{problem}</p>}
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
  useEffect(() => void VIEWS[view]().then((part) => setPart(() => part), (error: unknown) => setProblem(messageOf(error))), []);
  if (problem) return <p class="notice" role="alert">{problem}</p>;
  return Part && <Part {...props} />;
}

function useAddress(): [View, string] {
  const [hash, setHash] = useState(location.hash);
  useEffect(() => {
    const listen = () => setHash(location.hash);
    addEventListener('hashchange', listen);
    return () => removeEventListener('hashchange', listen);
  }, []);
  const [view = '', row = ''] = decoded(hash.slice(1)).split('/');
  return [view in VIEWS ? (view as View) : 'compare', row];
}

/** An address that is not encoded properly, such as `ship/%`, is taken as it is. */
function decoded(hash: string): string {
  try {
    return decodeURIComponent(hash);
  } catch {
    return hash;
  }
}

/** Add the rows, then keep what the page needs without the server. */
async function begin(comparison: Comparison, onProblem: (problem: string) => void): Promise<void> {
  for (let problem; (problem = await problemOf(comparison)); await new Promise((done) => setTimeout(done, RETRY_MS))) {
    onProblem(problem);
  }
  onProblem('');
  await watched;
  await comparison.finished(); // what follows would be in its times
  await Promise.allSettled([keepEarlierFiles(), ...Object.values(VIEWS).map((load) => load())]);
  document.documentElement.dataset.kept = 'true';
}

/** Why the page has no rows, or no server; empty where it has both. */
async function problemOf(comparison: Comparison): Promise<string> {
  try {
    if (!comparison.rows.length) await comparison.addRows(await listServed());
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
