"""What everything else runs on: gradients, execution, plugins, counters of work, files that are built once."""
