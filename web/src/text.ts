/** The page's texts in the reader's language. Messages of the server, of runtimes and of decoders are not translated. */

import { english, type Text } from './text.en';
import { korean } from './text.ko';

export const LANGUAGES = { en: 'English', ko: '한국어' } as const;
export type Language = keyof typeof LANGUAGES;

const TEXTS: Record<Language, Text> = { en: english, ko: korean };
const STORAGE_KEY = 'language';

let language: Language = chosen() ?? preferred();
const listeners = new Set<() => void>();

export function text(): Text {
  return TEXTS[language];
}

export function currentLanguage(): Language {
  return language;
}

export function setLanguage(wanted: Language): void {
  language = wanted;
  try {
    localStorage.setItem(STORAGE_KEY, wanted);
  } catch { /* a browser that stores nothing: the choice ends with the page */ }
  for (const listener of listeners) listener();
}

export function onLanguage(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function chosen(): Language | null {
  try {
    const kept = localStorage.getItem(STORAGE_KEY) ?? '';
    return kept in TEXTS ? (kept as Language) : null;
  } catch {
    return null;
  }
}

function preferred(): Language {
  const known = (globalThis.navigator?.languages ?? []).map((name) => name.slice(0, 2)).find((name) => name in TEXTS);
  return (known as Language | undefined) ?? 'en';
}
