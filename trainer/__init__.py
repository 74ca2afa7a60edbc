"""What a run needs around the step: checkpoints, lock, logs, evaluation, the loop."""
