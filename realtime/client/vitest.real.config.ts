import { defineConfig } from "vitest/config";

export default defineConfig({
  test: { include: ["test/real.test.ts"], testTimeout: 30_000, hookTimeout: 30_000 },
});
