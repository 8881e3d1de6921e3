import { useLayoutEffect, useRef } from 'preact/hooks';

import { text } from '../text';

const SIZE = 280;
const PEN = 18;

interface Point {
  x: number;
  y: number;
}

/** The points of one line, in the canvas's own pixels. */
export type Stroke = Point[];

interface Props {
  /** All lines so far. The caller keeps them while another way of input is shown. */
  strokes: { current: Stroke[] };
  onDrawn(picture: Blob): void;
}

/** Ink on white paper. Whenever the pen is lifted, the drawing becomes the picture. */
export function DrawingInput({ strokes, onDrawn }: Props) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const isDown = useRef(false);
  const redraw = () => paint(canvas.current!, strokes.current);
  useLayoutEffect(redraw, []);
  const draw = (event: PointerEvent) => {
    if (!isDown.current) return;
    const scale = SIZE / canvas.current!.clientWidth;
    strokes.current.at(-1)!.push({ x: event.offsetX * scale, y: event.offsetY * scale });
    redraw();
  };
  const press = (event: PointerEvent) => {
    canvas.current!.setPointerCapture(event.pointerId);
    isDown.current = true;
    strokes.current.push([]);
    draw(event);
  };
  const give = () => canvas.current!.toBlob((blob) => blob && onDrawn(blob));
  const lift = () => {
    isDown.current = false;
    give();
  };
  const undo = () => {
    if (!strokes.current.pop()) return;
    redraw();
    give();
  };
  const clear = () => {
    strokes.current = [];
    redraw();
  };
  return (
    <div class="drawing">
      <canvas ref={canvas} width={SIZE} height={SIZE} data-testid="drawing" role="img" aria-label={text().paper}
        onPointerDown={press} onPointerMove={draw} onPointerUp={lift} onPointerCancel={lift} />
      <p class="hint">
        {text().drawHint} <button type="button" onClick={undo}>{text().undo}</button> <button type="button" onClick={clear}>{text().clear}</button>
      </p>
    </div>
  );
}

function paint(canvas: HTMLCanvasElement, strokes: Stroke[]): void {
  const context = canvas.getContext('2d')!;
  context.fillStyle = '#fff';
  context.fillRect(0, 0, SIZE, SIZE);
  Object.assign(context, { lineWidth: PEN, lineCap: 'round', lineJoin: 'round', strokeStyle: '#111' });
  for (const [first, ...others] of strokes) {
    if (!first) continue;
    context.beginPath();
    context.moveTo(first.x, first.y);
    for (const { x, y } of others.length ? others : [first]) context.lineTo(x, y);
    context.stroke();
  }
}
