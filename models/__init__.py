"""Networks: definitions, runtimes, export and training."""
