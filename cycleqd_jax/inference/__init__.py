"""Prompts, KV cache, sampling and the engine that answers."""
