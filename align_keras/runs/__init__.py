"""Training runs, fine-tuning, corpus builds, and exports that are measured."""
