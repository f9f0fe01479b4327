"""The Hub: what a run says of itself (:mod:`card`), what of it goes up (:mod:`files`), how, and when."""
