/**
 * Work that runs once at a time, runs again when asked for meanwhile, and is repeated when it fails for a passing reason.
 *
 * Invariants: a {@link Task.request} is always followed by a run that began after it, unless the task is stopped or the
 * work failed for good. While it is repeated, the reason is told.
 */
import { ChatError } from "./errors.js";
import type { Settings } from "./settings.js";
import { fullJitter, Timer } from "./timer.js";

export class Task {
  private running = false;
  private wanted = false;
  private stopped = false;
  private failures = 0;
  private readonly retry = new Timer();

  constructor(
    private readonly work: () => Promise<void>,
    private readonly settings: Settings,
    /** Called with errors that do not pass by themselves. */
    private readonly failed: (error: ChatError) => void = () => undefined,
    /** Called with why the last run failed and is repeated, and with none once a run succeeded. */
    private readonly troubled: (error: ChatError | undefined) => void = () => undefined,
  ) {}

  /** Nothing runs and nothing is to run. */
  get idle(): boolean {
    return !this.running && !this.retry.running;
  }

  /** Run now, or once more after the present run. */
  request(): void {
    if (this.stopped) return;
    this.wanted = true;
    this.retry.stop();
    if (!this.running) void this.run();
  }

  /** What was asked for is forgotten, and nothing more is taken until {@link restart}. */
  stop(): void {
    this.stopped = true;
    this.wanted = false;
    this.retry.stop();
  }

  /** Takes requests again. */
  restart(): void {
    this.stopped = false;
  }

  private async run(): Promise<void> {
    this.running = true;
    try {
      while (this.wanted) {
        this.wanted = false;
        await this.work();
        if (this.failures > 0) this.troubled(undefined);
        this.failures = 0;
      }
    } catch (thrown) {
      this.fail(ChatError.from(thrown));
    } finally {
      this.running = false;
    }
    if (this.wanted) this.request();
  }

  private fail(error: ChatError): void {
    if (this.stopped || this.wanted) return;
    if (!error.retryable) return this.failed(error);
    const { backoffFirstMs, backoffLastMs } = this.settings.timing;
    const jitterMs = fullJitter(this.failures, backoffFirstMs, backoffLastMs, this.settings.random);
    this.failures += 1;
    this.troubled(error);
    this.retry.start((error.retryAfterMs ?? 0) + jitterMs, () => this.request());
  }
}
