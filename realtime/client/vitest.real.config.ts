import { defineConfig } from "vitest/config";

export default defineConfig({
  test: { include: ["test/real.test.ts", "test/machine/*.test.ts"], maxWorkers: 3, testTimeout: 90_000, hookTimeout: 30_000 },
});
