import { useEffect, useRef } from 'preact/hooks';

import { text } from '../text';

const SIZE = 280;
const PEN = 18;

interface Point {
  x: number;
  y: number;
}

/** Ink on white paper. Whenever the pen is lifted, the drawing becomes the picture. */
export function DrawingInput({ onDrawn }: { onDrawn(picture: Blob): void }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const clear = () => {
    const context = canvas.current!.getContext('2d')!;
    context.fillStyle = '#fff';
    context.fillRect(0, 0, SIZE, SIZE);
  };
  useEffect(clear, []);
  const last = useRef<Point | null>(null);
  const draw = ({ offsetX, offsetY }: PointerEvent) => {
    if (!last.current) return;
    const point = { x: offsetX, y: offsetY };
    stroke(canvas.current!, last.current, point);
    last.current = point;
  };
  const press = (event: PointerEvent) => {
    canvas.current!.setPointerCapture(event.pointerId);
    last.current = { x: event.offsetX, y: event.offsetY };
    draw(event);
  };
  const lift = () => {
    last.current = null;
    canvas.current!.toBlob((blob) => blob && onDrawn(blob));
  };
  return (
    <div class="drawing">
      <canvas ref={canvas} width={SIZE} height={SIZE} data-testid="drawing" role="img" aria-label={text().paper}
        onPointerDown={press} onPointerMove={draw} onPointerUp={lift} onPointerCancel={lift} />
      <p class="hint">{text().drawHint} <button type="button" onClick={clear}>{text().clear}</button></p>
    </div>
  );
}

function stroke(canvas: HTMLCanvasElement, from: Point, to: Point): void {
  const context = canvas.getContext('2d')!;
  const scale = SIZE / canvas.clientWidth;
  context.lineWidth = PEN;
  context.lineCap = 'round';
  context.strokeStyle = '#111';
  context.beginPath();
  context.moveTo(from.x * scale, from.y * scale);
  context.lineTo(to.x * scale, to.y * scale);
  context.stroke();
}
