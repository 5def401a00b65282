"""The coding benchmarks: data, sandboxed calls, comparison."""
