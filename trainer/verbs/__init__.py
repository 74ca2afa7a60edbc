"""What predict.py reads, does and shows. Each verb takes flags and returns a summary."""
