"""Draw identity on the host: every random number is a function of a seed, names and counters.

A stream is a 64-bit key made from names; word n of the stream is SplitMix64's finaliser at `key + (n + 1) * golden`.
Because a word depends on nothing but its key and its counter, rows of a batch of 256 equal 256 batches of one, whatever
the order, the host or the number of workers.
"""

from __future__ import annotations

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_HALF_OPEN = 2.0**-53


def key(seed: int, *names: str | int) -> int:
  """The 64-bit key of a stream, from BLAKE2b of the seed and the names (text and numbers never collide)."""
  text = "\x1f".join(f"s:{name}" if isinstance(name, str) else f"i:{int(name)}" for name in (seed, *names))
  return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def mix(words: np.ndarray) -> np.ndarray:
  """SplitMix64's finaliser, element by element, on uint64."""
  return _mix(np.array(words, np.uint64))


def _mix(words: np.ndarray) -> np.ndarray:
  """`mix` in place: an array that nothing else holds."""
  with np.errstate(over="ignore"):
    words ^= words >> np.uint64(30)
    words *= _MIX1
    words ^= words >> np.uint64(27)
    words *= _MIX2
    words ^= words >> np.uint64(31)
  return words


def fold(keys: np.ndarray | int, number: np.ndarray | int) -> np.ndarray:
  """Keys of sub-streams: `keys` with a number (an example id, an epoch) folded in; broadcasts."""
  with np.errstate(over="ignore"):
    return mix(mix(np.asarray(keys, np.uint64) + _GOLDEN) ^ mix(np.asarray(number, np.uint64) + _MIX1))


def words(keys: np.ndarray | int, counters: np.ndarray | int) -> np.ndarray:
  """Word `counters` of each stream: uint64, broadcast over both."""
  with np.errstate(over="ignore"):
    counted = (np.asarray(counters, np.uint64) + np.uint64(1)) * _GOLDEN
    return _mix(np.asarray(np.asarray(keys, np.uint64) + counted))


def uniform(keys: np.ndarray | int, counters: np.ndarray | int) -> np.ndarray:
  """float64 in [0, 1), 53 bits."""
  return (words(keys, counters) >> np.uint64(11)) * _HALF_OPEN


def below(keys: np.ndarray | int, counters: np.ndarray | int, bound: np.ndarray | int) -> np.ndarray:
  """int64 in [0, bound): multiply-shift on the top 32 bits (bias below bound * 2^-32)."""
  return ((words(keys, counters) >> np.uint64(32)) * np.asarray(bound, np.uint64) >> np.uint64(32)).astype(np.int64)


def permutation(seed: int, name: str, epoch: int, size: int) -> np.ndarray:
  """A permutation of range(size), int64, by sorting hashed indices (ties by index)."""
  return np.argsort(words(key(seed, name, epoch), np.arange(size)), kind="stable")


def heads(keys: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """int64: ones among the first `counts` bits of each stream; word n holds bits 64 n and up, the low bit first."""
  total, left, index = np.zeros(len(counts), np.int64), np.array(counts, np.int64), np.arange(len(counts))
  number = 0
  while (index := index[left[index] > 0]).size:
    taken = np.minimum(left[index], 64)
    bits = words(keys[index], number) & (np.uint64(2**64 - 1) >> (64 - taken).astype(np.uint64))
    total[index] += np.bitwise_count(bits)
    left[index] -= taken
    number += 1
  return total
