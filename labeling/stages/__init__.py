"""The stages of Fig. 2, each a `Stage`: captions, nouns, detections, entities."""
