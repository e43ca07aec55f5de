//! Reads `/metrics` in Prometheus' text format, as a scraper would.

/// One scrape.
#[derive(Debug, Clone)]
pub struct Metrics {
    text: String,
}

impl Metrics {
    /// A scrape's text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self { text }
    }

    /// The exposition as it came.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The sum of a metric's series that have all of `labels`; `None` when there is no such series.
    #[must_use]
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let values = self.text.lines().filter_map(|line| value(line, name, labels));
        values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }

    /// As [`Self::get`], 0 where there is no such series.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.get(name, labels).unwrap_or(0.0)
    }

    /// Whether a series, or a `TYPE` of this name, is there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        // The TYPE line of a counter has the name without `_total` in OpenMetrics and with it in the older format.
        let bare = name.strip_suffix("_total").unwrap_or(name);
        let declared = |line: &str| {
            let mut words = line.strip_prefix("# TYPE ").unwrap_or_default().split_whitespace();
            words.next().is_some_and(|word| word == name || word == bare)
        };
        self.get(name, &[]).is_some() || self.text.lines().any(declared)
    }
}

/// The value of a line if it is of this metric and has these labels.
fn value(line: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let (found, value) = match rest.strip_prefix('{') {
        Some(rest) => rest.rsplit_once('}')?,
        None => ("", rest.strip_prefix(' ')?),
    };
    let pairs = format!(",{found},");
    let has = |(key, value): &(&str, &str)| pairs.contains(&format!(",{key}=\"{value}\","));
    labels.iter().all(has).then(|| value.split_whitespace().next()?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_name_and_labels() {
        let metrics = Metrics::new(
            "# TYPE ws_errors counter\nws_errors_total{code=\"A\",x=\"1\"} 2\nws_errors_total{code=\"B\",x=\"1\"} 3\n\
             ws_active_sessions 4\n# TYPE gen_ai_x_seconds histogram\n"
                .into(),
        );
        assert_eq!(metrics.sum("ws_errors_total", &[]), 5.0);
        assert_eq!(metrics.get("ws_errors_total", &[("code", "B"), ("x", "1")]), Some(3.0));
        assert_eq!(metrics.get("ws_errors_total", &[("code", "C")]), None);
        assert_eq!(metrics.get("ws_active", &[]), None);
        assert_eq!(metrics.get("ws_active_sessions", &[]), Some(4.0));
        assert!(metrics.has("gen_ai_x_seconds") && metrics.has("ws_errors_total") && !metrics.has("gen_ai_x"));
    }
}
