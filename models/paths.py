"""Parameter paths: names of leaves as strings, first-match rules over them, and splitting a tree by them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax


def path_string(path: tuple) -> str:
  """`layers/attention/query/kernel` from a key path of jax.tree_util."""
  return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def named_leaves(tree: Any) -> dict[str, Any]:
  """{path: leaf} in path order."""
  return {path_string(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def map_named(fn, tree: Any, *rest: Any) -> Any:
  """jax.tree.map whose function gets the path string first."""
  return jax.tree_util.tree_map_with_path(lambda path, *leaves: fn(path_string(path), *leaves), tree, *rest)


def matches(path: str, patterns: Iterable[str]) -> bool:
  """Whether any regular expression is found in the path."""
  return any(re.search(pattern, path) for pattern in patterns)


def split(tree: Mapping[str, Any], patterns: Iterable[str]) -> tuple[dict, dict]:
  """Nested dicts (rest, matched): leaves whose path matches any of `patterns` go to the second."""
  patterns = tuple(patterns)
  rest, matched = {}, {}
  for path, leaf in named_leaves(tree).items():
    _insert(matched if matches(path, patterns) else rest, path, leaf)
  return rest, matched


def merge(*trees: Mapping[str, Any]) -> dict:
  """One nested dict of trees whose leaves are disjoint."""
  merged: dict = {}
  for tree in trees:
    for path, leaf in named_leaves(tree).items():
      _insert(merged, path, leaf)
  return merged


def _insert(tree: dict, path: str, leaf: Any) -> None:
  *parents, name = path.split("/")
  for parent in parents:
    tree = tree.setdefault(parent, {})
  if name in tree:
    raise ValueError(f"parameter {path} stands in two trees that are merged")
  tree[name] = leaf
