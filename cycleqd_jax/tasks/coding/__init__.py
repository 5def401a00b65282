"""What the coding benchmarks are made of: data, sandboxed calls, comparison."""
