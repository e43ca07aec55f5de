//! Listeners, transports, the pipeline, the admin API.
