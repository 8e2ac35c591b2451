/** Recording a voice message. */

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
