"""The search: bank, archives, selection, crossover, mutation, aggregation."""
