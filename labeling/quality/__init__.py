"""Quality of a dataset, as people judge a stratified sample of it (Table 6)."""
