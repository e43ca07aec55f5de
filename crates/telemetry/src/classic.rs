//! Text 0.0.4 from OpenMetrics 1.0 text. They differ in this: the classic `TYPE` and `HELP` of a counter name the
//! sample (`x_total`), there is no `UNIT`, no `# EOF`, no exemplar, and `info` and `unknown` are `gauge` and `untyped`.

/// Translates what `prometheus_client` writes.
pub(crate) fn from_open_metrics(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // HELP comes before TYPE, and its name depends on the type: it waits.
    let mut help: Option<(&str, &str)> = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = Some(rest.split_once(' ').unwrap_or((rest, "")));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "untyped"));
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                other => ("", other),
            };
            if let Some((_, text)) = help.take() {
                out.push_str(&format!("# HELP {name}{suffix} {text}\n"));
            }
            out.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            out.push_str(&line[..sample_end(line)]);
            out.push('\n');
        }
    }
    out
}

/// Where a sample ends and its exemplar begins: at the first ` # ` outside the quotes of label values.
fn sample_end(line: &str) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in line.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'#' if !quoted => return line[..at].trim_end().len(),
            _ => {}
        }
    }
    line.len()
}

#[cfg(test)]
mod tests {
    use prometheus_client::{
        encoding::text::encode,
        metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
        registry::{Registry, Unit},
    };

    use super::*;

    #[test]
    fn every_kind_of_metric_is_translated() {
        let mut registry = Registry::default();
        let counter = Counter::<u64>::default();
        counter.inc_by(3);
        registry.register("ws_connections", "Connections", counter);
        let errors = Family::<[(&'static str, &'static str); 1], Counter>::default();
        errors.get_or_create(&[("code", "A } # B")]).inc();
        registry.register("ws_errors", "Errors by code", errors);
        registry.register("active", "Now", Gauge::<i64>::default());
        let histogram = Histogram::new([1.0, 2.0]);
        histogram.observe(1.5);
        registry.register_with_unit("latency", "Latency", Unit::Seconds, histogram);
        registry.register("build", "Build", Info::new([("version", "1")]));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        insta::assert_snapshot!(from_open_metrics(&text), @r#"
        # HELP ws_connections_total Connections.
        # TYPE ws_connections_total counter
        ws_connections_total 3
        # HELP ws_errors_total Errors by code.
        # TYPE ws_errors_total counter
        ws_errors_total{code="A } # B"} 1
        # HELP active Now.
        # TYPE active gauge
        active 0
        # HELP latency_seconds Latency.
        # TYPE latency_seconds histogram
        latency_seconds_sum 1.5
        latency_seconds_count 1
        latency_seconds_bucket{le="1.0"} 0
        latency_seconds_bucket{le="2.0"} 1
        latency_seconds_bucket{le="+Inf"} 1
        # HELP build_info Build.
        # TYPE build_info gauge
        build_info{version="1"} 1
        "#);
    }

    #[test]
    fn exemplars_are_dropped() {
        let line = "latency_bucket{le=\"2.0\"} 1 # {trace_id=\"ab\"} 1.5 1.0\nplain_total 3 # {trace_id=\"ab\"} 1.0\n";
        assert_eq!(from_open_metrics(line), "latency_bucket{le=\"2.0\"} 1\nplain_total 3\n");
    }
}
