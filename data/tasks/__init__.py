"""Fine-tuning tasks: readers of official files, examples to rows, predictions to answers, official metrics."""
