//! What a job is, who may use it, reservations and metering.
