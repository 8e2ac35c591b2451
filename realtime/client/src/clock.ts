/**
 * Time and ids, as the platform has them.
 *
 * Invariants: waits are counted by a clock that only goes on, so that setting the device's clock changes none of them. An id is
 * random and unique on every platform, also on pages over plain HTTP, which have no `crypto.randomUUID`.
 */

/** Milliseconds since some moment; never goes back. */
export function monotonicMs(): number {
  return performance.now();
}

/** A random UUID (RFC 9562, version 4). */
export function uniqueId(): string {
  if (typeof crypto.randomUUID === "function") return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6]! & 0x0f) | 0x40;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}
