"""Everything that knows a parameter's name."""
