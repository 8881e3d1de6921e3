/** Saving what the page made as a file. */

export function saveText(content: string, name: string, type: string): void {
  save(new Blob([content], { type }), name);
}

export function save(content: Blob, name: string): void {
  const url = URL.createObjectURL(content);
  Object.assign(document.createElement('a'), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
