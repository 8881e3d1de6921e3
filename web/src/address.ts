/**
 * What the page's address holds: `#view`, `#view/row`, or `#compare?picture=3&models=a,b&where=server&sort=-time&rows=wasm`.
 *
 * A link opens the same view, models, rows and test image. A visitor's own picture is in no link.
 */

export const COLUMNS = ['format', 'where', 'answer', 'time', 'size', 'diff'] as const;
export type Column = (typeof COLUMNS)[number];

/** By which column rows are sorted; null keeps the server's order, with the source first. */
export type Sorting = { column: Column; down: boolean } | null;

/** What a link to the comparison holds. */
export interface Shared {
  /** The index of the test image; null for the first. */
  picture: number | null;
  /** Null for those that are chosen at first. */
  models: string[] | null;
  inBrowser: boolean;
  sorting: Sorting;
  /** Only rows whose names contain this are shown. */
  filter: string;
}

export interface Address {
  view: string;
  row: string;
  shared: Shared;
}

export function parseAddress(hash: string): Address {
  const [path = '', query = ''] = split(hash.replace(/^#/, ''));
  const [view = '', row = ''] = decoded(path).split('/');
  const options = new URLSearchParams(query);
  const picture = options.get('picture');
  return {
    view, row,
    shared: {
      picture: picture !== null && /^\d+$/.test(picture) ? Number(picture) : null,
      models: options.get('models')?.split(',') ?? null,
      inBrowser: options.get('where') !== 'server',
      sorting: sortingOf(options.get('sort') ?? ''),
      filter: options.get('rows') ?? '',
    },
  };
}

/** The part of the address after the `#`. */
export function linkTo({ picture, models, inBrowser, sorting, filter }: Shared): string {
  const options = new URLSearchParams();
  if (picture !== null) options.set('picture', String(picture));
  if (models) options.set('models', models.join(','));
  if (!inBrowser) options.set('where', 'server');
  if (sorting) options.set('sort', `${sorting.down ? '-' : ''}${sorting.column}`);
  if (filter) options.set('rows', filter);
  return `compare?${options}`;
}

/** Only the comparison has options: a name with a question mark is left whole elsewhere. */
function split(hash: string): [string, string] {
  const at = hash.startsWith('compare') ? hash.indexOf('?') : -1;
  return at < 0 ? [hash, ''] : [hash.slice(0, at), hash.slice(at + 1)];
}

function sortingOf(value: string): Sorting {
  const column = COLUMNS.find((name) => name === value.replace(/^-/, ''));
  return column ? { column, down: value.startsWith('-') } : null;
}

/** An address that is not encoded properly, such as `ship/%`, is taken as it is. */
function decoded(hash: string): string {
  try {
    return decodeURIComponent(hash);
  } catch {
    return hash;
  }
}
