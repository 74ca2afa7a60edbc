"""What fine-tuning adds to a run: what its recipe leaves open, a task's examples, its batches, its end."""
