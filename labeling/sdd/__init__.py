"""The Subject-Diffusion Dataset on disk: row schema, masks, shards, ledger. Depends on pyarrow and numpy only."""
