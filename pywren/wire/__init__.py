"""What crosses between client and worker: keys, calls, statuses, failures, digests."""
