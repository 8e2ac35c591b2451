/**
 * Making pictures smaller before they are uploaded, in the browser.
 *
 * Invariant: what is given back is a picture that the server takes, or the file as it was. Animations stay as they are.
 */

/** How pictures are made smaller. */
export interface ImageScaling {
  /** Longest edge, in pixels. */
  readonly longestEdge: number;
  /** Quality of what is encoded anew, from 0 to 1. */
  readonly quality: number;
  /** Pictures of at most so many bytes whose edges are short enough stay as they are. */
  readonly keepBelowBytes: number;
}

export const DEFAULT_SCALING: ImageScaling = { longestEdge: 2_560, quality: 0.85, keepBelowBytes: 1024 * 1024 };

/** Types that are encoded anew, and as what. HEIC only decodes on Apple's devices; elsewhere it stays a file. */
const ENCODED_AS: Record<string, string> = {
  "image/jpeg": "image/jpeg",
  "image/heic": "image/jpeg",
  "image/heif": "image/jpeg",
  "image/png": "image/webp",
  "image/webp": "image/webp",
};
const ENDINGS: Record<string, string> = { "image/jpeg": "jpg", "image/webp": "webp", "image/png": "png" };

export interface NamedBlob {
  readonly blob: Blob;
  readonly fileName: string;
}

/** The picture made smaller; the same when it is small enough, is none, or cannot be decoded here. */
export async function scaled(file: NamedBlob, scaling: ImageScaling): Promise<NamedBlob> {
  const { blob, fileName } = file;
  const type = ENCODED_AS[blob.type];
  if (type === undefined || typeof createImageBitmap === "undefined" || typeof OffscreenCanvas === "undefined") return file;
  try {
    const bitmap = await createImageBitmap(blob, { imageOrientation: "from-image" });
    const { width, height } = fitting(bitmap, scaling.longestEdge);
    const fits = width === bitmap.width && height === bitmap.height && ENDINGS[blob.type] !== undefined;
    if (fits && blob.size <= scaling.keepBelowBytes) {
      bitmap.close();
      return file;
    }
    const canvas = new OffscreenCanvas(width, height);
    canvas.getContext("2d")?.drawImage(bitmap, 0, 0, width, height);
    bitmap.close();
    const smaller = await canvas.convertToBlob({ type, quality: scaling.quality });
    if (fits && smaller.size >= blob.size) return file;
    const stem = fileName.replace(/\.[^.]*$/, "");
    return { blob: smaller, fileName: `${stem}.${ENDINGS[smaller.type] ?? "img"}` };
  } catch {
    return file; // it is uploaded as it is, and the server says what is wrong with it
  }
}

/** At most `longest` at its longest edge, with the same proportions. */
export function fitting({ width, height }: { width: number; height: number }, longest: number): { width: number; height: number } {
  const factor = Math.min(1, longest / Math.max(width, height));
  return { width: Math.max(1, Math.round(width * factor)), height: Math.max(1, Math.round(height * factor)) };
}
