import { useEffect, useRef, useState } from 'preact/hooks';

interface Props {
  /** An SVG or a figure of this width in pixels. */
  draw(width: number): Element;
  label: string;
}

/** A plot as wide as its container, redrawn with every render. */
export function Chart({ draw, label }: Props) {
  const frame = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.round(entry!.contentRect.width)));
    observer.observe(frame.current!);
    return () => observer.disconnect();
  }, []);
  useEffect(() => {
    if (width) frame.current!.replaceChildren(draw(width));
  });
  return <div ref={frame} class="chart" role="img" aria-label={label} />;
}
