"""The steps of Fig. 2, each a `Stage`: caption, nouns, detect, segment."""
