"""What everything else runs on: gradients, counters of work, files that are built once."""
