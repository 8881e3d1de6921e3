/** Arrow keys in a group of which one element at a time can be reached by the tab key. */

const STEPS: Record<string, number> = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

/** Move the focus among the group's elements that match, and give the one that has it then; null for another key. */
export function moveFocus(event: KeyboardEvent, selector: string): HTMLElement | null {
  const all = Array.from((event.currentTarget as Element).querySelectorAll<HTMLElement>(selector));
  const at = all.indexOf(document.activeElement as HTMLElement);
  const to = event.key === 'Home' ? 0 : event.key === 'End' ? all.length - 1 : at + (STEPS[event.key] ?? NaN);
  const target = all[(to + all.length) % all.length];
  if (at < 0 || !target) return null;
  event.preventDefault();
  target.focus();
  return target;
}
