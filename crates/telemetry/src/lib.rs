//! Metric registry, exposition formats, log setup.
