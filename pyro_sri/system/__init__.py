"""What stands between the library and the machine: files, locks, errors, seeds, signals, memory, processes."""
