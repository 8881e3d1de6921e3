/** An artifact's status in the page's language. */

import { text } from './text';

export type PlainStatus = 'source' | 'verified' | 'verified on ordinary inputs' | 'unverified' | 'failed';
/** Of reduced precision, a status names the share of its source's accuracy that an artifact keeps: "verified at 99 %". */
export type Status = PlainStatus | `verified at ${string}`;

/** "99.9 %" of "verified at 99.9 %"; null for another status. */
export function limitOf(status: Status): string | null {
  return /^verified at (.*)$/.exec(status)?.[1] ?? null;
}

export function statusWord(status: Status): string {
  const limit = limitOf(status);
  return limit ? text().statusAt(limit) : text().status[status as PlainStatus];
}

export function statusHelp(status: Status): string {
  const limit = limitOf(status);
  return limit ? text().statusAtHelp(limit) : text().statusHelp[status as PlainStatus];
}
