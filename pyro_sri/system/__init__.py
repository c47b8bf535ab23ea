"""What connects the library to the machine: files, locks, errors, seeds, signals, memory, processes."""
