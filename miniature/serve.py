"""Serve the miniature world: `python -m miniature.serve`."""

from miniature.world.serve import main

if __name__ == "__main__":
    main()
