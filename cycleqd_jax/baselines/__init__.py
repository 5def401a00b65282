"""What CycleQD is compared with."""
