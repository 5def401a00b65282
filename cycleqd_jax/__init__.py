"""CycleQD in JAX: quality-diversity evolution of experts into one model."""

__version__ = "0.1.0"
