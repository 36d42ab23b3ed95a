"""What each small network is trained on, and by which loss; `miniature.train` has the loop."""
