"""Train a miniature network: `python -m miniature.train`."""

from miniature.training.train import main

if __name__ == "__main__":
    main()
