/** What a token does: getting one, its life, and what happens when it is refused. */
import { describe, expect, test, vi } from "vitest";
import { tokenOf } from "./server/hub.js";
import { commands, connected, pass, setup, useFakeTime } from "./setup.js";

useFakeTime();

const HOUR = 3_600_000;
const fresh = (serial: number) => tokenOf("alice", Date.now() + HOUR, serial);

describe("a refused token", () => {
  test.each([4500, 4501, 4502])("is replaced by a new one (%i)", async (code) => {
    const tokens = [fresh(0), fresh(1)];
    const token = vi.fn(async () => tokens.shift()!);
    const [first] = tokens;
    const { client, hub } = await connected({ token });
    hub.refused.set(first!, code);
    hub.closeAll(4001);
    await pass(10_000);
    expect(client.connection.get().state).toBe("connected");
    expect(token).toHaveBeenCalledTimes(2);
  });

  test("that a refresh brought is not used again", async () => {
    let serial = 0;
    const token = vi.fn(async () => tokenOf("alice", Date.now() + 60_000, serial++));
    const { client, hub } = await connected({ token });
    await pass(31_000); // the second came by `refresh_token`
    expect(token).toHaveBeenCalledTimes(2);
    hub.closeAll(4502);
    await pass(2_000);
    expect(token).toHaveBeenCalledTimes(3);
    expect(client.connection.get().state).toBe("connected");
  });

  test("is waited out by a client that was accepted once", async () => {
    const token = vi.fn(async () => fresh(0));
    const { client, hub } = await connected({ token });
    hub.refused.set("*", 4502);
    hub.closeAll(4502);
    await pass(600_000);
    expect(client.connection.get()).toMatchObject({ state: "offline", error: { code: "token_expired" } });
    expect(token.mock.calls.length).toBeLessThan(150);
    hub.refused.clear();
    await pass(30_000);
    expect(client.connection.get()).toMatchObject({ state: "connected", transport: "websocket" });
  });

  test("ends a client that was never accepted, after it asked for a new one once", async () => {
    const token = vi.fn(async () => fresh(0));
    const { client, hub } = setup({ token });
    hub.refused.set("*", 4502);
    const connecting = expect(client.connect()).rejects.toMatchObject({ code: "token_invalid" });
    await pass(60_000);
    await connecting;
    expect(token).toHaveBeenCalledTimes(2);
    expect(hub.logins).toBe(2);
  });

  test("`setToken` wakes a client that was stopped", async () => {
    const { client, hub } = setup({ token: "old" });
    hub.refused.set("old", 4502);
    const connecting = expect(client.connect()).rejects.toMatchObject({ code: "token_invalid" });
    await pass(1_000);
    await connecting;
    expect(client.connection.get().state).toBe("closed");
    client.setToken(fresh(0));
    await pass(1_000);
    expect(client.connection.get().state).toBe("connected");
    await client.close();
    client.setToken(fresh(1));
    await pass(1_000);
    expect(client.connection.get().state, "the application closed it").toBe("closed");
  });
});

describe("a token function", () => {
  test("that hangs is given up and asked again", async () => {
    const token = vi.fn<() => Promise<string>>().mockReturnValueOnce(new Promise(() => undefined)).mockImplementation(async () => fresh(0));
    const { client } = setup({ token });
    void client.connect();
    await pass(9_000);
    expect(client.connection.get().state).not.toBe("connected");
    await pass(2_000);
    expect(client.connection.get().state).toBe("connected");
  });

  test("that hangs does not keep `setToken` from helping", async () => {
    const { client } = setup({ token: () => new Promise<string>(() => undefined) });
    void client.connect();
    await pass(1_000);
    client.setToken(fresh(0));
    await pass(100);
    expect(client.connection.get().state).toBe("connected");
  });

  test("that throws or gives nothing is the same as one that fails", async () => {
    const token = vi
      .fn()
      .mockImplementationOnce(() => {
        throw new Error("not ready");
      })
      .mockImplementationOnce(() => undefined)
      .mockImplementation(async () => fresh(0));
    const { client } = setup({ token });
    void client.connect();
    await pass(3_000);
    expect(client.connection.get().state).toBe("connected");
  });

  test("that gives its token too late serves the next who asks", async () => {
    const token = vi.fn(() => new Promise<string>((resolve) => setTimeout(() => resolve(fresh(0)), 10_050)));
    const { client } = setup({ token });
    void client.connect();
    await pass(11_000);
    expect(client.connection.get().state).toBe("connected");
    expect(token).toHaveBeenCalledTimes(1);
  });

  test("that fails while the connection is open is asked less and less often", async () => {
    const token = vi.fn().mockResolvedValueOnce(tokenOf("alice", Date.now() + 60_000)).mockRejectedValue(new Error("no network"));
    await connected({ token });
    await pass(31_000);
    const asked = token.mock.calls.length;
    await pass(50_000);
    expect(token.mock.calls.length - asked).toBeLessThanOrEqual(4);
  });
});

describe("a clock that is wrong", () => {
  test.each([3, -3])("changes nothing of a token's life (%i h)", async (hours) => {
    const token = vi.fn(async () => tokenOf("alice", hub.now() + HOUR));
    const { hub, client } = setup({ token });
    hub.now = () => Date.now() - hours * HOUR;
    void client.connect();
    await pass(50 * 60_000);
    expect(token).toHaveBeenCalledTimes(1);
    await pass(11 * 60_000);
    expect(token).toHaveBeenCalledTimes(2);
    expect(hub.logins).toBe(1);
    expect(client.connection.get().transport).toBe("websocket");
  });

  test("that is set back holds nothing up", async () => {
    const { hub, client, view } = await connected();
    hub.of("alice")[0]!.emit("reconnect", { afterMs: 5_000 });
    await pass(10);
    vi.setSystemTime(Date.now() - 3 * HOUR);
    hub.closeAll(4000);
    await pass(6_000);
    expect(client.connection.get().state).toBe("connected");
    view.send("after it");
    await pass(1_000);
    expect(commands(hub, "send_message")).toHaveLength(1);
  });
});
