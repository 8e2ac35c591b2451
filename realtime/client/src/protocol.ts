/**
 * The frames of the real-time protocol. The data of each command and event, and their tables `Commands` and `ServerEvents`,
 * are made from the server's own documents (`types.gen.ts`).
 */
import type { Commands, Failure, Status } from "./types.gen.js";

/** A status that a user can choose; `idle` comes by itself. */
export type OwnStatus = Exclude<Status, "idle">;

/** The commands of an open session: `authenticate` is the first frame, before there is one. */
export type CommandName = Exclude<keyof Commands, "authenticate">;
export type CommandData<Name extends CommandName> = Commands[Name][0];
export type CommandAnswer<Name extends CommandName> = Commands[Name][1];

/** A frame that came in. */
export interface InFrame {
  event?: string;
  ack?: number;
  data?: unknown;
  error?: Failure;
}
