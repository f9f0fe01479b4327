"""Recognition by transducers that predict tokens and durations (TDT, arXiv:2304.06795)."""
