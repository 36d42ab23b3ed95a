"""The rows of Table 3 at the scale of the miniature world."""
