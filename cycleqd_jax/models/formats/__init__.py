"""Weights and tokenisers in files: Hugging Face folders, GGUF, PEFT."""
