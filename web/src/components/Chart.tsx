import { useEffect, useRef, useState } from 'preact/hooks';

interface Props {
  /** An SVG or a figure of this width in pixels. */
  draw(width: number): Element;
  label: string;
}

/** A plot as wide as its container, drawn again for another `draw`. */
export function Chart({ draw, label }: Props) {
  const frame = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.round(entry!.contentRect.width)));
    observer.observe(frame.current!);
    return () => observer.disconnect();
  }, []);
  useEffect(() => {
    if (width) frame.current!.replaceChildren(withoutNames(draw(width)));
  }, [draw, width]);
  return <div ref={frame} class="chart" role="img" aria-label={label} />;
}

/** The plot is one picture with one name: those of its parts, such as "rect", say nothing, and parts may have none. */
function withoutNames(plot: Element): Element {
  for (const part of plot.querySelectorAll('[aria-label], [aria-description]')) {
    part.removeAttribute('aria-label');
    part.removeAttribute('aria-description');
  }
  return plot;
}
