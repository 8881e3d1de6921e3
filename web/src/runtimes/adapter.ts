/** The names of graphics adapters, as far as browsers reveal them. */

export async function adapterName(): Promise<string> {
  const adapter = await navigator.gpu.requestAdapter();
  if (!adapter) return 'an unnamed adapter';
  const { vendor, architecture, device, description } = adapter.info;
  return [vendor, architecture, device, description].filter(Boolean).join(' ') || 'an unnamed adapter';
}

export function rendererName(): string {
  const context = new OffscreenCanvas(1, 1).getContext('webgl2');
  const named = context?.getExtension('WEBGL_debug_renderer_info');
  return String(context?.getParameter(named ? named.UNMASKED_RENDERER_WEBGL : context.RENDERER) ?? 'an unnamed adapter');
}
