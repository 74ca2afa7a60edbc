"""Fine-tuning tasks: readers of official files, examples to rows of tokens, predictions to answers, official metrics."""
