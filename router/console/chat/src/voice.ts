/** Recording a voice message. */
import { useEffect, useRef, useState } from "preact/hooks";

/** What browsers record and the server takes, the best first. */
const TYPES = ["audio/webm;codecs=opus", "audio/ogg;codecs=opus", "audio/mp4"];
/** The server's bound is two minutes. */
const LONGEST_MS = 119_000;

export class Recorder {
  private readonly chunks: Blob[] = [];
  private readonly startedAt = performance.now();

  private constructor(
    private readonly stream: MediaStream,
    private readonly recorder: MediaRecorder,
  ) {
    recorder.ondataavailable = ({ data }) => this.chunks.push(data);
    recorder.start(1_000);
  }

  static async start(): Promise<Recorder> {
    if (!("mediaDevices" in navigator) || typeof MediaRecorder === "undefined") throw new Error("this browser does not record here");
    const mimeType = TYPES.find((type) => MediaRecorder.isTypeSupported(type));
    if (mimeType === undefined) throw new Error("this browser records nothing that the server takes");
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    return new Recorder(stream, new MediaRecorder(stream, { mimeType, audioBitsPerSecond: 32_000 }));
  }

  get elapsedMs(): number {
    return performance.now() - this.startedAt;
  }

  get tooLong(): boolean {
    return this.elapsedMs > LONGEST_MS;
  }

  async finish(): Promise<Blob> {
    const stopped = new Promise((resolve) => (this.recorder.onstop = resolve));
    this.discard();
    await stopped;
    return new Blob(this.chunks, { type: this.recorder.mimeType.split(";")[0]! });
  }

  discard(): void {
    if (this.recorder.state !== "inactive") this.recorder.stop();
    for (const track of this.stream.getTracks()) track.stop();
  }
}

/** A recording that is being made. */
export function useVoice(made: (blob: Blob) => void, failed: (why: string) => void) {
  const [recorder, setRecorder] = useState<Recorder>();
  const [recordedMs, setRecordedMs] = useState(0);
  const latest = useRef(made);
  latest.current = made;
  useEffect(() => {
    if (!recorder) return;
    const timer = setInterval(() => {
      setRecordedMs(recorder.elapsedMs);
      if (recorder.tooLong) finish();
    }, 200);
    return () => clearInterval(timer);
  }, [recorder]);
  useEffect(() => () => recorder?.discard(), [recorder]);
  const start = () => {
    failed("");
    setRecordedMs(0);
    Recorder.start().then(setRecorder, (error: Error) => failed(`The microphone cannot be used: ${error.message}`));
  };
  const finish = () => {
    setRecorder(undefined);
    void recorder?.finish().then((blob) => latest.current(blob));
  };
  const discard = () => {
    recorder?.discard();
    setRecorder(undefined);
  };
  return { recording: recorder !== undefined, recordedMs, start, finish, discard };
}
