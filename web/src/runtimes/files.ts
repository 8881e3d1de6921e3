/** An artifact's files, downloaded from the server. */

import { sha256 } from '../digest';
import { bytesAt, type Artifact } from '../server';

/** Download one file. Raises Error unless it has the sha256 that its manifest names. */
export async function fetchFile(artifact: Artifact, file: string): Promise<Uint8Array<ArrayBuffer>> {
  if (artifact.own) return artifact.own.files[file]!;
  const expected = artifact.files[file]?.sha256;
  if (!expected) throw new Error(`${artifact.name} has no file ${file}, only ${Object.keys(artifact.files).join(', ')}.`);
  const bytes = new Uint8Array(await bytesAt(`/artifacts/${artifact.model}/${artifact.format}/${file}`));
  const got = await sha256(bytes);
  if (got === expected) return bytes;
  throw new Error(
    `${file} of ${artifact.name} has sha256 ${got.slice(0, 12)}..., expected ${expected.slice(0, 12)}...: ` +
      'it changed since the page was opened. Load the page again.',
  );
}

/** The name of the only file with one of these endings: converters name it differently. */
export function fileEndingIn(artifact: Artifact, ...endings: string[]): string {
  const name = Object.keys(artifact.files).find((file) => endings.some((ending) => file.endsWith(ending)));
  if (name) return name;
  throw new Error(`${artifact.name} has no ${endings.join(' or ')} file. Export it again with \`make artifacts\`.`);
}

/** The name of the only folder with this ending. */
export function folderEndingIn(artifact: Artifact, ending: string): string {
  const folder = Object.keys(artifact.files).map((file) => file.split('/')[0]!).find((name) => name.endsWith(ending));
  if (folder) return folder;
  throw new Error(`${artifact.name} has no ${ending} folder. Export it again with \`make artifacts\`.`);
}
