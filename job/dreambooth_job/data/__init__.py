"""A subject's files become examples: listing -> archive -> decode -> captions, crops, duplicates -> examples.

`listing.classify` tells which objects to fetch, `pictures.read_subject` turns the fetched files into pictures at the
training resolution, `examples` pairs them with words and decides, statelessly, which of them each batch holds.
"""
