/** What the page says, in the reader's language. Messages of the server, of runtimes and of decoders stay as they are. */

import { english, type Text } from './text.en';
import { korean } from './text.ko';

export const LANGUAGES = { en: 'English', ko: '한국어' } as const;
export type Language = keyof typeof LANGUAGES;

const TEXTS: Record<Language, Text> = { en: english, ko: korean };
const KEPT = 'language';

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
    localStorage.setItem(KEPT, wanted);
  } catch { /* a browser that keeps nothing asks again next time */ }
  for (const listener of listeners) listener();
}

export function onLanguage(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function chosen(): Language | null {
  try {
    const kept = localStorage.getItem(KEPT) ?? '';
    return kept in TEXTS ? (kept as Language) : null;
  } catch {
    return null;
  }
}

function preferred(): Language {
  const known = (globalThis.navigator?.languages ?? []).map((name) => name.slice(0, 2)).find((name) => name in TEXTS);
  return (known as Language | undefined) ?? 'en';
}
