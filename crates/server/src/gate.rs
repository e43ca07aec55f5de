//! The gate before every route: no token in the URL, then what the table of [`pipeline::permissions`] asks for.
//!
//! [`pipeline::permissions`]: crate::pipeline::permissions
//!
//! A handler takes its caller from here ([`Caller`]) and cannot get one elsewhere. A route without a row is closed.

use std::sync::Arc;

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use http::{Extensions, HeaderMap, HeaderValue, Method, header::ALLOW};
use protocol::{ApiError, ErrorCode, RequestId};

use crate::{
    App, credentials, error,
    http::signature,
    pipeline::{
        Authenticated,
        permissions::{self, Access, Row},
    },
};

/// Who sends a request and has the right to. In a request's extensions.
#[derive(Debug, Clone)]
pub(crate) struct Caller(pub(crate) Arc<Authenticated>);

/// The caller of a request that passed the gate.
///
/// # Errors
/// `INTERNAL_ERROR` on a route that the table leaves open: such a handler must not ask.
pub(crate) fn caller(extensions: &Extensions) -> Result<Authenticated, ApiError> {
    extensions.get::<Caller>().map(|Caller(who)| (**who).clone()).ok_or_else(|| {
        tracing::error!("an open route asks for its caller; correct its row in pipeline::permissions");
        ApiError::new(ErrorCode::Internal, "This route is not available.")
    })
}

/// One listener's gate.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    app: Arc<App>,
    table: &'static [(&'static str, &'static str, Access)],
    /// A path that is open beside the table: metrics, where they are configured to be.
    open: Option<Arc<str>>,
}

impl Gate {
    /// The public listener's.
    pub(crate) fn public(app: &Arc<App>) -> Self {
        Self { app: Arc::clone(app), table: permissions::PUBLIC, open: None }
    }

    /// The operators' listener's.
    pub(crate) fn admin(app: &Arc<App>, metrics_endpoint: Option<&str>) -> Self {
        Self { app: Arc::clone(app), table: permissions::ADMIN, open: metrics_endpoint.map(Arc::from) }
    }

    fn row(&self, method: &Method, path: &str) -> Row {
        if self.open.as_deref() == Some(path) && (method == Method::GET || method == Method::HEAD) {
            return Row::Access(Access::Open);
        }
        permissions::route(self.table, method, path)
    }

    async fn admit(&self, access: Access, headers: &HeaderMap) -> Result<Option<Caller>, ApiError> {
        if access == Access::Open {
            return Ok(None);
        }
        let who = self.app.pipeline.authenticate(credentials::bearer(headers)?).await?;
        who.require(access)?;
        Ok(Some(Caller(Arc::new(who))))
    }
}

/// Whether handlers read a body with this method.
fn has_body(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::DELETE | Method::CONNECT)
}

/// Middleware; inside of `request_id::attach`, so that refusals have an id.
pub(crate) async fn enter(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let id = request.extensions().get::<RequestId>().map(ToString::to_string).unwrap_or_default();
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let path = matched.as_ref().map_or("", MatchedPath::as_str);
    if let Err(refusal) = credentials::none_in_url(request.uri()) {
        return error::shaped(path, refusal, id);
    }
    if matched.is_none() {
        return next.run(request).await; // to the fallback, which says that there is no such route
    }
    let access = match gate.row(request.method(), path) {
        Row::Access(access) => access,
        Row::OtherMethods => {
            let refusal = ApiError::new(ErrorCode::MethodNotAllowed, "This route does not take that method.");
            let mut response = error::shaped(path, refusal, id);
            response.headers_mut().insert(ALLOW, gate.allowed(path));
            return response;
        }
        Row::Missing => {
            tracing::error!(route = path, "the route has no row in pipeline::permissions, so it is closed");
            return error::shaped(path, ApiError::new(ErrorCode::NotFound, "There is no such route."), id);
        }
    };
    match gate.admit(access, request.headers()).await {
        Ok(None) => next.run(request).await,
        Ok(Some(caller)) => {
            request.extensions_mut().insert(caller.clone());
            // A body is verified when it was read ([`crate::http::body`]).
            if !has_body(request.method()) {
                let (head, body) = request.into_parts();
                if let Err(refusal) = signature::require(&gate.app, &caller.0, &head, path.starts_with("/admin/")).await
                {
                    return error::shaped(path, refusal, id);
                }
                request = Request::from_parts(head, body);
            }
            next.run(request).await
        }
        Err(refusal) => error::shaped(path, refusal, id),
    }
}

impl Gate {
    /// The methods of a path (RFC 9110 section 10.2.1).
    fn allowed(&self, path: &str) -> HeaderValue {
        let methods: Vec<&str> =
            self.table.iter().filter(|(_, of, _)| *of == path).map(|(method, ..)| *method).collect();
        HeaderValue::from_str(&methods.join(", ")).unwrap_or(HeaderValue::from_static(""))
    }
}
