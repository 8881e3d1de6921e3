import { useEffect, useRef, useState } from 'preact/hooks';

import { messageOf } from '../errors';
import { text } from '../text';

/** The camera is on only while this is shown. */
export function CameraInput({ onPhoto }: { onPhoto(picture: Blob): void }) {
  const video = useRef<HTMLVideoElement>(null);
  const [problem, setProblem] = useState('');
  useEffect(() => {
    const stream = open();
    stream.then((live) => { if (video.current) video.current.srcObject = live; }, (error: unknown) => setProblem(messageOf(error)));
    return () => void stream.then((live) => live.getTracks().forEach((track) => track.stop()), () => {});
  }, []);
  if (problem) return <p class="notice" role="alert">{text().noCamera(problem)}</p>;
  return (
    <div class="drawing">
      <video ref={video} autoplay muted playsInline aria-label={text().cameraAlt} />
      <p class="hint"><button type="button" onClick={() => photograph(video.current!, onPhoto)}>{text().takePicture}</button></p>
    </div>
  );
}

async function open(): Promise<MediaStream> {
  if (!navigator.mediaDevices) throw new Error(text().cameraNeedsHttps);
  return navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } });
}

function photograph(video: HTMLVideoElement, onPhoto: (picture: Blob) => void): void {
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  if (canvas.width === 0) return; // the first frame has not arrived yet
  canvas.getContext('2d')!.drawImage(video, 0, 0);
  canvas.toBlob((blob) => blob && onPhoto(blob)); // PNG: both sides decode it to the same bytes
}
