import type { Sample, Samples } from '../server';

/** A part of the one picture that holds all of them; older folders of samples have none. */
export function Thumbnail({ samples: { sprite, samples }, sample }: { samples: Samples; sample: Sample }) {
  if (!sprite) return <img src={`/samples/${sample.file}`} alt="" width={28} height={28} />;
  const at = samples.indexOf(sample);
  const [columns, rows] = [sprite.columns, Math.ceil(samples.length / sprite.columns)];
  const share = (place: number, count: number) => `${count > 1 ? (100 * place) / (count - 1) : 0}%`;
  const position = `${share(at % columns, columns)} ${share(Math.floor(at / columns), rows)}`;
  return <span class="sprite" style={{ '--columns': columns, backgroundImage: `url(/samples/${sprite.file})`, backgroundPosition: position }} />;
}
