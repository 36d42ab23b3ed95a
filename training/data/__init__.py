"""Reading of the dataset's shards into the batches that the network is trained on."""
