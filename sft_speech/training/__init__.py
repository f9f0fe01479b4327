"""Training that is exact under any split of the batch: plan of batches, loss, schedules, freezing, memory check."""
