import { defineConfig } from "vitest/config";

export default defineConfig({
  test: { include: ["test/**/*.test.{ts,tsx}"], exclude: ["test/real.test.ts", "test/machine/**"], testTimeout: 20_000 },
});
