/**
 * Round trips, and what they say about the connection.
 */

/** How well the connection works, for people. */
export type Quality = "excellent" | "good" | "fair" | "poor" | "offline";

/** Up to here, in milliseconds, the smoothed round trip is excellent. */
const EXCELLENT_UP_TO_MS = 100;
/** Up to here it is good. */
const GOOD_UP_TO_MS = 200;
/** Up to here it is fair. */
const FAIR_UP_TO_MS = 600;
/** The weight of a new sample, as in TCP's smoothed round trip time (RFC 6298). */
const NEW_SAMPLE_WEIGHT = 1 / 8;

export class Latency {
  private lastSample: number | undefined;
  private average: number | undefined;

  /** The last round trip in milliseconds. */
  get lastMs(): number | undefined {
    return this.lastSample;
  }

  /** A moving average of the round trips in milliseconds. */
  get smoothedMs(): number | undefined {
    return this.average;
  }

  add(sampleMs: number): void {
    this.lastSample = sampleMs;
    this.average = this.average === undefined ? sampleMs : this.average + (sampleMs - this.average) * NEW_SAMPLE_WEIGHT;
  }

  /** The round trips of another connection say nothing about the next. */
  forget(): void {
    this.lastSample = this.average = undefined;
  }

  /** While connected. The worse of the last and the smoothed round trip counts, so that a sudden stall shows at once. */
  get quality(): Quality {
    const worst = Math.max(this.lastSample ?? 0, this.average ?? 0);
    if (worst <= EXCELLENT_UP_TO_MS) return "excellent";
    if (worst <= GOOD_UP_TO_MS) return "good";
    return worst <= FAIR_UP_TO_MS ? "fair" : "poor";
  }
}
