//! Cross-origin requests of browsers (the Fetch standard's CORS protocol) to the public listener.
//!
//! Pages of `server.allowed_origins` may read answers: the same list that lets their WebSockets in ([`crate::origin`]),
//! because it is the same question. Credentials in the sense of CORS (cookies, client certificates) are never allowed:
//! tokens are what the node knows, and pages send those themselves. So `*` in the list gives nobody a user's cookies.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, Method, header};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::{App, origin};

/// How long a browser may remember a preflight.
const MAX_AGE: Duration = Duration::from_secs(600);

/// Headers that a page may read, beside those that it always may.
const EXPOSED: [HeaderName; 5] = [
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-receipt-id"),
    HeaderName::from_static("dpop-nonce"),
    header::RETRY_AFTER,
    header::WWW_AUTHENTICATE,
];

/// The layer; it follows the list as it is reloaded.
pub(crate) fn layer(app: &Arc<App>) -> CorsLayer {
    let app = Arc::clone(app);
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, _| origin::is_listed(&app.settings(), origin)))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        // Who may ask is decided by origin. Which headers OpenAI's SDKs send changes with each of their versions.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED)
        .max_age(MAX_AGE)
}
