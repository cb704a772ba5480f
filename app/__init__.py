"""The program: sources, loops, windows and writers; the only place with threads."""
