"""What a corpus may say about its tokens besides their text: which spans are entities or noun phrases."""

# kind -> the flag of a token that begins such a span; twice the flag, of one that goes on in it
ANNOTATIONS = {"entities": 1, "noun_phrases": 4}
