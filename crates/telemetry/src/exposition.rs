use std::{fmt, sync::Arc};

use prometheus_client::{encoding::text, registry::Registry};

use crate::{classic, process::ProcessCollector};

/// An exposition format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text 0.0.4.
    Classic,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// Chooses by the `Accept` header: OpenMetrics for those who ask for it by name, else the classic text.
    #[must_use]
    pub fn accepted(accept: Option<&str>) -> Self {
        if accept.is_some_and(|accept| accept.contains("application/openmetrics-text")) {
            Self::OpenMetrics
        } else {
            Self::Classic
        }
    }

    /// The `Content-Type`.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Renders a registry. Clones share it.
#[derive(Clone)]
pub struct Exposition {
    registry: Arc<Registry>,
}

impl fmt::Debug for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exposition").finish_non_exhaustive()
    }
}

impl Exposition {
    /// Takes the complete registry and adds the process's own readings.
    #[must_use]
    pub fn new(mut registry: Registry) -> Self {
        registry.register_collector(Box::new(ProcessCollector::default()));
        Self { registry: Arc::new(registry) }
    }

    /// The current values as text.
    #[must_use]
    pub fn render(&self, format: Format) -> String {
        let mut body = String::with_capacity(32 * 1024);
        text::encode(&mut body, &self.registry).expect("writing to a String cannot fail");
        match format {
            Format::OpenMetrics => body,
            Format::Classic => classic::from_open_metrics(&body),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_header_chooses() {
        assert_eq!(Format::accepted(None), Format::Classic);
        assert_eq!(Format::accepted(Some("text/plain;version=0.0.4")), Format::Classic);
        let prometheus = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::accepted(Some(prometheus)), Format::OpenMetrics);
    }
}
