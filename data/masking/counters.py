"""Counters of an example's stream. i is a position in the example ([CLS] is 0), b the number of a block (0, or 1 for
a second segment), a the number of an attempt.

           i  rank of the unit (token or word) that starts there
    2^32 + i  kind of replacement of the piece, word or span that starts there
    2^33 + i  random token there
    2^34 + i  words of the n-gram that starts there
    2^35 + b  fraction that rounds the budget ("stochastic")
    2^36 + b 2^32 + 4 a + 0 to 3  words of the span, its anchor, whether it is an annotated one instead, and which;
               under the budget "text", 2^36 is the token that is masked where no word fits
    2^37 + i  rank of the mention that starts there
"""

import numpy as np

KIND, REPLACEMENT, NGRAM, BUDGET, ATTEMPT, MENTION = (np.uint64(1 << power) for power in range(32, 38))
BLOCK = np.uint64(1 << 32)  # between the attempts of two blocks
PER_ATTEMPT = 4
