"""Recipes, one file per model: every key with its number and the reason for it. Numbers only; the code reads them."""
