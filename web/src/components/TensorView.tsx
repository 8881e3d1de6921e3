import { useEffect, useRef } from 'preact/hooks';

import type { ModelTensor } from '../comparison';
import { text } from '../text';

/** What the model sees: its input, one square for each value. CSS magnifies it without smoothing. */
export function TensorView({ tensor, isSeenByServer }: { tensor: ModelTensor; isSeenByServer: boolean | null }) {
  const { height, width, channels, fit } = tensor.spec;
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => canvas.current?.getContext('2d')?.putImageData(toImageData(tensor), 0, 0), [tensor]);
  return (
    <figure>
      <canvas ref={canvas} width={width} height={height} class="tensor" role="img"
        aria-label={text().tensorAlt(`${height} × ${width} × ${channels}`)} data-testid="tensor" />
      <figcaption>
        <b>{height} × {width} × {channels}</b> {text().modelSees[fit]}
        {isSeenByServer !== null && (
          <span class={isSeenByServer ? 'same' : 'other'} data-testid="same-tensor">
            {isSeenByServer ? text().sameTensor : text().otherTensor}
          </span>
        )}
      </figcaption>
    </figure>
  );
}

function toImageData({ spec: { height, width, channels }, pixels }: ModelTensor): ImageData {
  const image = new ImageData(width, height);
  for (let pixel = 0; pixel < width * height; pixel++) {
    for (let c = 0; c < 3; c++) image.data[pixel * 4 + c] = pixels[pixel * channels + Math.min(c, channels - 1)]!;
    image.data[pixel * 4 + 3] = 255;
  }
  return image;
}
