/** A sentence in which commands stand between backticks. */
export function Prose({ words }: { words: string }) {
  return <>{words.split('`').map((part, i) => (i % 2 ? <code key={i}>{part}</code> : part))}</>;
}
