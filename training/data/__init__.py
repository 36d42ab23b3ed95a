"""From the shards of the dataset to the batches that the network is trained on."""
