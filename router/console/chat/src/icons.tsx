/** Icons, drawn here: 20 × 20, in the colour of the text. */
import type { ComponentChildren } from "preact";

function Icon({ children }: { children: ComponentChildren }) {
  return (
    <svg
      class="icon"
      viewBox="0 0 20 20"
      width="20"
      height="20"
      fill="none"
      stroke="currentColor"
      stroke-width="1.6"
      stroke-linecap="round"
      stroke-linejoin="round"
      aria-hidden="true"
    >
      {children}
    </svg>
  );
}

export const Back = () => (
  <Icon>
    <path d="M12 4.5 6.5 10l5.5 5.5" />
  </Icon>
);
export const Close = () => (
  <Icon>
    <path d="m5.5 5.5 9 9m0-9-9 9" />
  </Icon>
);
export const Find = () => (
  <Icon>
    <circle cx="8.8" cy="8.8" r="4.8" />
    <path d="m12.4 12.4 4 4" />
  </Icon>
);
export const Down = () => (
  <Icon>
    <path d="M10 4v11.5m-4.5-4.5L10 15.5l4.5-4.5" />
  </Icon>
);
export const Reply = () => (
  <Icon>
    <path d="M8 5 3.5 9.5 8 14m-4.2-4.5H11a5.5 5.5 0 0 1 5.5 5.5v.5" />
  </Icon>
);
export const Smile = () => (
  <Icon>
    <circle cx="10" cy="10" r="6.8" />
    <path d="M7.2 11.6c.6 1 1.6 1.6 2.8 1.6s2.2-.6 2.8-1.6M7.6 8.1v.2m4.8-.2v.2" />
  </Icon>
);
export const Pencil = () => (
  <Icon>
    <path d="M12.8 4.3a1.6 1.6 0 0 1 2.3 0l.6.6a1.6 1.6 0 0 1 0 2.3L7.5 15.4l-3.6.7.7-3.6z" />
  </Icon>
);
export const Bin = () => (
  <Icon>
    <path d="M4 6h12M8 6V4.3h4V6m2.7 0-.6 9.3a.8.8 0 0 1-.8.7H6.7a.8.8 0 0 1-.8-.7L5.3 6" />
  </Icon>
);
export const Clip = () => (
  <Icon>
    <path d="m14.8 9.3-5.3 5.3a3.1 3.1 0 0 1-4.4-4.4l5.9-5.9a2.1 2.1 0 0 1 3 3l-5.8 5.8a1 1 0 0 1-1.5-1.5l5-5" />
  </Icon>
);
export const Mic = () => (
  <Icon>
    <rect x="7.6" y="3" width="4.8" height="8.5" rx="2.4" />
    <path d="M4.8 9.5a5.2 5.2 0 0 0 10.4 0M10 14.7V17" />
  </Icon>
);
export const Send = () => (
  <Icon>
    <path d="M10 16V4.5M5.3 9.2 10 4.5l4.7 4.7" />
  </Icon>
);
export const Play = () => (
  <Icon>
    <path d="M7 5v10l8-5z" fill="currentColor" />
  </Icon>
);
export const Pause = () => (
  <Icon>
    <path d="M7.5 5.5v9m5-9v9" stroke-width="2.4" />
  </Icon>
);
export const File = () => (
  <Icon>
    <path d="M11.5 3H6.3A1.3 1.3 0 0 0 5 4.3v11.4A1.3 1.3 0 0 0 6.3 17h7.4a1.3 1.3 0 0 0 1.3-1.3V6.5zm0 0v3.5H15" />
  </Icon>
);
export const Columns = () => (
  <Icon>
    <rect x="3" y="4" width="14" height="12" rx="2" />
    <path d="M10 4v12" />
  </Icon>
);
export const Leave = () => (
  <Icon>
    <path d="M8 4H5.5A1.5 1.5 0 0 0 4 5.5v9A1.5 1.5 0 0 0 5.5 16H8m4.5-3 3-3-3-3m3 3H8" />
  </Icon>
);
export const Pin = () => (
  <Icon>
    <path d="m12 3.5 4.5 4.5-2 .5-2.7 2.7-.3 3L6.8 9.5l3-.3L12 6.5zM9 12l-4.5 4" />
  </Icon>
);

/** The page's own sign. */
export const Logo = ({ size }: { size: number }) => (
  <svg viewBox="0 0 32 32" width={size} height={size} aria-hidden="true">
    <rect width="32" height="32" rx="9" fill="#4353d0" />
    <path d="M9 10.5h14M9 16h9M9 21.5h8" stroke="#fff" stroke-width="2.6" stroke-linecap="round" />
    <path d="M23 25v-7m-3 3 3-3 3 3" stroke="#b9c1ff" stroke-width="2.2" fill="none" stroke-linecap="round" stroke-linejoin="round" />
  </svg>
);

/** How far an own message has come. */
export function Ticks({ state }: { state: "sending" | "failed" | "sent" | "delivered" | "read" }) {
  const words = { sending: "being sent", failed: "not sent", sent: "sent", delivered: "delivered", read: "read" };
  return (
    <svg
      class={`ticks ${state}`}
      viewBox="0 0 18 12"
      width="18"
      height="12"
      fill="none"
      stroke="currentColor"
      stroke-width="1.5"
      stroke-linecap="round"
      stroke-linejoin="round"
      role="img"
      aria-label={words[state]}
    >
      {state === "sending" && (
        <>
          <circle cx="12" cy="6" r="4.5" />
          <path d="M12 3.5V6l1.7 1" />
        </>
      )}
      {state === "failed" && (
        <>
          <circle cx="12" cy="6" r="4.5" />
          <path d="M12 3.6v2.8m0 1.7v.1" />
        </>
      )}
      {state === "sent" && <path d="m7 6.5 2.8 2.8L15.5 3" />}
      {(state === "delivered" || state === "read") && <path d="m2 6.5 2.8 2.8L10.5 3M8.8 9.3 14.5 3" />}
    </svg>
  );
}
