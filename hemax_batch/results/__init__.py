"""What is already done and how it is kept: the results folder, its lock, the journal of regions, durable writes."""
