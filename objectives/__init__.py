"""Everything that knows a denominator: losses, metrics, optimisers, one objective per training signal, the one step."""
