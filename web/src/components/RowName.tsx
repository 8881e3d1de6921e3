/** A row's name; where it is too long for a line, it goes on at the `@`, and not within a word. */
export function RowName({ id }: { id: string }) {
  const at = id.indexOf('@');
  return at < 0 ? <code>{id}</code> : <code>{id.slice(0, at)}<wbr />{id.slice(at)}</code>;
}
