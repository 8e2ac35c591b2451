/** A user's or a conversation's sign: an initial on its colour, and whether the user is there. */
import { memo } from "preact/compat";
import type { Status } from "@backscroll/client";
import { hueOf, nameOf } from "./text.js";

export const Avatar = memo(function Avatar({ id, sign, status }: { id: string; sign?: string; status?: Status | undefined }) {
  return (
    <span class="avatar" style={{ "--hue": String(hueOf(id)) }} aria-hidden="true">
      {sign ?? nameOf(id)[0]?.toUpperCase()}
      {status && status !== "offline" && <i class={`presence ${status}`} />}
    </span>
  );
});
