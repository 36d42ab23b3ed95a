"""What a run reports: metrics, throughput and sampled images."""
