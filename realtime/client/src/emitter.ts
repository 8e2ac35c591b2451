/**
 * Listeners by event name, with the events' types.
 *
 * Invariant: a listener that throws stops neither the others nor the client; its error is reported as the platform
 * reports uncaught ones. Listeners are called in the order they were added, on the caller's stack.
 */

/** Ends a subscription; calling it twice is harmless. */
export type Unsubscribe = () => void;

/** The listener of an event. */
export type Listener<T> = (event: T) => void;

export class Emitter<Events extends object> {
  private readonly listeners = new Map<keyof Events, Set<Listener<never>>>();

  /** Calls `listener` at every `name` from now on. */
  on<Name extends keyof Events>(name: Name, listener: Listener<Events[Name]>): Unsubscribe {
    const ofName = this.listeners.get(name) ?? new Set();
    this.listeners.set(name, ofName);
    ofName.add(listener);
    return () => ofName.delete(listener);
  }

  /** Tells all listeners of `name`. */
  emit<Name extends keyof Events>(name: Name, event: Events[Name]): void {
    for (const listener of [...(this.listeners.get(name) ?? [])] as Listener<Events[Name]>[]) {
      callSafely(() => listener(event));
    }
  }
}

/** A value that notifies its subscribers when it changes, such as a user interface. */
export class Observable<T> {
  private readonly listeners = new Set<() => void>();

  constructor(private current: T) {}

  /** The value now. The same object until it changes. */
  readonly get = (): T => this.current;

  /** Calls `listener` after every change. */
  readonly subscribe = (listener: () => void): Unsubscribe => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  /** Changes the value; setting the same value notifies no subscriber. */
  set(next: T): void {
    if (Object.is(next, this.current)) return;
    this.current = next;
    for (const listener of [...this.listeners]) callSafely(listener);
  }
}

function callSafely(listener: () => void): void {
  try {
    listener();
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}
