"""Language models as Flax modules, and their weights in and out."""
